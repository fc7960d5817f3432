"""Turns on one engine: order, limits, retries of calls, forks, locks, client retries."""

from __future__ import annotations

import asyncio

import pytest
from tests.engine.conftest import Lab, asking, kinds, log_of, logged, texts

from stateline.core import events as e
from stateline.core.calls import FunctionTool
from stateline.core.errors import BadRequest, NotFound
from stateline.core.items import Compaction, FunctionCall, FunctionCallOutput
from stateline.core.limits import TurnLimits
from stateline.core.response import StreamEvent
from stateline.engine.submit import _elsewhere  # pyright: ignore[reportPrivateUsage]
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment
from stateline.testing.scripted import Answer, Gate, ScriptedCall, echo, tokens

DIALECT = "open-responses"


async def test_a_turn_is_recorded_step_by_step_and_answered(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("hello there"))
        response = await engine.wait(accepted, DIALECT)
        assert response.status == "completed"
        assert texts(response.output) == ["hello there"]
        log = await log_of(engine, accepted.session)
        assert kinds(log)[:3] == ["SessionCreated", "TurnRequested", "ModelCallStarted"]
        assert kinds(log)[-2:] == ["ModelCallFinished", "TurnCompleted"]
        assert [event.seq for event in log] == list(range(1, len(log) + 1))


async def test_the_first_append_of_a_new_session_shares_one_commit(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("hello", stream=False))
        await engine.wait(accepted, DIALECT)
        log = await log_of(engine, accepted.session)
        assert len({event.at_ms for event in log[:3]}) == 1
        assert len({event.epoch for event in log}) == 1


async def test_a_chain_goes_on_in_its_session_with_the_whole_context(lab: Lab) -> None:
    model = lab.script(echo)
    async with lab.engine() as engine:
        first = await engine.submit(asking("one"))
        await engine.wait(first, DIALECT)
        second = await engine.submit(asking("two", after=first.response_id))
        await engine.wait(second, DIALECT)
        assert second.session == first.session
        assert texts(await engine.input_items("default", second.response_id)) == ["one", "one", "two"]
        assert len(model.requests) == 2


async def test_two_continuations_of_one_parent_do_not_see_each_other(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        root = await engine.submit(asking("root"))
        await engine.wait(root, DIALECT)
        left = await engine.submit(asking("left", after=root.response_id))
        await engine.wait(left, DIALECT)
        right = await engine.submit(asking("right", after=root.response_id))
        await engine.wait(right, DIALECT)
        assert right.session != left.session
        assert texts(await engine.input_items("default", right.response_id)) == ["root", "root", "right"]
        deeper = await engine.submit(asking("deeper", after=right.response_id))
        await engine.wait(deeper, DIALECT)
        assert deeper.session == right.session
        assert texts(await engine.input_items("default", deeper.response_id)) == [
            "root",
            "root",
            "right",
            "right",
            "deeper",
        ]


async def test_both_of_two_continuations_at_once_get_an_answer(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        root = await engine.submit(asking("root"))
        await engine.wait(root, DIALECT)
        both = await asyncio.gather(
            *(engine.submit(asking(text, after=root.response_id)) for text in ("left", "right", "middle"))
        )
        answers = [await engine.wait(accepted, DIALECT) for accepted in both]
        assert [texts(answer.output) for answer in answers] == [["left"], ["right"], ["middle"]]
        assert len({accepted.session for accepted in both}) == 3


async def test_a_running_parent_cannot_be_continued(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="slow answer", gate=gate))
    async with lab.engine() as engine:
        running = await engine.submit(asking("begin"))
        with pytest.raises(BadRequest) as caught:
            await engine.submit(asking("too early", after=running.response_id))
        assert caught.value.code == "response_in_progress"
        gate.open()
        assert (await engine.wait(running, DIALECT)).status == "completed"


async def test_a_busy_conversation_is_locked_and_free_again_after_the_turn(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="slow answer", gate=gate))
    async with lab.engine() as engine:
        conversation = (await engine.create_conversation("default", (), {})).id.removeprefix("conv_")
        running = await engine.submit(asking("one", conversation=conversation))
        with pytest.raises(BadRequest) as caught:
            await engine.submit(asking("two", conversation=conversation))
        assert caught.value.code == "conversation_locked"
        gate.open()
        await engine.wait(running, DIALECT)
        after = await engine.submit(asking("three", conversation=conversation))
        await engine.wait(after, DIALECT)
        assert texts(await engine.conversation_items("default", conversation)) == [
            "one",
            "slow answer",
            "three",
            "slow answer",
        ]


