"""What a next start makes of what the last one left."""

from __future__ import annotations

import pytest
from tests.engine.conftest import Lab, asking, kinds, log_of, logged, texts

from stateline.core import events as e
from stateline.core.errors import Conflict
from stateline.core.limits import CRASHES_MAX, TurnLimits
from stateline.core.response import StreamEvent
from stateline.engine import Accepted, Engine
from stateline.stores.sqlite import SqliteStore
from stateline.testing.scripted import Answer, Gate, echo, tokens

DIALECT = "open-responses"


async def read_until_delta(engine: Engine, accepted: Accepted) -> list[StreamEvent]:
    seen: list[StreamEvent] = []
    stream = engine.stream(accepted)
    async for batch in stream:
        seen += batch
        if any(event.type == "response.output_text.delta" for event in batch):
            break
    await stream.aclose()
    return seen


async def test_a_turn_in_mid_answer_goes_on_with_no_client_attached(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="first try here", gate=gate))
    async with lab.engine(kill=True) as engine:
        accepted = await engine.submit(asking("go", background=True))
        gate.step()
        before = await read_until_delta(engine, accepted)
    lab.script(Answer(text="second try"))
    async with lab.engine() as engine:
        response = await engine.wait(accepted, DIALECT)
        assert response.status == "completed"
        assert texts(response.output) == ["second try"]
        log = await log_of(engine, accepted.session)
        assert kinds(log).count("TurnRequested") == 1
        assert kinds(log).count("TurnResumed") == 1
        after = [event async for batch in engine.stream(accepted, cursor=before[-1].sequence_number) for event in batch]
        whole = [event async for batch in engine.stream(accepted) for event in batch]
        assert before + after == whole
        assert [event.sequence_number for event in whole] == list(range(len(whole)))


async def test_a_turn_killed_before_its_call_said_anything_runs_once(lab: Lab) -> None:
    lab.script(Answer(end="stall", text="x"))
    async with lab.engine(kill=True) as engine:
        accepted = await engine.submit(asking("go", stream=False))
    lab.script(echo)
    async with lab.engine() as engine:
        assert texts((await engine.wait(accepted, DIALECT)).output) == ["go"]
        log = await log_of(engine, accepted.session)
        lost = [event.body for event in log if isinstance(event.body, e.ModelCallFailed)]
        assert [body.code for body in lost] == ["worker_lost"]
        steps = [event.body.step for event in log if isinstance(event.body, e.ModelCallStarted)]
        assert steps == [1, 2]


async def test_a_turn_that_waits_for_a_timer_goes_on_when_it_is_due(lab: Lab) -> None:
    lab.script(Answer(status=429, retry_after_s=0.3))
    async with lab.engine(kill=True) as engine:
        accepted = await engine.submit(asking("go"))
        await logged(engine, accepted.session, "TimerSet", 1)
    lab.script(echo)
    async with lab.engine() as engine:
        assert texts((await engine.wait(accepted, DIALECT)).output) == ["go"]


async def test_a_graceful_stop_hands_the_turn_back_and_the_next_start_takes_it(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="one two three", gate=gate))
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("go"))
        gate.step()
        await read_until_delta(engine, accepted)
    lab.script(echo)
    async with lab.engine() as engine:
        response = await engine.wait(accepted, DIALECT)
        assert texts(response.output) == ["go"]
        log = await log_of(engine, accepted.session)
        resumed = [event.body for event in log if isinstance(event.body, e.TurnResumed)]
        assert [body.clean for body in resumed] == [True]


async def test_a_cancel_that_was_posted_before_the_crash_is_honoured_after_it(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="one two three", gate=gate))
    async with lab.engine(kill=True) as engine:
        accepted = await engine.submit(asking("go", background=True))
        gate.step()
        await read_until_delta(engine, accepted)
        body = e.CancelRequested(response_id=accepted.response_id)
        post = type(engine.store).post
        event = e.Event(session=accepted.session, seq=0, at_ms=engine.clock.now_ms(), body=body)
        engine.live.disown(accepted.session)
        await post(engine.store, accepted.session, event)  # pyright: ignore
    lab.script(Answer(text="never said", end="stall"))
    async with lab.engine() as engine:
        response = await engine.wait(accepted, DIALECT)
        assert response.status == "cancelled"


async def test_a_session_that_keeps_crashing_its_worker_is_quarantined_and_others_go_on(lab: Lab) -> None:
    lab.script(Answer(end="stall", text="x"))
    async with lab.engine(kill=True) as engine:
        poison = await engine.submit(asking("poison", stream=False))
    for crash in range(2, CRASHES_MAX + 1):
        async with lab.engine(kill=True) as engine:
            await logged(engine, poison.session, "ModelCallStarted", crash)
    lab.script(echo)
    async with lab.engine() as engine:
        response = await engine.wait(poison, DIALECT)
        assert response.status == "failed"
        assert response.error is not None
        assert response.error.code == "session_quarantined"
        fine = await engine.wait(await engine.submit(asking("fine")), DIALECT)
        assert texts(fine.output) == ["fine"]


