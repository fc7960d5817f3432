"""A call that fails at one deployment goes on at the next: what the log, the stream and the answer say of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.engine.conftest import Lab, asking, deployment, kinds, log_of, logged, texts

from stateline.core import events as e
from stateline.core.calls import ModelDelta, ModelParams, ModelRequest, TextDelta
from stateline.core.errors import BadRequest, ModelError, NoDeployment
from stateline.core.items import InputImage, InputText, Message
from stateline.core.limits import CIRCUIT_FAILURES_IN_ROW, NO_DEPLOYMENT_WAIT_MS_MAX, RELAY_RETRIES_MAX, TurnLimits
from stateline.core.placing import Passed
from stateline.core.response import ItemEvent, Response, StreamEvent, TextDeltaEvent
from stateline.core.session import fold, new_session
from stateline.engine import Engine
from stateline.engine.perform import RunningCall
from stateline.testing.scripted import Answer, Gate

DIALECT = "open-responses"
PAIR = (deployment("a"), deployment("b"))
DOWN = Answer(status=503, error_code="overloaded")
BROKEN = [
    Answer(text="half an answer", end="cut", after=2),
    Answer(text="half an answer", end="malformed", after=2),
    DOWN,
]


def started(log: Sequence[e.Event]) -> list[e.ModelCallStarted]:
    return [event.body for event in log if isinstance(event.body, e.ModelCallStarted)]


def failed(log: Sequence[e.Event]) -> list[e.ModelCallFailed]:
    return [event.body for event in log if isinstance(event.body, e.ModelCallFailed)]


async def asked(engine: Engine, text: str = "go", *, stream: bool = True) -> tuple[Response, list[e.Event]]:
    accepted = await engine.submit(asking(text, stream=stream))
    response = await engine.wait(accepted, DIALECT)
    return response, await log_of(engine, accepted.session)


@pytest.mark.parametrize("broken", BROKEN, ids=["cut", "malformed", "refused"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_failed_call_goes_to_the_next_deployment_at_once(lab: Lab, broken: Answer, stream: bool) -> None:
    lab.script({"a": broken, "b": Answer(text="other words")})
    async with lab.engine(deployments=PAIR) as engine:
        response, log = await asked(engine, stream=stream)
        assert response.status == "completed"
        assert texts(response.output) == ["other words"]
        assert "TimerSet" not in kinds(log)
        assert [call.deployment for call in started(log)] == ["a", "b"]
        assert [call.passed for call in started(log)] == [(Passed("b", "behind"),), (Passed("a", "failed"),)]
        assert [end.elsewhere for end in failed(log)] == [True]
        assert response.stateline
        assert response.stateline.deployment == "b"
        assert response.stateline.placement is not None
        assert [(each.deployment, each.why) for each in response.stateline.placement.passed] == [("a", "failed")]


async def test_the_stream_of_a_call_that_moved_is_well_formed_and_keeps_the_new_words_alone(lab: Lab) -> None:
    lab.script(
        {"a": Answer(text="one two three four", end="cut", after=3, delay_ms=5), "b": Answer(text="fresh words")}
    )
    async with lab.engine(deployments=PAIR) as engine:
        accepted = await engine.submit(asking("go"))
        seen: list[StreamEvent] = [event async for events in engine.stream(accepted) for event in events]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        done = [event for event in seen if isinstance(event, ItemEvent) and event.type.endswith("done")]
        statuses = [event.item.status for event in done if isinstance(event.item, Message)]
        assert (statuses, [event.output_index for event in done]) == (["incomplete", "completed"], [0, 1])
        kept = done[1].item.id
        assert done[0].item.id != kept
        said = [event.delta for event in seen if isinstance(event, TextDeltaEvent) and event.item_id == kept]
        assert "".join(said) == "fresh words"


async def test_a_key_that_one_cloud_refuses_does_not_end_the_turn(lab: Lab) -> None:
    lab.script({"a": Answer(status=401, error_code="invalid_api_key"), "b": Answer(text="yes")})
    async with lab.engine(deployments=PAIR) as engine:
        response, _ = await asked(engine)
        assert texts(response.output) == ["yes"]
        # It is not asked again until long after.
        _, log = await asked(engine)
        assert [each[:2] for each in started(log)[0].passed] == [("a", "circuit_open")]


async def test_what_is_the_requests_own_fault_is_not_sent_elsewhere(lab: Lab) -> None:
    lab.script({"a": Answer(status=400, error_code="context_length_exceeded"), "b": Answer(text="never")})
    async with lab.engine(deployments=PAIR) as engine:
        response, log = await asked(engine)
        assert response.error is not None
        assert response.error.code == "upstream_error"
        assert len(started(log)) == 1


async def test_after_all_were_tried_it_waits_and_begins_again_with_the_first(lab: Lab) -> None:
    lab.script({"a": [DOWN, Answer(text="back")], "b": DOWN})
    async with lab.engine(deployments=PAIR) as engine:
        response, log = await asked(engine)
        assert texts(response.output) == ["back"]
        assert [call.deployment for call in started(log)] == ["a", "b", "a"]
        assert [end.elsewhere for end in failed(log)] == [True, False]
        assert kinds(log).count("TimerFired") == 1


async def test_a_round_in_which_one_may_recover_is_followed_by_another_though_the_last_said_never(lab: Lab) -> None:
    lab.script({"a": [DOWN, Answer(text="back")], "b": Answer(status=401, error_code="invalid_api_key")})
    async with lab.engine(deployments=PAIR) as engine:
        response, log = await asked(engine)
        assert texts(response.output) == ["back"]
        assert [(end.elsewhere, end.retryable) for end in failed(log)] == [(True, True), (False, True)]


async def test_where_nobody_may_recover_the_turn_fails_at_once_with_the_last_error(lab: Lab) -> None:
    lab.script(Answer(status=401, error_code="invalid_api_key"))
    async with lab.engine(deployments=PAIR) as engine:
        response, log = await asked(engine)
        assert response.error is not None
        assert response.error.code == "upstream_error"
        assert [call.deployment for call in started(log)] == ["a", "b"]
        assert "TimerSet" not in kinds(log)


async def test_a_deployment_that_fails_too_often_is_left_alone_and_the_record_says_so(lab: Lab) -> None:
    lab.script({"a": DOWN, "b": Answer(text="b")})
    async with lab.engine(deployments=PAIR) as engine:
        for _ in range(CIRCUIT_FAILURES_IN_ROW):
            await asked(engine)
        _, log = await asked(engine)
        (call,) = started(log)
        assert (call.deployment, [each[:2] for each in call.passed]) == ("b", [("a", "circuit_open")])
        assert engine.monitor.seen()["a"][:3] == ("open", 0, CIRCUIT_FAILURES_IN_ROW)


async def test_a_turn_waits_for_a_deployment_that_limits_the_rate_and_then_goes_on(lab: Lab) -> None:
    lab.script(
        {"a": [Answer(status=429, retry_after_s=0.4), Answer(text="now")], "b": Answer(status=429, retry_after_s=60)}
    )
    async with lab.engine(deployments=PAIR) as engine:
        response, _ = await asked(engine)
        # It waited for the first that is free again, not for the last that was asked.
        assert texts(response.output) == ["now"]


async def test_a_turn_that_finds_all_limited_waits_before_its_first_call(lab: Lab) -> None:
    limited = [Answer(status=429, retry_after_s=0.5), Answer(text="now")]
    lab.script({"a": limited, "b": [Answer(status=429, retry_after_s=60)]})
    async with lab.engine(deployments=PAIR) as engine:
        first = await engine.submit(asking("one"))
        await logged(engine, first.session, "TimerSet", 1)
        response, log = await asked(engine, "two")
        assert texts(response.output) == ["now"]
        waited = next(event.body for event in log if isinstance(event.body, e.TimerSet))
        assert {each[:2] for each in waited.passed} == {("a", "rate_limited"), ("b", "rate_limited")}
        assert kinds(log)[:4] == ["SessionCreated", "TurnRequested", "TimerSet", "TimerFired"]
        await engine.wait(first, DIALECT)


async def test_a_wait_that_would_be_the_last_step_ends_the_turn(lab: Lab) -> None:
    lab.script({"a": Answer(status=429, retry_after_s=5), "b": Answer(status=429, retry_after_s=5)})
    async with lab.engine(deployments=PAIR) as engine:
        first = await engine.submit(asking("one", background=True))
        await logged(engine, first.session, "TimerSet", 1)
        engine.configure(engine.catalogue, TurnLimits(steps_max=1))
        response, _ = await asked(engine, "two")
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_steps"
        engine.configure(engine.catalogue, TurnLimits(wall_time_ms_max=2_000))
        response, _ = await asked(engine, "three")
        assert response.error is not None
        assert response.error.code == "no_deployment"
        await engine.cancel("default", first.response_id, DIALECT)


async def test_a_request_is_refused_at_once_where_every_deployment_is_out_for_long(lab: Lab) -> None:
    long_s = NO_DEPLOYMENT_WAIT_MS_MAX / 1000 + 30
    lab.script([Answer(status=429, retry_after_s=long_s)] * 2 + [Answer(text="later")])
    async with lab.engine(deployments=PAIR) as engine:
        first = await engine.submit(asking("one", background=True))
        await logged(engine, first.session, "TimerSet", 1)
        with pytest.raises(NoDeployment) as caught:
            await engine.submit(asking("two"))
        assert caught.value.status == 503
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > NO_DEPLOYMENT_WAIT_MS_MAX / 1000
        assert "a limits the rate" in caught.value.message
        assert "b limits the rate" in caught.value.message
        with pytest.raises(NoDeployment):
            await relayed(engine)
        # Nobody holds a connection for one in the background: it waits.
        waits = await engine.submit(asking("three", background=True))
        await logged(engine, waits.session, "TimerSet", 1)
        for each in (first, waits):
            await engine.cancel("default", each.response_id, DIALECT)


async def test_a_full_deployment_spills_over_to_the_next(lab: Lab) -> None:
    gate = Gate()
    lab.script({"a": Answer(text="a", gate=gate), "b": Answer(text="b")})
    async with lab.engine(deployments=(deployment("a", max_concurrency=1), deployment("b"))) as engine:
        first = await engine.submit(asking("one"))
        await gate.held()
        response, log = await asked(engine, "two")
        assert texts(response.output) == ["b"]
        assert started(log)[0].passed == (Passed("a", "max_concurrency"),)
        gate.open()
        assert texts((await engine.wait(first, DIALECT)).output) == ["a"]
        assert engine.monitor.seen()["a"].in_flight == 0


async def test_an_image_goes_to_a_model_that_sees_and_is_refused_where_there_is_none(lab: Lab) -> None:
    lab.script({"a": Answer(text="a"), "b": Answer(text="b")})
    look = (
        Message(
            id="",
            role="user",
            content=(InputText(text="?"), InputImage(image_url="https://example.org/i")),
        ),
    )
    blind = deployment("a", lacks=frozenset({"images"}))
    async with lab.engine(deployments=(blind, deployment("b"))) as engine:
        accepted = await engine.submit(asking(look))
        assert texts((await engine.wait(accepted, DIALECT)).output) == ["b"]
        assert started(await log_of(engine, accepted.session))[0].passed == (Passed("a", "cannot_carry"),)
        assert texts((await asked(engine))[0].output) == ["a"]
    async with lab.engine(deployments=(blind,)) as engine:
        with pytest.raises(BadRequest) as caught:
            await engine.submit(asking(look))
        assert caught.value.code == "unsupported_input"


async def test_a_turn_that_is_stopped_gives_its_place_back(lab: Lab) -> None:
    lab.script(Answer(text="for ever", gate=Gate()))
    async with lab.engine(deployments=PAIR) as engine:
        accepted = await engine.submit(asking("go", background=True))
        await logged(engine, accepted.session, "ModelCallStarted", 1)
        assert engine.monitor.seen()["a"].in_flight == 1
        await engine.cancel("default", accepted.response_id, DIALECT)
        assert engine.monitor.seen()["a"][:4] == ("closed", 0, 0, 0)


async def test_a_call_that_is_stopped_before_it_began_gives_its_place_back(lab: Lab) -> None:
    model = lab.script(Answer(text="never"))
    async with lab.engine(deployments=PAIR) as engine:
        permit = engine.monitor.take(PAIR[0], 0)
        params = e.TurnRequest(model="m")
        session = new_session(engine.new_ref("default"))
        bodies = [
            e.SessionCreated(kind="chain"),
            e.TurnRequested(response_id="r", turn=1, request=params, input=()),
            e.ModelCallStarted(turn=1, step=1, deployment="a", origin="o", model="m"),
        ]
        for seq, body in enumerate(bodies, 1):
            session = fold(session, e.Event(session=session.ref, seq=seq, at_ms=1, body=body))
        asked = ModelRequest(params=params, items=[], key="k")
        slot = engine.slots.of(PAIR[0])
        call = RunningCall(model, slot, PAIR[0], asked, session=session, changed=lambda: None, permit=permit)
        await call.stop()
        assert engine.monitor.seen()["a"].in_flight == 0
        assert len(model.requests) == 0


# -- the stateless plane ---------------------------------------------------------------------------------------


async def relayed(engine: Engine) -> str:
    said: list[ModelDelta] = []
    async for deltas in engine.relay(
        "default", "anonymous", ModelRequest(params=ModelParams(model="m"), items=[], key="")
    ):
        said += deltas
    return "".join(delta.text for delta in said if isinstance(delta, TextDelta))


@pytest.mark.parametrize(
    "broken", [DOWN, Answer(text="x", end="cut"), Answer(status=401, error_code="invalid_api_key")]
)
async def test_a_bare_call_goes_to_the_next_deployment_until_its_first_word(lab: Lab, broken: Answer) -> None:
    lab.script({"a": broken, "b": Answer(text="other words")})
    async with lab.engine(deployments=PAIR) as engine:
        assert await relayed(engine) == "other words"
        seen = engine.monitor.seen()
        assert (seen["a"].in_flight, seen["b"].in_flight) == (0, 0)
        assert seen["b"].failed == 0


async def test_a_bare_call_is_not_spliced_after_its_first_word(lab: Lab) -> None:
    lab.script({"a": Answer(text="one two three", end="cut", after=2, group=1), "b": Answer(text="never")})
    async with lab.engine(deployments=PAIR) as engine:
        with pytest.raises(ModelError) as caught:
            await relayed(engine)
        assert caught.value.code == "answer_cut"
        assert engine.monitor.seen()["a"].failed == 1


async def test_a_bare_call_ends_with_the_last_error_after_its_rounds(lab: Lab) -> None:
    model = lab.script(Answer(status=429, retry_after_s=0.01))
    async with lab.engine(deployments=PAIR) as engine:
        with pytest.raises(ModelError) as caught:
            await relayed(engine)
        assert caught.value.code == "rate_limited"
    assert len(model.requests) == 2 * (RELAY_RETRIES_MAX + 1)


async def test_a_bare_call_waits_for_its_place_in_a_minute_for_a_while(lab: Lab) -> None:
    lab.script(Answer(text="yes"))
    async with lab.engine(deployments=(deployment("a", rpm=120),)) as engine:
        health = engine.monitor.of(deployment("a", rpm=120))
        now_ms = engine.clock.now_ms()
        for _ in range(120):
            health.take(deployment("a", rpm=120), now_ms, 0)
        assert await relayed(engine) == "yes"
        assert engine.clock.now_ms() - now_ms >= 400
