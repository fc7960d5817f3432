"""The HTTP API: requests become submissions, the engine's answers become JSON and streams."""

from __future__ import annotations

from stateline.api.app import Options, create_app
from stateline.api.auth import Authenticator, KeyAdmin, KeyRecord, Principal

__all__ = ["Authenticator", "KeyAdmin", "KeyRecord", "Options", "Principal", "create_app"]
