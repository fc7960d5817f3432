"""Hosts of tools: what agents act through."""
