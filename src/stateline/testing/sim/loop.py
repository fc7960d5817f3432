"""An event loop whose time is a number: years in seconds, and the same order every time.

Every callback belongs to a ``Host``, by the context that it runs in: one start of a node's process, or
the world around the nodes. A host that died runs nothing any more, wherever its tasks stood; one that
is stalled runs what came meanwhile when it goes on.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, TypeVar

_T = TypeVar("_T")
CALLBACKS_MAX = 400_000
"""Callbacks of one run; a run that needs more never comes to rest."""


class Host:
    """Where callbacks run. ``tasks`` are kept, so that a dead host's tasks never run their clean-up.

    ``runs`` says whether it is alive and does not stand still.
    """

    __slots__ = ("alive", "context", "held", "name", "runs", "stalled", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stalled = False
        self.runs = True
        self.held: list[_Entry] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = copy_context()
        self.context.run(HOST.set, self)

    def die(self) -> None:
        """Run nothing any more."""
        self.alive = self.runs = False
        self.held = []

    def stall(self) -> None:
        """Stand still until ``SimLoop.resume``."""
        self.stalled, self.runs = True, False


HOST: ContextVar[Host] = ContextVar("HOST")


_Entry = tuple[Context, Callable[..., object], tuple[Any, ...]]


class Handle(asyncio.TimerHandle):
    """A callback that may be cancelled. It shares nothing with its base class but the name, to be cheap."""

    __slots__ = ("at", "call", "gone", "values")

    def __init__(self, call: Callable[..., object], values: tuple[Any, ...], at: float) -> None:
        self.call = call
        self.values = values
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
        now_s: the time. Nobody else sets it.
        tick: counts callbacks; two requests of the same tick were made with no await between.
        halted: set to end ``run`` after the callback that runs.
    """

    get_debug = staticmethod(bool)  # pyright: ignore[reportAssignmentType]
    """False. Every future asks, so it is a builtin."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.tick = 0
        self.halted = False
        self._soon: deque[_Entry] = deque()
        self._sent = Handle(id, (), 0.0)
        self._later: list[tuple[float, int, Context | None, Callable[[Any], object], Any]] = []
        """When, the order among those of the same time, and what to call: with no context, outside all hosts."""
        self._order = 0

    # -- what asyncio asks of a loop -------------------------------------------------------------

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
        if context is not None:
            # Futures and tasks name their context, and never take back what they have called.
            self._soon.append((context, callback, args))
            return self._sent
        handle = Handle(callback, args, 0.0)
        self._soon.append((copy_context(), handle.fire, ()))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, self.now_s + delay)
        self._order = order = self._order + 1
        heappush(self._later, (handle.at, order, context or copy_context(), Handle.fire, handle))
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, when)
        self._order = order = self._order + 1
        heappush(self._later, (when, order, context or copy_context(), Handle.fire, handle))
        return handle

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=str(name or ""), context=context)
        tasks = (context[HOST] if context is not None else HOST.get()).tasks
        if len(tasks) > 1_000:
            tasks[:] = [each for each in tasks if not each.done()]
        tasks.append(task)
        return task

    # -- what the world asks of it ----------------------------------------------------------------

    def at(self, when_s: float, call: Callable[[_T], object], value: _T) -> None:
        """Call it then, outside all hosts, whatever becomes of any of them. It cannot be taken back."""
        self._order = order = self._order + 1
        heappush(self._later, (when_s, order, None, call, value))

    def pause(self, seconds: float) -> asyncio.Future[None]:
        """To be awaited at once: ``asyncio.sleep`` without its ways of being cancelled early."""
        wake: asyncio.Future[None] = asyncio.Future(loop=self)
        self._order = order = self._order + 1
        heappush(self._later, (self.now_s + seconds, order, None, ring, wake))
        return wake

    # -- hosts --------------------------------------------------------------------------------------

    def spawn(self, host: Host, coro: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """A task of ``host``."""
        return self.create_task(coro, name=name, context=host.context.copy())

    def resume(self, host: Host) -> None:
        """Let a stalled host go on with all that it missed, in the order in which it came."""
        host.stalled, host.runs = False, host.alive
        self._soon.extend(host.held)
        host.held = []

    # -- running --------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Until ``halted`` is set; False when nothing is left to run, or too much was."""
        soon, later, host_of = self._soon, self._later, HOST
        before = asyncio._get_running_loop()  # pyright: ignore[reportAttributeAccessIssue,reportUnknownVariableType,reportUnknownMemberType]
        asyncio._set_running_loop(self)  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType]
        try:
            while not self.halted:
                self.tick = tick = self.tick + 1
                if tick > CALLBACKS_MAX:
                    return False
                if soon:
                    entry = soon.popleft()
                    context, call, args = entry
                    host = context[host_of]
                    if host.runs:
                        # Handing a tuple on costs thrice what naming its one value does.
                        if len(args) == 1:
                            context.run(call, args[0])
                        else:
                            context.run(call, *args)
                    elif host.alive:
                        host.held.append(entry)
                elif later:
                    when_s, _, context, call, value = heappop(later)
                    if context is not None and value.gone:
                        continue
                    self.now_s = max(self.now_s, when_s)
                    if context is None:
                        call(value)
                    else:
                        soon.append((context, call, (value,)))
                else:
                    return False
            return True
        finally:
            asyncio._set_running_loop(before)  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType,reportUnknownArgumentType]

    def bury(self, hosts: list[Host]) -> None:
        """Take apart what never ended, without a word, and close the loop."""
        with warnings.catch_warnings():
            # What a task begins on its way out is never run.
            warnings.simplefilter("ignore", RuntimeWarning)
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


def ring(wake: asyncio.Future[None]) -> None:
    """Wake who awaits it, if nobody did before."""
    if not wake.done():
        wake.set_result(None)


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
