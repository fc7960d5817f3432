"""What becomes of tool calls: side by side, failing, cancelled, overdue, handed over, lost."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.engine.conftest import Lab, asking, logged, texts
from tests.engine.tool_lab import (
    CAREFUL,
    FREE,
    Ruled,
    box,
    call_of,
    calling,
    does,
    done,
    hanging,
    reason_of,
    request_of,
    saying,
    tools,
)

from stateline.core.errors import StatelineError
from stateline.core.items import EffectResolution, FunctionCallOutput, McpApprovalResponse
from stateline.core.limits import (
    TOOL_CALLS_PARALLEL_MAX,
    TOOL_ERROR_CHARS_MAX,
    TOOL_LIST_BYTES_MAX,
    TOOL_OUTPUT_BYTES_MAX,
    TurnLimits,
)
from stateline.core.response import StatelineField
from stateline.core.tools import PolicyRequest, PolicyRuling, Tool, ToolCall, ToolError, ToolResult
from stateline.engine import Engine, tooling
from stateline.testing.scripted import Answer, Asked, ModelAsked, ScriptedCall
from stateline.testing.tool_host import Does, ScriptedTools


async def test_so_many_calls_run_at_once_and_the_others_wait(lab: Lab) -> None:
    lab.script(calling(*["look"] * (TOOL_CALLS_PARALLEL_MAX + 3)))
    host, running, most = tools(), 0, 0

    async def slow(call: ToolCall) -> ToolResult:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return ToolResult(output=call.key)

    does(host, "look", slow)
    async with lab.engine(toolbox=box(host)) as engine:
        response = await done(engine, "go", servers=(FREE,))
    assert response.status == "completed"
    assert most == TOOL_CALLS_PARALLEL_MAX
    assert len({call.key for call in host.calls}) == len(host.calls) == TOOL_CALLS_PARALLEL_MAX + 3


def raising(error: BaseException) -> Does:
    async def fail(call: ToolCall) -> ToolResult:
        await asyncio.sleep(0)
        raise error

    return fail


FAILURES = [
    (RuntimeError("a defect"), True),
    (asyncio.CancelledError(), True),
    (TimeoutError(), True),
    (ToolError("no answer", sent=True), True),
    (ToolError("not reached", sent=False), False),
]


@pytest.mark.parametrize("name", ["look", "put", "refund"])
@pytest.mark.parametrize(("error", "sent"), FAILURES, ids=lambda value: type(value).__name__)
async def test_a_call_without_an_answer_is_unknown_only_where_it_may_have_done_something(
    lab: Lab, name: str, error: BaseException, sent: bool
) -> None:
    lab.script(calling(name))
    host = tools()
    does(host, name, raising(error))
    async with lab.engine(toolbox=box(host)) as engine:
        response = await done(engine, "go", servers=(FREE,))
        unknown = sent and name == "refund"
        assert (response.status, reason_of(response)) == (
            ("incomplete", "tool_outcome_unknown") if unknown else ("completed", None)
        )
        assert call_of(response).status == ("incomplete" if unknown else "failed")
        assert len(host.calls) == 1
        assert not engine.workers, "the worker has not crashed, and is done"


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ("é" * (TOOL_OUTPUT_BYTES_MAX // 2), "é" * (TOOL_OUTPUT_BYTES_MAX // 2)),
        ("é" * (TOOL_OUTPUT_BYTES_MAX // 2 + 1), "[The answer had more than 8388608 bytes, and was not kept.]"),
        ("a\ud800b", "a?b"),
    ],
    ids=["all that fits", "too long", "no text"],
)
async def test_an_answer_is_kept_as_far_as_the_log_takes_it(lab: Lab, output: str, kept: str) -> None:
    lab.script(calling("refund"))
    async with lab.engine(toolbox=box(tools(refund=output))) as engine:
        response = await done(engine, "go", servers=(FREE,))
    assert call_of(response).output == kept
    assert call_of(response).status == "completed"


async def test_a_long_reason_is_cut(lab: Lab) -> None:
    lab.script(calling("look"))
    host = tools()
    does(host, "look", raising(ToolError("\ud800" + "x" * (TOOL_ERROR_CHARS_MAX + 1), sent=True)))
    async with lab.engine(toolbox=box(host)) as engine:
        error = call_of(await done(engine, "go", servers=(FREE,))).error
    assert error is not None
    assert error.content == "?" + "x" * (TOOL_ERROR_CHARS_MAX - 1)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), asyncio.CancelledError(), TimeoutError()])
async def test_a_host_that_cannot_list_its_tools_ends_the_turn(lab: Lab, error: BaseException) -> None:
    host = tools()

    async def fail() -> list[Tool]:
        await asyncio.sleep(0)
        raise error

    host.tools = fail
    async with lab.engine(toolbox=box(host)) as engine:
        response = await done(engine, "go", servers=(FREE,))
        assert (response.status, response.error and response.error.code) == ("failed", "tools_unavailable")


async def test_a_list_of_tools_that_is_too_long_is_not_recorded(lab: Lab) -> None:
    host = tools()

    async def many() -> list[Tool]:
        await asyncio.sleep(0)
        return [Tool(name="t", description="x" * TOOL_LIST_BYTES_MAX)]

    host.tools = many
    async with lab.engine(toolbox=box(host)) as engine:
        response = await done(engine, "go", servers=(FREE,))
        assert response.error is not None
        assert response.error.code == "tools_too_large"


async def test_a_policy_that_fails_allows_nothing(lab: Lab) -> None:
    class Broken(Ruled):
        def rule(self, request: PolicyRequest) -> PolicyRuling:
            raise RuntimeError(request.tool)

    lab.script(calling("look"))
    host = tools()
    async with lab.engine(toolbox=box(host, Broken())) as engine:
        response = await done(engine, "go", servers=(FREE,))
        assert (response.status, call_of(response).status) == ("completed", "failed")
        assert not host.calls


# -- told to end -------------------------------------------------------------------------------------------------


async def test_a_response_that_is_cancelled_says_what_it_does_not_know(lab: Lab) -> None:
    lab.script(calling("refund", "look"))
    host = tools()
    begun = hanging(host, "look")
    hanging(host, "refund")
    async with lab.engine(toolbox=box(host)) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await begun.wait()
        await engine.cancel("default", accepted.response_id, "open-responses")
        response = await engine.wait(accepted, "open-responses")
        assert response.status == "cancelled"
        assert [call_of(response, at).status for at in (0, 1)] == ["incomplete", "failed"]
        assert isinstance(response.stateline, StatelineField)
        assert [ask.name for ask in response.stateline.waits_for] == ["refund"]


async def test_a_response_that_is_cancelled_while_its_tools_are_listed_ends_at_once(lab: Lab) -> None:
    host, begun, ended = tools(), asyncio.Event(), asyncio.Event()

    async def hang() -> list[Tool]:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return []

    host.tools = hang
    async with lab.engine(toolbox=box(host)) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await begun.wait()
        await engine.cancel("default", accepted.response_id, "open-responses")
        response = await engine.wait(accepted, "open-responses")
        assert response.status == "cancelled"
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_response_whose_time_is_over_ends_its_calls(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    hanging(host, "refund")
    async with lab.engine(toolbox=box(host), limits=TurnLimits(wall_time_ms_max=300)) as engine:
        response = await done(engine, "go", servers=(FREE,))
        assert (response.status, reason_of(response)) == ("incomplete", "max_wall_time")
        assert call_of(response).status == "incomplete"


async def test_a_call_that_ends_while_its_node_stops_is_kept(lab: Lab) -> None:
    lab.script(calling("refund"))
    host, begun = tools(), asyncio.Event()

    async def slow(call: ToolCall) -> ToolResult:
        begun.set()
        await asyncio.sleep(0.7)
        return ToolResult(output=f"done under {call.key}")

    does(host, "refund", slow)
    async with lab.engine(toolbox=box(host)) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await begun.wait()
    after = tools()
    async with lab.engine(toolbox=box(after)) as engine:
        await logged(engine, accepted.session, "TurnCompleted", 1)
        response = await engine.wait(accepted, "open-responses")
        assert call_of(response).output == f"done under {accepted.session.id}/1/2"
        assert not after.calls


# -- what is not known ---------------------------------------------------------------------------------------------


async def unknown(engine: Engine, **fields: str) -> tuple[str, str]:
    """A response that ended since nobody knows what its call did, and the call's id."""
    response = await done(engine, "go", servers=(FREE,), **fields)
    assert reason_of(response) == "tool_outcome_unknown"
    return response.id, call_of(response).id


