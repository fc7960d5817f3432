"""Handlers, one file a resource. ``api.table`` says which path leads to which."""
