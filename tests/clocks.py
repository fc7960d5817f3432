"""Clocks for tests that need another time than this machine's."""

from __future__ import annotations

from stateline.stores.clock import SystemClock


class Within(SystemClock):
    """The system's clock, moved so that this much of a minute of UTC is left."""

    def __init__(self, left_ms: int = 55_000) -> None:
        self._ahead_ms = 60_000 - left_ms - super().now_ms() % 60_000

    def now_ms(self) -> int:
        return super().now_ms() + self._ahead_ms