async def test_a_session_goes_on_while_an_outcome_is_unknown(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    does(host, "refund", raising(ToolError("no answer", sent=True)))
    async with lab.engine(toolbox=box(host)) as engine:
        response_id, _ = await unknown(engine)
        after = await done(engine, "what now?", after=response_id, servers=(FREE,))
        assert "Do not repeat it" in texts(after.output)[0]
        assert len(host.calls) == 1


@pytest.mark.parametrize(
    ("decision", "told", "made"),
    [("committed", "refund 7 was found", 1), ("abandoned", "will not be found out", 1), ("retry", "refund of", 2)],
)
async def test_a_person_says_what_became_of_a_call(lab: Lab, decision: str, told: str, made: int) -> None:
    lab.script(calling("refund"))
    host = tools()
    works = host._tools["refund"][1]  # pyright: ignore[reportPrivateUsage]
    does(host, "refund", raising(ToolError("no answer", sent=True)))
    async with lab.engine(toolbox=box(host)) as engine:
        response_id, call_id = await unknown(engine)
        does(host, "refund", works)
        said = EffectResolution(id="", call_id=call_id, decision=decision, output="refund 7 was found")  # pyright: ignore
        after = await done(engine, (said,), after=response_id, servers=(FREE,))
        assert told in texts(after.output)[-1]
        assert len(host.calls) == made
        assert len({call.key for call in host.calls}) == made, "what is made again is another effect"
        with pytest.raises(StatelineError) as caught:
            await done(engine, (said,), after=after.id, servers=(FREE,))
        assert (caught.value.code, caught.value.status) == ("effect_resolved", 409)


async def test_what_waits_for_approval_is_not_let_go_by_another_kind_of_answer(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        sneaky = EffectResolution(id="", call_id=request_of(first).id, decision="retry")
        with pytest.raises(StatelineError) as caught:
            await done(engine, (sneaky,), after=first.id, servers=(CAREFUL,))
        assert caught.value.code == "effect_not_found"
        does(host, "refund", raising(ToolError("no answer", sent=True)))
        second = await done(engine, (saying(request_of(first)),), after=first.id, servers=(CAREFUL,))
        assert reason_of(second) == "tool_outcome_unknown"
        # The call was approved once; its outcome is another question.
        for id_ in (call_of(second).id, request_of(first).id):
            answer = McpApprovalResponse(id="", approval_request_id=id_, approve=True)
            with pytest.raises(StatelineError) as caught:
                await done(engine, (answer,), after=second.id, servers=(CAREFUL,))
            assert caught.value.code in ("approval_not_found", "approval_answered")
        assert len(host.calls) == 1


async def test_a_call_is_remembered_though_its_turn_failed_later(lab: Lab) -> None:
    """Who asks again from where the client was must not have it made a second time unawares."""
    broken = True

    def script(asked: Asked, _: int) -> Answer:
        assert isinstance(asked, ModelAsked)
        made = [item for item in asked.request.items if isinstance(item, FunctionCallOutput)]
        if made and broken:
            return Answer(status=400)
        if asked.user_text == "hello":
            return Answer(text="hello")
        return Answer(text=str(made[0].output)) if made else Answer(calls=(ScriptedCall(name="payments-refund"),))

    lab.script(script)
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "hello", servers=(FREE,))
        second = await done(engine, "pay it back", after=first.id, servers=(FREE,))
        assert second.status == "failed"
        broken = False
        third = await done(engine, "pay it back!", after=first.id, servers=(FREE,))
        assert texts(third.output) == ["refund of {}"]
        assert len(host.calls) == 1


def deaf(host: ScriptedTools, name: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Let a tool go on though it is told to end: whether it has begun, and what lets it answer."""
    begun, released = asyncio.Event(), asyncio.Event()

    async def go_on(call: ToolCall) -> ToolResult:
        begun.set()
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()
        return ToolResult(output=f"too late, {call.key}")

    does(host, name, go_on)
    return begun, released


async def test_nobody_waits_for_a_tool_that_does_not_end_when_it_is_told_to(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tooling, "TOOL_STOP_S", 0.1)
    lab.script(calling("refund"))
    host = tools()
    begun, released = deaf(host, "refund")
    async with lab.engine(toolbox=box(host)) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await begun.wait()
        await engine.cancel("default", accepted.response_id, "open-responses")
        response = await engine.wait(accepted, "open-responses")
        assert (response.status, call_of(response).status) == ("cancelled", "incomplete")
        released.set()
        await asyncio.sleep(0.05)
        assert await engine.wait(accepted, "open-responses") == response, "what it answers later is void"


@pytest.mark.parametrize(("name", "status"), [("put", "failed"), ("refund", "incomplete")])
async def test_a_cancelled_turn_that_is_taken_up_makes_no_call_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, status: str
) -> None:
    monkeypatch.setattr(tooling, "TOOL_STOP_S", 0.3)
    lab.script(calling(name))
    host = tools()
    begun, released = deaf(host, name)
    async with lab.engine(toolbox=box(host), kill=True) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await begun.wait()
        cancelling = asyncio.create_task(engine.cancel("default", accepted.response_id, "open-responses"))
        await logged(engine, accepted.session, "CancelRequested", 1)
        cancelling.cancel()
    released.set()
    after = tools()
    async with lab.engine(toolbox=box(after)) as engine:
        await logged(engine, accepted.session, "TurnCancelled", 1)
        response = await engine.wait(accepted, "open-responses")
        assert (response.status, call_of(response).status) == ("cancelled", status)
        assert not after.calls
        assert len(after.looked_up) == (name == "refund")


async def test_so_many_calls_wait_for_a_person_and_no_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tooling, "PENDING_MAX", 1)
    lab.script(calling("refund", "refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        response = await done(engine, "go", servers=(CAREFUL,))
        assert request_of(response, 0).name == "refund"
        error = call_of(response, 1).error
        assert error is not None
        assert "Too many calls wait" in error.content
        assert not host.calls
