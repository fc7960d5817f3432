"""Stores: where sessions live. All keep one contract, ``stateline.ports.Store``."""