async def test_items_added_while_a_turn_runs_come_in_after_it_began(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="answer", gate=gate))
    async with lab.engine() as engine:
        conversation = (await engine.create_conversation("default", (), {})).id.removeprefix("conv_")
        running = await engine.submit(asking("one", conversation=conversation))
        [added] = await engine.add_items("default", conversation, asking("note").input)
        assert added.id
        gate.open()
        await engine.wait(running, DIALECT)
        assert sorted(texts(await engine.conversation_items("default", conversation))) == ["answer", "note", "one"]


async def test_a_function_call_ends_the_turn_and_its_output_begins_the_next(lab: Lab) -> None:
    lab.script([Answer(calls=(ScriptedCall(name="now", arguments="{}", call_id="c1"),)), Answer(text="noon")])
    async with lab.engine() as engine:
        tools = (FunctionTool(name="now"),)
        asked = await engine.submit(asking("what time is it", tools=tools))
        response = await engine.wait(asked, DIALECT)
        [call] = response.output
        assert isinstance(call, FunctionCall)
        with pytest.raises(BadRequest) as caught:
            await engine.submit(asking("never mind", after=asked.response_id, tools=tools))
        assert caught.value.code == "missing_tool_output"
        output = FunctionCallOutput(id="", call_id="c1", output="12:00")
        answered = await engine.submit(asking((output,), after=asked.response_id, tools=tools))
        assert texts((await engine.wait(answered, DIALECT)).output) == ["noon"]


async def test_retryable_failures_are_tried_again_on_the_next_deployment(lab: Lab) -> None:
    lab.script([Answer(status=500), Answer(status=429, retry_after_s=0.01), Answer(text="at last")])
    async with lab.engine(deployments=2) as engine:
        accepted = await engine.submit(asking("try"))
        response = await engine.wait(accepted, DIALECT)
        assert texts(response.output) == ["at last"]
        log = await log_of(engine, accepted.session)
        placed = [event.body.deployment for event in log if isinstance(event.body, e.ModelCallStarted)]
        assert placed[0] == placed[2] != placed[1]
        # The second deployment is tried at once; only when both have failed is there something to wait for.
        assert kinds(log).count("TimerFired") == 1


@pytest.mark.parametrize("model", ["m", "other"])
async def test_a_turn_is_tried_again_by_the_new_configuration_or_by_its_own_where_its_model_is_gone(
    lab: Lab, model: str
) -> None:
    lab.script([Answer(status=429, retry_after_s=0.3), Answer(text="at last")])
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("try"))
        await logged(engine, accepted.session, "TimerSet", 1)
        new = Deployment(name="new", model=model, cloud="openai", format="openai-chat", base_url="", upstream_model="m")
        engine.configure(Catalogue([new]), TurnLimits(steps_max=3))
        assert texts((await engine.wait(accepted, DIALECT)).output) == ["at last"]
        log = await log_of(engine, accepted.session)
        placed = [event.body.deployment for event in log if isinstance(event.body, e.ModelCallStarted)]
        assert placed == ["d0", "new" if model == "m" else "d0"]
        # The limits of a turn are those with which it began.
        assert [each.body.limits for each in log if isinstance(each.body, e.TurnRequested)] == [TurnLimits()]
        assert list(engine.models()) == [model]
        assert engine.volatile is not None
        assert engine.volatile.limits == TurnLimits(steps_max=3)


async def test_the_provider_is_given_the_time_it_asks_for(lab: Lab) -> None:
    lab.script([Answer(status=429, retry_after_s=1.2), Answer(text="thanks")])
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("try"))
        await engine.wait(accepted, DIALECT)
        log = await log_of(engine, accepted.session)
        failed = next(event for event in log if isinstance(event.body, e.ModelCallFailed))
        timer = next(event for event in log if isinstance(event.body, e.TimerSet))
        fired = next(event for event in log if isinstance(event.body, e.TimerFired))
        assert isinstance(timer.body, e.TimerSet)
        assert timer.body.due_ms - failed.at_ms >= 1200
        assert fired.at_ms >= timer.body.due_ms


async def test_an_error_that_no_retry_helps_ends_the_turn_with_its_code(lab: Lab) -> None:
    lab.script(Answer(status=401, error_code="invalid_api_key", error_message="no"))
    async with lab.engine() as engine:
        response = await engine.wait(await engine.submit(asking("try")), DIALECT)
        assert response.status == "failed"
        assert response.error is not None
        assert len(response.error.code) > 0


