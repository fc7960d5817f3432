"""Stateline: a self-hosted, durable runtime for AI agents."""

from __future__ import annotations

__version__ = "0.1.0"
