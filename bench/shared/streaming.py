"""One node with many streams open and turns coming in, by a timetable that waits for none of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from bench.durable_systems import ENGINE_OUTPUT_BYTES, MODEL, engine_over, engine_turn
from bench.shared.processes import Values
from bench.stats import percentile
from stateline.core.calls import Finish, ModelDelta, ModelRequest, TextDelta, Usage
from stateline.core.events import TurnRequest
from stateline.core.items import InputText, Message
from stateline.engine import Engine, Submission
from stateline.ports import Deployment
from stateline.stores.postgres import open_postgres

_SLOW = "slowly"
_TOGETHER = 50
_PATIENCE_S = 30.0
_HALF = "x" * (ENGINE_OUTPUT_BYTES // 2)


class Speaker:
    """A ModelClient: to those who ask for it slowly it says the time every `gap_s`, to others all at once.

    The time is that of `time.perf_counter`, so whoever hears it knows how late it is.
    """

    def __init__(self) -> None:
        self.gap_s = 1.0
        self.ended = False
        self._random = Random(1)

    async def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta], None]:
        if self._slow(request):
            # Streams are not in step with each other.
            await asyncio.sleep(self._random.random() * self.gap_s)
            while not self.ended:
                yield [TextDelta(f"{time.perf_counter():.6f} ")]
                await asyncio.sleep(self.gap_s)
        else:
            yield [TextDelta(_HALF)]
            await asyncio.sleep(0.001)
            yield [TextDelta(_HALF)]
        yield [Finish(reason="stop", usage=Usage(input_tokens=1, output_tokens=1))]

    @staticmethod
    def _slow(request: ModelRequest) -> bool:
        last = request.items[-1]
        assert isinstance(last, Message)
        part = last.content[0]
        return isinstance(part, InputText) and part.text == _SLOW

    async def close(self) -> None:
        pass


class Streams:
    """The open streams, and how late their readers heard each word."""

    def __init__(self, engine: Engine, speaker: Speaker) -> None:
        self._engine = engine
        self._speaker = speaker
        self._tasks: list[asyncio.Task[None]] = []
        self.delays_ms: list[float] = []

    async def open(self, count: int, gap_s: float) -> None:
        """Begin `count` responses that are streamed, and wait until each has said something."""
        self._speaker.gap_s = gap_s
        while len(self._tasks) < count:
            more = min(_TOGETHER, count - len(self._tasks))
            self._tasks += await asyncio.gather(*(self._begin() for _ in range(more)))
        await asyncio.sleep(2 * gap_s)

    async def _begin(self) -> asyncio.Task[None]:
        item = Message(id="", role="user", content=(InputText(text=_SLOW),))
        request = TurnRequest(model=MODEL, stream=True)
        accepted = await self._engine.submit(
            Submission(tenant="default", principal="stream", request=request, input=(item,))
        )

        async def read() -> None:
            async for events in self._engine.stream(accepted):
                now_s = time.perf_counter()
                for event in events:
                    if event.type == "response.output_text.delta":
                        said: str = getattr(event, "delta", "")
                        self.delays_ms += [(now_s - float(at)) * 1000 for at in said.split()]

        return asyncio.create_task(read())

    def check(self) -> None:
        """Every stream is still open.

        Raises:
            RuntimeError: some have ended.
        """
        if ended := sum(task.done() for task in self._tasks):
            raise RuntimeError(f"{ended} streams ended early")

    async def close(self) -> None:
        self._speaker.ended = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE_S)


async def timetable(turn: Callable[[int, int], Awaitable[None]], rate: float, seconds: float) -> Values:
    """Begin `rate` turns a second, whatever became of those before; a latency counts from the time of the table."""
    began_s = time.perf_counter()
    ends_s = began_s + seconds
    latencies: list[float] = []
    errors: list[str] = []
    in_time = 0

    async def one(number: int, due_s: float) -> None:
        nonlocal in_time
        try:
            await turn(1, number)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}"[:200])
            return
        now_s = time.perf_counter()
        latencies.append((now_s - due_s) * 1000)
        in_time += now_s <= ends_s

    cpu_s = time.process_time()
    tasks: list[asyncio.Task[None]] = []
    for number in range(round(rate * seconds)):
        due_s = began_s + number / rate
        if (early_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(early_s)
        tasks.append(asyncio.create_task(one(number, due_s)))
    await asyncio.sleep(max(ends_s - time.perf_counter(), 0))
    cpu_s = time.process_time() - cpu_s
    wall_s = time.perf_counter() - began_s
    _, late = await asyncio.wait(tasks, timeout=_PATIENCE_S)
    for task in late:
        task.cancel()
    return {
        "asked_per_s": rate,
        "reached_per_s": in_time / wall_s,
        "unanswered": len(late),
        "errors": len(errors),
        "first_error": errors[0] if errors else "",
        "cpu_share": cpu_s / wall_s,
        "turn_p50_ms": percentile(latencies or [0.0], 0.5),
        "turn_p99_ms": percentile(latencies or [0.0], 0.99),
    }


@asynccontextmanager
async def streaming(options: Values) -> AsyncGenerator[Callable[[Values], Awaitable[Values]]]:
    """Options: `url`, `streams`, `gap_s`. Command: `rate`, `seconds`."""
    store = await open_postgres(options["url"])
    speaker = Speaker()
    engine = engine_over(store, speaker, shared=True)
    await engine.start()
    streams = Streams(engine, speaker)
    await streams.open(options["streams"], options["gap_s"])
    turn = engine_turn(engine, store)
    await turn(0, 0)

    async def obey(command: Values) -> Values:
        streams.delays_ms = []
        found = await timetable(turn, command["rate"], command["seconds"])
        delays = streams.delays_ms or [0.0]
        streams.check()
        return found | {
            "stream_events": len(streams.delays_ms),
            "stream_p50_ms": percentile(delays, 0.5),
            "stream_p99_ms": percentile(delays, 0.99),
        }

    try:
        yield obey
    finally:
        await streams.close()
        await engine.stop(grace_s=1.0)
        await store.close()