async def test_a_call_cut_in_the_middle_is_made_again_and_its_items_are_no_output(lab: Lab) -> None:
    lab.script([Answer(text="one two three four", delay_ms=30, end="cut", after=2), Answer(text="five six")])
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("try"))
        stream = [event async for batch in engine.stream(accepted) for event in batch]
        response = await engine.response("default", accepted.response_id, DIALECT)
        assert texts(response.output) == ["five six"]
        assert [event.sequence_number for event in stream] == list(range(len(stream)))
        statuses = [event.item.status for event in stream if event.type == "response.output_item.done"]  # pyright: ignore
        assert statuses == ["incomplete", "completed"]
        indexes = [event.output_index for event in stream if event.type == "response.output_item.added"]  # pyright: ignore
        assert indexes == [0, 1]


@pytest.mark.parametrize(
    ("limits", "answer", "reason"),
    [
        (TurnLimits(steps_max=3), Answer(status=500), "max_steps"),
        (TurnLimits(turn_tokens_max=10), Answer(text="word " * 30), "max_turn_tokens"),
        (TurnLimits(output_bytes_max=40), Answer(text="word " * 30, delay_ms=1), "max_output_bytes"),
        (TurnLimits(wall_time_ms_max=200), Answer(text="never", end="stall"), "max_wall_time"),
        (TurnLimits(wall_time_ms_max=200), Answer(status=429, retry_after_s=30), "max_wall_time"),
        (TurnLimits(), Answer(text="cut short", finish_reason="length"), "max_output_tokens"),
        (TurnLimits(), Answer(text="tut tut", finish_reason="content_filter"), "content_filter"),
    ],
)
async def test_each_limit_ends_the_turn_with_its_name(
    lab: Lab, limits: TurnLimits, answer: Answer, reason: str
) -> None:
    lab.script(answer)
    async with lab.engine(limits=limits) as engine:
        response = await engine.wait(await engine.submit(asking("try")), DIALECT)
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == reason


async def test_too_many_failures_end_the_turn_with_the_last_error(lab: Lab) -> None:
    lab.script(Answer(status=503, error_code="overloaded"))
    async with lab.engine(limits=TurnLimits(model_failures_max=2)) as engine:
        response = await engine.wait(await engine.submit(asking("try")), DIALECT)
        assert response.status == "failed"


async def test_a_failed_turn_leaves_its_conversation_as_it_was(lab: Lab) -> None:
    lab.script([Answer(status=400), Answer(text="fine")])
    async with lab.engine() as engine:
        conversation = (await engine.create_conversation("default", (), {})).id.removeprefix("conv_")
        failed = await engine.wait(await engine.submit(asking("one", conversation=conversation)), DIALECT)
        assert failed.status == "failed"
        await engine.wait(await engine.submit(asking("one", conversation=conversation)), DIALECT)
        assert texts(await engine.conversation_items("default", conversation)) == ["one", "fine"]


async def test_a_background_response_can_be_cancelled_and_keeps_what_it_said(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="one two three", gate=gate))
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("go", background=True))
        gate.step()
        stream = engine.stream(accepted)
        seen: list[StreamEvent] = []
        async for batch in stream:
            seen += batch
            if any(event.type == "response.output_text.delta" for event in batch):
                break
        await stream.aclose()
        response = await engine.cancel("default", accepted.response_id, DIALECT)
        assert response.status == "cancelled"
        assert texts(response.output) == ["one"]
        again = await engine.cancel("default", accepted.response_id, DIALECT)
        assert again == response


async def test_only_background_responses_can_be_cancelled(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("go"))
        with pytest.raises(BadRequest):
            await engine.cancel("default", accepted.response_id, DIALECT)


