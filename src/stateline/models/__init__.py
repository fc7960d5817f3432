"""Models: wire formats, clouds, and the local runtime."""

from __future__ import annotations
