"""What an observer is told of bare calls, metered or not, and of which trace a turn's log lines say they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Generator, Sequence
from decimal import Decimal

import msgspec
import pytest
from tests.engine.conftest import Lab, asking, deployment, logged, user
from tests.engine.test_money import budget, meter

from stateline.core import events as e
from stateline.core.call_spans import BareCall
from stateline.core.calls import ModelParams, ModelRequest, TextDelta
from stateline.core.errors import BadRequest, ModelError
from stateline.core.ids import digest
from stateline.core.limits import RELAY_RETRIES_MAX
from stateline.core.session import Session
from stateline.core.spans import trace_id, turn_span_id
from stateline.engine import Engine, current_trace
from stateline.engine.correlation import leave
from stateline.engine.meter import Meter
from stateline.logs import JsonLines
from stateline.ports import BudgetExceeded
from stateline.testing.scripted import Answer, Gate, echo

TRACE = "0123456789abcdef0123456789abcdef"
CALLER = f"00-{TRACE}-0123456789abcdef-01"
PAIR = (deployment("a"), deployment("b"))


def bare(model: str = "m", *, stream: bool = True) -> ModelRequest:
    return ModelRequest(params=ModelParams(model=model), items=(user("go"),), key="", stream=stream)


async def relayed(engine: Engine, request: ModelRequest | None = None, *, leave_after: int = 99) -> str:
    """What is said until its end, or until the caller leaves after some batches."""
    said = ""
    batches = engine.relay("default", "anonymous", request or bare(), traceparent=CALLER)
    async with contextlib.aclosing(batches):
        async for deltas in batches:
            said += "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
            leave_after -= 1
            if not leave_after:
                break
    return said


def unheard(before: Session, events: Sequence[e.Event]) -> None:
    """An observer of turns that does nothing."""


def observed(engine: Engine) -> list[BareCall]:
    calls: list[BareCall] = []
    engine.trace(unheard, calls.append)
    return calls


@pytest.mark.parametrize("metered", [False, True], ids=["unmetered", "metered"])
async def test_each_try_of_a_bare_call_is_told_with_what_became_of_it(lab: Lab, metered: bool) -> None:
    lab.script({"a": Answer(status=503, error_code="overloaded"), "b": Answer(text="other words")})
    paid = meter(budget("100"), names=("a", "b")) if metered else None
    async with lab.engine(deployments=PAIR, meter=paid) as engine:
        calls = observed(engine)
        assert await relayed(engine) == "other words"
        assert current_trace() == calls[0].trace
        (call,) = calls
    assert (call.trace[0], call.code, call.interface, call.model) == (TRACE, None, "chat", "m")
    assert [(one.deployment, one.code, one.reason) for one in call.tries] == [
        ("a", "upstream_error", None),
        ("b", None, "stop"),
    ]
    lost, kept = call.tries
    assert call.began_ms <= lost.began_ms <= lost.ended_ms <= kept.began_ms <= kept.first_ms <= kept.ended_ms
    assert kept.ended_ms <= call.ended_ms
    assert kept.usage is not None
    assert (lost.first_ms, kept.first_ms) == (0, call.first_ms)
    assert b"words" not in msgspec.json.encode(call)


async def test_tries_that_are_made_again_are_told_one_by_one_and_the_call_has_the_last_error(lab: Lab) -> None:
    lab.script(Answer(status=503, error_code="overloaded"))
    async with lab.engine() as engine:
        calls = observed(engine)
        with pytest.raises(ModelError):
            await relayed(engine)
    (call,) = calls
    assert (call.code, len(call.tries)) == ("upstream_error", RELAY_RETRIES_MAX + 1)


async def test_a_caller_that_leaves_cancels_the_call_unless_it_has_heard_the_end(lab: Lab) -> None:
    lab.script(Answer(text="one two three", group=1))
    async with lab.engine() as engine:
        calls = observed(engine)
        await relayed(engine, leave_after=1)
        assert await relayed(engine, leave_after=4) == "one two three"
    first, second = calls
    assert (first.code, first.tries[0].code) == ("cancelled", "cancelled")
    assert (second.code, second.tries[0].code, second.tries[0].reason) == (None, None, "stop")


@pytest.mark.parametrize(
    ("model", "paid", "error", "code"),
    [
        ("nobody", None, BadRequest, "model_not_found"),
        ("m", meter(budget("0.000001")), BudgetExceeded, "insufficient_quota"),
    ],
)
async def test_a_call_that_goes_nowhere_is_told_without_a_try(
    lab: Lab, model: str, paid: Meter | None, error: type[Exception], code: str
) -> None:
    async with lab.engine(meter=paid) as engine:
        calls = observed(engine)
        with pytest.raises(error):
            await relayed(engine, bare(model))
    assert [(call.code, call.tries) for call in calls] == [(code, [])]


async def test_a_defect_is_told_as_one(lab: Lab) -> None:
    def broken(*_: object) -> Answer:
        raise RuntimeError("a defect")

    lab.script(broken)
    async with lab.engine() as engine:
        calls = observed(engine)
        with pytest.raises(RuntimeError):
            await relayed(engine)
    assert calls[0].code == "internal_error"


async def test_where_nobody_observes_there_is_no_trace(lab: Lab) -> None:
    leave()
    lab.script(echo)
    async with lab.engine() as engine:
        assert await relayed(engine) == "go"
        await engine.submit(asking("go"))
        assert current_trace() is None


# -- log lines -----------------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    """The engine's lines, as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, str]] = []
        self.setFormatter(JsonLines(current_trace))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))

    def of(self, text: str) -> dict[str, str]:
        return next(line for line in self.lines if text in line["message"])