async def test_kills_with_progress_between_them_quarantine_nothing(lab: Lab) -> None:
    gates = [Gate() for _ in range(CRASHES_MAX + 2)]
    accepted: Accepted | None = None
    for gate in gates:
        lab.script(Answer(text="one two three", gate=gate))
        async with lab.engine(kill=True) as engine:
            if accepted is None:
                accepted = await engine.submit(asking("go"))
            have = kinds(await log_of(engine, accepted.session)).count("Chunk")
            gate.step()
            await logged(engine, accepted.session, "Chunk", have + 1)
    assert accepted is not None
    lab.script(tokens(3))
    async with lab.engine() as engine:
        assert (await engine.wait(accepted, DIALECT)).status == "completed"
        stream = [event async for batch in engine.stream(accepted) for event in batch]
        assert [event.sequence_number for event in stream] == list(range(len(stream)))


async def test_a_defect_in_the_worker_crashes_that_session_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.script(echo)
    async with lab.engine() as engine:

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr("stateline.engine.work.RunningCall", broken)
            accepted = await engine.submit(asking("poison"))
            response = await engine.wait(accepted, DIALECT)
        assert response.error is not None
        assert response.error.code == "session_quarantined"
        fine = await engine.wait(await engine.submit(asking("fine")), DIALECT)
        assert fine.status == "completed"


async def test_a_quarantined_conversation_takes_no_more_turns(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        conversation = (await engine.create_conversation("default", (), {})).id.removeprefix("conv_")

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr("stateline.engine.work.RunningCall", broken)
            await engine.wait(await engine.submit(asking("poison", conversation=conversation)), DIALECT)
        with pytest.raises(Conflict) as caught:
            await engine.submit(asking("more", conversation=conversation))
        assert caught.value.code == "session_quarantined"


async def test_every_cursor_of_a_pruned_turn_gives_a_stream_that_says_nothing_twice(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="one two three four", gate=gate))
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("go"))
        for piece in range(4):
            gate.step()
            if piece < 3:
                await logged(engine, accepted.session, "Chunk", piece + 1)
        whole = [event async for batch in engine.stream(accepted) for event in batch]
        await engine.idle(accepted.session)
        store = engine.store
        assert isinstance(store, SqliteStore)
        assert await store.prune_chunks(engine.clock.now_ms() + 1) > 1
        assert "Chunk" not in kinds(await log_of(engine, accepted.session))
        deltas = [event.sequence_number for event in whole if event.type == "response.output_text.delta"]
        for cursor in range(-1, len(whole)):
            rest = [event async for batch in engine.stream(accepted, cursor=cursor) for event in batch]
            numbers = [event.sequence_number for event in rest]
            assert numbers == sorted(numbers)
            assert all(number > cursor for number in numbers)
            inside = deltas[0] <= cursor < deltas[-1]
            kept = [event for event in whole if event.sequence_number > cursor and event.sequence_number not in deltas]
            assert [event for event in rest if event.type != "response.output_text.delta"] == kept
            shown = [event for event in rest if event.type == "response.output_text.delta"]
            assert len(shown) == (1 if cursor < deltas[-1] and not inside else 0)


async def test_chunks_of_a_turn_that_runs_are_never_pruned(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="one two", gate=gate))
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("go"))
        gate.step()
        await logged(engine, accepted.session, "Chunk", 1)
        store = engine.store
        assert isinstance(store, SqliteStore)
        assert await store.prune_chunks(engine.clock.now_ms() + 1) == 0
        gate.open()
        await engine.wait(accepted, DIALECT)


async def test_what_was_recorded_between_two_chunks_does_not_hinder_the_next_owner(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="one two three", gate=gate))
    async with lab.engine(kill=True) as engine:
        conversation = (await engine.create_conversation("default", (), {})).id.removeprefix("conv_")
        accepted = await engine.submit(asking("go", conversation=conversation))
        gate.step()
        await logged(engine, accepted.session, "Chunk", 1)
        await engine.add_items("default", conversation, asking("note").input)
    lab.script(echo)
    async with lab.engine() as engine:
        assert texts((await engine.wait(accepted, DIALECT)).output) == ["go"]


async def test_a_model_that_never_stops_talking_is_stopped_by_the_wall_clock(lab: Lab) -> None:
    lab.script(Answer(text="on and on " * 5000, delay_ms=1))
    async with lab.engine(limits=TurnLimits(wall_time_ms_max=300)) as engine:
        response = await engine.wait(await engine.submit(asking("go")), DIALECT)
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_wall_time"
