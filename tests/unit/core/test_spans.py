"""What a turn did, as spans: ids, parents, times, attributes, and no content unless it is asked for."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.core.driver import REF, START_MS

from stateline.core import events as e
from stateline.core.calls import Usage
from stateline.core.hosted import OWN_SERVER
from stateline.core.items import InputText, McpListTools, Message
from stateline.core.placing import Ruling
from stateline.core.session import fold_all, new_session
from stateline.core.spans import Begun, Span, StepKey, spans_of, traced
from stateline.core.tools import Agent, McpTool, PlannedCall, ServerTools, Tool

CALLER = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
CALL = PlannedCall(id=f"mcp_{REF.id}t1s1i0", server="shop", tool="refund", arguments='{"cents":5}')
AGENT = Agent(name="clerk", version="7", model="gpt-5", tools=(McpTool(server_label="shop"),))
SHOP = ServerTools(label="shop", digest="d", tools=(Tool(name="refund"),))


def requested(traceparent: str = "", agent: Agent | None = AGENT) -> e.TurnRequested:
    text = Message(id="msg_1", role="user", content=(InputText(text="my secret"),))
    return e.TurnRequested(
        response_id="resp_1",
        turn=1,
        request=e.TurnRequest(model="agent/clerk" if agent else "m"),
        input=(text,),
        agent=agent,
        traceparent=traceparent,
    )


def told(*bodies: e.Body, content: bool = False) -> list[Span]:
    """The spans of a log, an event every 10 ms."""
    events = [
        e.Event(session=REF, seq=at, at_ms=START_MS + 10 * at, body=body) for at, body in enumerate(bodies, start=1)
    ]
    return spans_of(new_session(REF), events, content=content)


def started(step: int = 1) -> e.ModelCallStarted:
    return e.ModelCallStarted(turn=1, step=step, deployment="d", origin="openai-chat/azure", model="gpt-5")


def with_tool(end: e.Body, *, content: bool = False) -> list[Span]:
    return told(
        requested(CALLER),
        e.ToolsListed(turn=1, servers=(SHOP,), items=(McpListTools(id="l", server_label="shop"),)),
        started(),
        e.ModelCallFinished(turn=1, step=1, finish_reason="tool_calls", calls=(CALL,), usage=Usage(input_tokens=3)),
        e.EffectDispatched(turn=1, step=2, call=CALL, effect="unsafe"),
        end,
        content=content,
    )


def test_a_turn_is_the_parent_of_its_calls_and_a_child_of_its_callers_span() -> None:
    model, tool = with_tool(e.EffectCommitted(turn=1, step=2, id=CALL.id, output="done"))
    (turn,) = told(requested(CALLER), e.TurnFailed(response_id="resp_1", code="upstream_error", message=""))
    assert {each.trace_id for each in (model, tool, turn)} == {"0123456789abcdef0123456789abcdef"}
    assert turn.parent_id == "0123456789abcdef"
    assert model.parent_id == tool.parent_id == turn.span_id
    assert len({model.span_id, tool.span_id, turn.span_id}) == 3
    assert (model.start_ms, model.end_ms) == (START_MS + 30, START_MS + 40)
    assert (tool.start_ms, tool.end_ms) == (START_MS + 50, START_MS + 60)
    assert turn.error == "upstream_error"


def test_what_is_told_has_the_names_of_the_conventions() -> None:
    model, tool = with_tool(e.EffectCommitted(turn=1, step=2, id=CALL.id, output="done"))
    assert (model.name, model.kind) == ("chat gpt-5", "client")
    assert model.attributes["gen_ai.provider.name"] == "azure.ai.openai"
    assert model.attributes["gen_ai.response.finish_reasons"] == ("tool_calls",)
    assert model.attributes["gen_ai.usage.input_tokens"] == 3
    assert (tool.name, tool.attributes["gen_ai.operation.name"]) == ("execute_tool refund", "execute_tool")
    assert tool.attributes["gen_ai.tool.call.id"] == CALL.id
    assert tool.attributes["mcp.method.name"] == "tools/call"
    (turn,) = told(requested(), e.TurnIncomplete(response_id="resp_1", reason="max_steps"))
    assert (turn.name, turn.attributes["gen_ai.agent.version"]) == ("invoke_agent clerk", "7")
    assert (turn.parent_id, turn.error) == ("", "max_steps")
    (plain,) = told(requested(agent=None), e.TurnCancelled(response_id="resp_1"))
    assert (plain.name, plain.error) == ("stateline.turn", None)


def test_content_is_told_only_where_it_is_asked_for() -> None:
    end = e.EffectCommitted(turn=1, step=2, id=CALL.id, output="done")
    for spans in (with_tool(end), told(requested(), e.TurnCancelled(response_id="resp_1"))):
        assert b"cents" not in (raw := msgspec.json.encode(spans))
        assert b"secret" not in raw
    _, tool = with_tool(end, content=True)
    assert tool.attributes["gen_ai.tool.call.arguments"] == '{"cents":5}'
    assert tool.attributes["gen_ai.tool.call.result"] == "done"
    _, parts = with_tool(
        e.EffectCommitted(turn=1, step=2, id=CALL.id, output=(InputText(text="x"),), failed=True), content=True
    )
    assert parts.attributes["gen_ai.tool.call.result"] == '[{"type":"input_text","text":"x"}]'
    assert parts.error == "tool_said_no"
    _, unknown = with_tool(e.EffectUnknown(turn=1, step=2, id=CALL.id, code="worker_lost", message=""), content=True)
    assert (unknown.error, "gen_ai.tool.call.result" in unknown.attributes) == ("worker_lost", False)
    (turn,) = told(requested(), e.TurnCancelled(response_id="resp_1"), content=True)
    assert "my secret" in str(turn.attributes["gen_ai.input.messages"])


def test_a_failed_call_and_an_answer_say_what_is_known() -> None:
    (failed,) = told(
        requested(agent=None),
        e.ModelCallStarted(turn=1, step=1, deployment="d", origin="local", model="m"),
        e.ModelCallFailed(turn=1, step=1, code="upstream_timeout", message="", retryable=True),
    )
    assert (failed.error, failed.attributes["gen_ai.provider.name"]) == ("upstream_timeout", "unknown")
    (answered,) = told(
        requested(agent=None),
        started(),
        e.ModelCallFinished(turn=1, step=1, finish_reason="stop", upstream_id="u", upstream_model="gpt-5-1"),
    )
    assert answered.attributes["gen_ai.response.model"] == "gpt-5-1"
    assert answered.attributes["gen_ai.response.id"] == "u"


@pytest.mark.parametrize(
    "text",
    ["", "00-" + "0" * 32 + "-0123456789abcdef-01", CALLER.replace("00-", "01-", 1), CALLER.upper(), CALLER + "-x"],
)
def test_what_is_no_traceparent_is_as_if_it_were_not_there(text: str) -> None:
    assert traced(text) is None
    (turn,) = told(requested(text), e.TurnCancelled(response_id="resp_1"))
    assert (turn.parent_id, len(turn.trace_id)) == ("", 32)


def test_a_session_that_was_read_tells_as_one_that_was_followed() -> None:
    bodies = [requested(CALLER, None), started(), e.ModelCallFinished(turn=1, step=1, finish_reason="stop")]
    events = [e.Event(session=REF, seq=at, at_ms=START_MS + at, body=body) for at, body in enumerate(bodies, start=1)]
    before = fold_all(new_session(REF), events[:2])
    assert spans_of(before, events[2:]) == spans_of(new_session(REF), events)


def test_what_the_fold_does_not_keep_is_told_where_it_is_known() -> None:
    bodies = [requested(CALLER, None), started(), e.ModelCallFinished(turn=1, step=1, finish_reason="stop")]
    events = [e.Event(session=REF, seq=at, at_ms=START_MS + at, body=body) for at, body in enumerate(bodies, start=1)]
    known = {StepKey(REF.id, 1, 1): Begun(START_MS + 2, Ruling(outcome="deny", clause="c/x", observed=True))}
    (call,) = spans_of(new_session(REF), events, begun=known)
    assert call.first_ms == START_MS + 2
    assert (call.attributes["stateline.verdict"], call.attributes["stateline.clause"]) == ("deny", "c/x")
    (unknown,) = spans_of(new_session(REF), events)
    assert (unknown.first_ms, "stateline.verdict" in unknown.attributes) == (0, False)


@pytest.mark.parametrize("label", ["functions", "sandbox", OWN_SERVER])
def test_a_tool_of_this_machine_is_no_mcp_servers(label: str) -> None:
    local = msgspec.structs.replace(CALL, server=label)
    tools = msgspec.structs.replace(SHOP, label=label)
    _, tool = told(
        requested(CALLER),
        e.ToolsListed(turn=1, servers=(tools,), items=(McpListTools(id="l", server_label=label),)),
        started(),
        e.ModelCallFinished(turn=1, step=1, finish_reason="tool_calls", calls=(local,)),
        e.EffectDispatched(turn=1, step=2, call=local, effect="unsafe"),
        e.EffectCommitted(turn=1, step=2, id=local.id),
    )
    assert "mcp.method.name" not in tool.attributes