@contextlib.contextmanager
def engine_log() -> Generator[Lines]:
    """What the engine logs inside."""
    handler, logger = Lines(), logging.getLogger("stateline.engine")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


async def test_what_is_logged_of_a_turn_says_its_trace_in_the_request_the_worker_and_its_successor(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="one two three", gate=gate))
    leave()
    submission = msgspec.structs.replace(asking("go", background=True), traceparent=CALLER)
    async with lab.engine(kill=True, observe=unheard) as engine:
        accepted = await engine.submit(submission)
        span = turn_span_id(accepted.response_id)
        assert current_trace() == (TRACE, span)
        await logged(engine, accepted.session, "ModelCallStarted", 1)
    leave()
    lab.script(echo)
    with engine_log() as log:
        async with lab.engine(observe=unheard) as engine:
            await engine.wait(accepted, "open-responses")
            assert current_trace() is None
            line = log.of("resuming session")
            assert (line["trace_id"], line["span_id"]) == (TRACE, span)


async def test_what_the_worker_of_a_turn_logs_says_the_trace_of_that_turn(lab: Lab) -> None:
    lab.script(echo)
    leave()

    def observe(before: Session, events: Sequence[e.Event]) -> None:
        # It is told on the worker's task, where all that the worker logs comes from.
        assert events[0].session == before.ref
        for event in events:
            logging.getLogger("stateline.engine").info("%s of %s", type(event.body).__name__, event.session.id)

    with engine_log() as log:
        async with lab.engine(observe=observe) as engine:
            turns = [await engine.submit(asking(text, background=True)) for text in ("one", "two")]
            for turn in turns:
                await engine.wait(turn, "open-responses")
        lines = [log.of(f"TurnCompleted of {turn.session.id}") for turn in turns]
    assert [(line["trace_id"], line["span_id"]) for line in lines] == [
        (trace_id(turn.response_id, ""), turn_span_id(turn.response_id)) for turn in turns
    ]


async def test_what_a_turn_began_and_left_behind_says_its_trace_no_longer_than_it_runs(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="one two", gate=gate))
    leave()
    seen: list[tuple[str, str] | None] = []
    began, ended = asyncio.Event(), asyncio.Event()

    async def connection() -> None:
        seen.append(current_trace())
        began.set()
        await ended.wait()
        seen.append(current_trace())

    tasks: list[asyncio.Task[None]] = []

    def observe(before: Session, events: Sequence[e.Event]) -> None:
        if before.turn is not None and not tasks:
            tasks.append(asyncio.get_running_loop().create_task(connection()))

    async with lab.engine(observe=observe) as engine:
        accepted = await engine.submit(asking("go", background=True))
        gate.step()
        await began.wait()
        gate.open()
        await engine.wait(accepted, "open-responses")
        ended.set()
        await tasks[0]
    assert seen == [(trace_id(accepted.response_id, ""), turn_span_id(accepted.response_id)), None]


# -- readings ------------------------------------------------------------------------------------------------------


async def test_a_budget_that_is_named_by_a_key_or_a_session_is_shown_without_it(lab: Lab) -> None:
    of_key = msgspec.structs.replace(budget("1", key="key_abc"), name="key=key_abc")
    of_session = msgspec.structs.replace(budget("1", session="conv_1"), name="mine")
    async with lab.engine(meter=meter(of_key, of_session)) as engine:
        names = [name for name in (await engine.readings()).gauges if name.startswith("budget_limit")]
    assert [name.partition('",')[0] for name in names] == [
        f'budget_limit{{budget="key={digest(b"key_abc")[:8]}',
        'budget_limit{budget="mine',
    ]


async def test_what_budgets_stand_at_and_lost_leases_are_among_the_readings(lab: Lab) -> None:
    lab.script({"m": Answer(text="an answer")})
    async with lab.engine(meter=meter(budget("100"))) as engine:
        await engine.wait(await engine.submit(asking("go")), "open-responses")
        await engine.lapse()
        readings = await engine.readings()
        labels = '{budget="all",currency="USD"}'
        assert readings.gauges[f"budget_limit{labels}"] == 100
        assert Decimal(str(readings.gauges[f"budget_spent{labels}"])) > 0
        assert readings.gauges[f"budget_held{labels}"] == 0
        assert readings.counters["lease_losses_total"] == 1
        assert readings.counters['events_recorded_total{type="TurnCompleted"}'] == 1
        assert not [name for name in (await engine.readings(budgets=False)).gauges if name.startswith("budget")]
