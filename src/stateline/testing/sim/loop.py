"""An event loop whose time is a number: years in seconds, and the same order every time.

Every callback belongs to a ``Host``, by the context that it runs in: one start of a node's process, or
the world around the nodes. A host that died runs nothing any more, wherever its tasks stood; one that
is stalled runs what came meanwhile when it goes on.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

CALLBACKS_MAX = 400_000
"""Callbacks of one run; a run that needs more never comes to rest."""


class Host:
    """Where callbacks run. ``tasks`` are kept, so that a dead host's tasks never run their clean-up."""

    __slots__ = ("alive", "context", "held", "name", "stalled", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stalled = False
        self.held: list[_Entry] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = copy_context()
        self.context.run(HOST.set, self)


HOST: ContextVar[Host] = ContextVar("HOST")


_Entry = tuple[Host, Context, Callable[..., object], tuple[Any, ...]]


class Handle(asyncio.TimerHandle):
    """A callback that may be cancelled. It shares nothing with its base class but the name, to be cheap."""

    __slots__ = ("at", "call", "gone", "inside", "values")

    def __init__(self, call: Callable[..., object], values: tuple[Any, ...], inside: Context, at: float) -> None:
        self.call = call
        self.values = values
        self.inside = inside
        self.at = at
        self.gone = False

    def fire(self) -> None:
        if not self.gone:
            self.call(*self.values)

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self.at

    def __repr__(self) -> str:
        return f"<{self.call!r} at {self.at}>"


class SimLoop(asyncio.BaseEventLoop):
    """No selector, no threads, no clock.

    Attributes:
        tick: counts callbacks; two requests of the same tick were made with no await between.
        halted: set to end ``run`` after the callback that runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tick = 0
        self.halted = False
        self._now_s = 0.0
        self._soon: deque[_Entry] = deque()
        self._sent = Handle(id, (), copy_context(), 0.0)
        self._later: list[tuple[float, int, Handle]] = []
        self._order = 0

    # -- what asyncio asks of a loop -------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
        if context is not None:
            # Futures and tasks name their context, and never take back what they have called.
            self._soon.append((context[HOST], context, callback, args))
            return self._sent
        handle = Handle(callback, args, copy_context(), 0.0)
        self._soon.append((HOST.get(), handle.inside, handle.fire, ()))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context or copy_context(), when)
        self._order += 1
        heapq.heappush(self._later, (when, self._order, handle))
        return handle

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=str(name or ""), context=context)
        tasks = (context[HOST] if context is not None else HOST.get()).tasks
        if len(tasks) > 1_000:
            tasks[:] = [each for each in tasks if not each.done()]
        tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    # -- hosts --------------------------------------------------------------------------------------

    def spawn(self, host: Host, coro: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """A task of ``host``."""
        return self.create_task(coro, name=name, context=host.context.copy())

    def resume(self, host: Host) -> None:
        """Let a stalled host go on with all that it missed, in the order in which it came."""
        host.stalled = False
        self._soon.extend(host.held)
        host.held = []

    # -- running --------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Until ``halted`` is set; False when nothing is left to run, or too much was."""
        soon, later = self._soon, self._later
        before = asyncio._get_running_loop()  # pyright: ignore[reportAttributeAccessIssue,reportUnknownVariableType,reportUnknownMemberType]
        asyncio._set_running_loop(self)  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType]
        try:
            while not self.halted:
                if self.tick > CALLBACKS_MAX:
                    return False
                if soon:
                    entry = soon.popleft()
                    host, context, call, args = entry
                    if host.alive and not host.stalled:
                        self.tick += 1
                        context.run(call, *args)
                    elif host.stalled:
                        host.held.append(entry)
                elif later:
                    when, _, handle = heapq.heappop(later)
                    if not handle.gone:
                        self._now_s = max(when, self._now_s)
                        soon.append((handle.inside[HOST], handle.inside, handle.fire, ()))
                else:
                    return False
            return True
        finally:
            asyncio._set_running_loop(before)  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType,reportUnknownArgumentType]

    def bury(self, hosts: list[Host]) -> None:
        """Take apart what never ended, without a word, and close the loop."""
        for host in hosts:
            for task in host.tasks:
                if not task.done():
                    task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
                    _end(task)
            host.tasks = []
            host.held = []
        self._soon.clear()
        self._later.clear()
        self.close()


def _end(task: asyncio.Task[Any]) -> None:
    coro = task.get_coro()
    for _ in range(8):
        try:
            coro.close()  # pyright: ignore[reportOptionalMemberAccess,reportUnknownMemberType,reportAttributeAccessIssue]
        except RuntimeError:
            continue  # It waits in its clean-up; the next close ends that too.
        except BaseException:
            return
        else:
            return
