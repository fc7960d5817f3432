"""What a worker records of the turn that began with it, for whoever waits for the whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stateline.core import events as e


class Story:
    """The events of one turn, chunks aside."""

    __slots__ = ("_events", "_listeners")

    def __init__(self) -> None:
        self._events: list[e.Event] | None = None
        self._listeners: list[asyncio.Future[list[e.Event] | None]] = []

    def awaited(self) -> asyncio.Future[list[e.Event] | None] | None:
        """What will have been recorded of the running turn, once it has ended.

        None, or a future of None: it did not begin here, or does not end here; its log has it.
        """
        if self._events is None:
            return None
        listener: asyncio.Future[list[e.Event] | None] = asyncio.get_running_loop().create_future()
        self._listeners.append(listener)
        return listener

    def tell(self, events: Sequence[e.Event]) -> None:
        """Keep what was recorded; with the turn's end, tell it."""
        for event in events:
            kind = type(event.body)
            if kind is e.TurnRequested:
                self._events = []
            if self._events is None or kind is e.Chunk:
                continue
            self._events.append(event)
            if kind in e.TERMINAL:
                self.end(self._events)

    def end(self, story: list[e.Event] | None) -> None:
        self._events = None
        for listener in self._listeners:
            if not listener.done():
                listener.set_result(story)
        self._listeners.clear()