async def test_a_deleted_response_is_gone_and_its_descendants_keep_their_context(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        first = await engine.submit(asking("one"))
        await engine.wait(first, DIALECT)
        second = await engine.submit(asking("two", after=first.response_id))
        await engine.wait(second, DIALECT)
        await engine.delete_response("default", first.response_id)
        with pytest.raises(NotFound):
            await engine.response("default", first.response_id, DIALECT)
        with pytest.raises(BadRequest) as caught:
            await engine.submit(asking("more", after=first.response_id))
        assert caught.value.code == "previous_response_not_found"
        third = await engine.submit(asking("three", after=second.response_id))
        await engine.wait(third, DIALECT)
        assert texts(await engine.input_items("default", third.response_id)) == ["one", "one", "two", "two", "three"]


async def test_the_same_idempotency_key_attaches_to_the_first_turn(lab: Lab) -> None:
    lab.script(tokens(3))
    async with lab.engine() as engine:
        first = await engine.submit(asking("pay", key="k1"))
        again = await engine.submit(asking("pay", key="k1"))
        assert again.response_id == first.response_id
        assert again.attached
        assert await engine.wait(first, DIALECT) == await engine.wait(again, DIALECT)
        with pytest.raises(BadRequest) as caught:
            await engine.submit(asking("pay more", key="k1"))
        assert caught.value.code == "idempotency_key_reused"


async def test_an_idempotency_key_holds_at_the_same_instant_too(lab: Lab) -> None:
    model = lab.script(tokens(3))
    async with lab.engine() as engine:
        all_of_them = await asyncio.gather(*(engine.submit(asking("pay", key="k")) for _ in range(8)))
        assert len({accepted.response_id for accepted in all_of_them}) == 1
        for accepted in all_of_them:
            await engine.wait(accepted, DIALECT)
        assert len(model.requests) == 1


async def test_a_retry_without_a_key_attaches_by_its_body(lab: Lab) -> None:
    lab.script(tokens(3))
    async with lab.engine() as engine:
        first = await engine.submit(asking("hello"))
        retried = await engine.submit(asking("hello", retry=True))
        assert retried.response_id == first.response_id
        meant = await engine.submit(asking("hello"))
        assert meant.response_id != first.response_id
        for accepted in (first, meant):
            await engine.wait(accepted, DIALECT)


async def test_a_retry_attaches_although_its_own_turn_locks_the_conversation(lab: Lab) -> None:
    gate = Gate()
    lab.script(Answer(text="slow", gate=gate))
    async with lab.engine() as engine:
        conversation = (await engine.create_conversation("default", (), {})).id.removeprefix("conv_")
        first = await engine.submit(asking("one", conversation=conversation))
        retried = await engine.submit(asking("one", conversation=conversation, retry=True))
        assert retried.response_id == first.response_id
        gate.open()
        await engine.wait(retried, DIALECT)


async def test_another_tenant_finds_nothing(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("secret"))
        await engine.wait(accepted, DIALECT)
        with pytest.raises(NotFound):
            await engine.response("other", accepted.response_id, DIALECT)
        with pytest.raises(BadRequest) as caught:
            await engine.submit(asking("more", after=accepted.response_id, tenant="other"))
        assert caught.value.code == "previous_response_not_found"


async def test_a_response_that_is_not_stored_runs_and_is_forgotten(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        kept = await engine.submit(asking("kept"))
        await engine.wait(kept, DIALECT)
        accepted = await engine.submit(asking("passing", after=kept.response_id, store=False))
        response = await engine.wait(accepted, DIALECT)
        assert texts(response.output) == ["passing"]
        with pytest.raises(NotFound):
            await engine.response("default", accepted.response_id, DIALECT)
        assert engine.volatile is not None
        for _ in range(100):
            if not engine.volatile.workers:
                break
            await asyncio.sleep(0.01)
        assert not engine.volatile.workers


async def test_an_unknown_model_is_refused_before_anything_is_written(lab: Lab) -> None:
    async with lab.engine() as engine:
        with pytest.raises(BadRequest) as caught:
            await engine.submit(asking("hello", model="none-such"))
        assert caught.value.code == "model_not_found"


async def test_a_snapshot_stands_for_the_log_before_it(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.script(echo)
    compaction = Compaction(id="", encrypted_content="all of it, in short")
    async with lab.engine() as engine:
        last = await engine.submit(asking("turn 0"))
        await engine.wait(last, DIALECT)
        for turn in range(1, 21):
            items = asking(f"turn {turn}").input
            items = (compaction, *items) if turn % 5 == 0 else items
            last = await engine.submit(asking(items, after=last.response_id))
            await engine.wait(last, DIALECT)
        ref = last.session
        assert await engine.idle(ref) is None
        whole = [event async for event in engine.store.read(ref)]
        short = [event async for event in engine.store.read(ref, snapshot=True)]
        assert isinstance(short[0].body, e.Snapshot)
        assert len(short) < len(whole) / 2
        kept = engine.sessions.kept(ref)
        assert kept is not None
        fresh = await engine.sessions.read(ref)
        assert list(fresh.context) == list(kept.context)
        assert fresh.last_response_id == kept.last_response_id
        # The session was given back with the snapshot, and not once more.
        assert "another owner" not in caplog.text


async def test_a_retry_finds_a_turn_that_came_through_the_inbox(lab: Lab) -> None:
    lab.script(echo)
    async with lab.engine() as engine:
        first = await engine.submit(asking("one"))
        await engine.wait(first, DIALECT)
        session = await engine.load(first.session)
        submitted = asking("two", after=first.response_id)
        accepted = await _elsewhere(engine, submitted, session)
        assert accepted is not None
        await engine.wait(accepted, DIALECT)
        retried = await engine.submit(asking("two", after=first.response_id, retry=True))
        assert retried.response_id == accepted.response_id
