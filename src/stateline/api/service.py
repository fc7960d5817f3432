"""What the handlers work with."""

from __future__ import annotations

from stateline.api.auth import KeyAdmin, SecretAdmin
from stateline.api.metrics import RequestMetrics
from stateline.api.operator import Operator
from stateline.engine import Engine


class Service:
    """The engine and the server's own state. ``started_at`` is Unix seconds.

    ``keys`` is None without key storage, ``vault`` where none is configured, ``operator`` where nobody takes an
    operator's orders.
    """

    def __init__(
        self,
        engine: Engine,
        keys: KeyAdmin | None,
        metrics: RequestMetrics,
        started_at: int,
        *,
        operator: Operator | None = None,
        vault: SecretAdmin | None = None,
    ) -> None:
        self.engine = engine
        self.keys = keys
        self.operator = operator
        self.vault = vault
        self.metrics = metrics
        self.started_at = started_at
        self.openapi = b""
