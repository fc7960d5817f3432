"""What tool calls change in a session: what waits, what was done, what ends a turn."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.core.driver import REF, START_MS, Attempt, TurnPlan, user
from tests.unit.core.examples import AGENT, PLANNED, SERVER
from tests.unit.core.streams import stream
from tests.unit.core.tool_driver import ASKED, REFUND, TOOL_REQUEST, Ruled, ToolDriver

from stateline.core import acting
from stateline.core import events as e
from stateline.core.acting import Act, Pending
from stateline.core.calls import (
    AllowedTools,
    CallDelta,
    CallStart,
    Finish,
    FunctionChoice,
    FunctionTool,
    SidecarDelta,
    TextDelta,
    ToolChoice,
)
from stateline.core.context import item_bytes
from stateline.core.errors import IllegalTransition, ModelError
from stateline.core.hosted import NOT_MADE, HostedTool, Hosting
from stateline.core.items import (
    EffectResolution,
    FunctionCallOutput,
    InputImage,
    InputText,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpListTools,
)
from stateline.core.limits import CRASHES_MAX, HISTORY_SUMS_MAX, SERVERS_KEPT_MAX, TOOL_CALLS_ANSWER_MAX, TurnLimits
from stateline.core.response import StatelineField, mcp_field
from stateline.core.stream import StreamBuilder
from stateline.core.tools import Answer, History, McpTool, ServerTools, Tool, ToolError
from stateline.core.turn import CallModel, asked, dropped, model_request

REFUSED: Sequence[Ruled] = ("refuse",)


def calls(*names: str) -> Attempt:
    said = [CallStart(at, f"c{at}", name) for at, name in enumerate(names)]
    return Attempt(said=said, finish=Finish(reason="tool_calls"))


def plan(*attempts: Attempt, waits: Sequence[str] = (), **fields: object) -> TurnPlan:
    shape: dict[str, object] = {"attempts": attempts, "waits": waits, "request": TOOL_REQUEST}
    return TurnPlan(**(shape | fields))  # pyright: ignore[reportArgumentType]


def end_of(driver: ToolDriver) -> e.Body:
    return driver.log[-1].body


def bodies(driver: ToolDriver, kind: type) -> list[e.Body]:
    return [event.body for event in driver.log if type(event.body) is kind]


# -- what follows ----------------------------------------------------------------------------------------------


def test_a_turn_goes_on_once_all_calls_of_an_answer_are_settled() -> None:
    driver = ToolDriver(rulings=["dispatch", "refuse", "dispatch"])
    driver.play(plan(calls("a-look", "a-refund", "b-put")))
    assert isinstance(end_of(driver), e.TurnCompleted)
    assert len(bodies(driver, e.ModelCallStarted)) == 2
    assert [item.status for item in driver.session.context if isinstance(item, McpCall)] == [
        "completed",
        "failed",
        "completed",
    ]


def test_a_turn_ends_where_the_client_or_a_person_is_to_answer() -> None:
    driver = ToolDriver()
    driver.play(plan(calls("f", "a-look")))
    assert isinstance(end_of(driver), e.TurnCompleted)
    assert len(bodies(driver, e.ModelCallStarted)) == 1
    driver = ToolDriver(rulings=["ask", "dispatch"])
    driver.play(plan(calls("a-refund", "a-look")))
    assert isinstance(end_of(driver), e.TurnCompleted)
    assert len(driver.session.pending) == 1


def test_a_turn_stops_where_nobody_knows_what_a_call_did() -> None:
    driver = ToolDriver(ends=["failed"])
    driver.play(plan(calls("a-refund")))
    assert end_of(driver) == e.TurnIncomplete(
        response_id=driver.session.last_response_id or "", reason="tool_outcome_unknown"
    )
    (waits,) = driver.session.pending.values()
    assert (waits.unknown, waits.call.tool, waits.code) == (True, "refund", "c")


@pytest.mark.parametrize(
    ("waits", "kind"), [(["fire", "cancel"], e.TurnCancelled), (["fire", "deadline"], e.TurnIncomplete)]
)
def test_a_turn_that_is_told_to_end_in_the_middle_of_calls_ends_them_first(waits: list[str], kind: type) -> None:
    driver = ToolDriver()
    driver.play(plan(calls("a-refund", "a-look"), waits=waits))
    assert type(end_of(driver)) is kind
    assert len(bodies(driver, e.EffectUnknown)) == len(bodies(driver, e.EffectFailed)) == 1


@pytest.mark.parametrize("what", ["cancel", "deadline"])
def test_a_turn_that_only_waits_for_its_tools_ends_at_once(what: str) -> None:
    """Also where it has approved calls to make: those run nowhere yet, and wait for a person again."""
    driver = ToolDriver(rulings=["ask"])
    driver.play(plan(calls("a-refund")))
    before = dict(driver.session.pending)
    driver.play(plan(waits=[what]))
    assert type(end_of(driver)) in (e.TurnCancelled, e.TurnIncomplete)
    assert driver.session.pending.keys() == before.keys()
    assert [waits.tries for waits in driver.session.pending.values()] == [1]
    driver.play(plan(calls()))
    assert not driver.session.pending
    assert len(bodies(driver, e.EffectDispatched)) == 1


def test_calls_beyond_what_the_request_and_its_agent_allow_are_not_made() -> None:
    few = msgspec.structs.replace(TOOL_REQUEST, max_tool_calls=1)
    driver = ToolDriver()
    driver.play(plan(calls("a-look", "a-look"), request=few))
    end = end_of(driver)
    assert isinstance(end, e.TurnIncomplete)
    assert end.reason == "max_tool_calls"
    assert not driver.sent


def test_no_call_takes_a_step_that_the_turn_has_not() -> None:
    driver = ToolDriver()
    driver.play(plan(calls("a-look", "a-look", "a-look"), limits=TurnLimits(steps_max=3)))
    assert len(bodies(driver, e.EffectDispatched)) == 2
    end = end_of(driver)
    assert isinstance(end, e.TurnIncomplete)
    assert end.reason == "max_steps"


def test_a_new_owner_takes_up_what_was_dispatched() -> None:
    driver = ToolDriver()
    driver.play(plan(calls("a-refund", "a-look"), waits=["fire", "lost", "handed_back", "fire"]))
    assert isinstance(end_of(driver), e.TurnCompleted)
    assert sorted(driver.sent.values()) == [1, 3], "the unsafe one once, the other under its key"


def test_a_session_that_kills_its_workers_says_what_it_does_not_know() -> None:
    driver = ToolDriver()
    driver.play(plan(calls("a-refund", "a-look"), waits=["fire", *["lost"] * CRASHES_MAX]))
    assert driver.session.quarantined
    assert isinstance(end_of(driver), e.TurnFailed)
    assert len(bodies(driver, e.EffectUnknown)) == len(bodies(driver, e.EffectFailed)) == 1
    assert [waits.unknown for waits in driver.session.pending.values()] == [True]


# -- answers ---------------------------------------------------------------------------------------------------


def test_what_is_approved_is_made_first_and_what_is_rejected_never() -> None:
    driver = ToolDriver(rulings=["ask", "ask"])
    driver.play(plan(calls("a-refund", "b-put")))
    first, second = driver.session.pending
    driver.answers_next = (
        Answer(id=first, decision="approve", by="q"),
        Answer(id=second, decision="reject", by="q"),
        Answer(id="mcpr_nobody", decision="approve", by="q"),
    )
    driver.play(plan())
    (dispatched,) = bodies(driver, e.EffectDispatched)
    assert isinstance(dispatched, e.EffectDispatched)
    assert (dispatched.approval, dispatched.call.tool, dispatched.again) == (first, "refund", False)
    assert (driver.session.history.approvals, driver.session.history.refusals) == (2, 1)
    assert not driver.session.pending


@pytest.mark.parametrize("decision", ["committed", "abandoned", "retry"])
def test_an_unknown_outcome_is_settled_once(decision: str) -> None:
    driver = ToolDriver(ends=["failed"])
    driver.play(plan(calls("a-refund")))
    (id_,) = driver.session.pending
    driver.answers_next = (Answer(id=id_, decision=decision, by="q"),)  # pyright: ignore[reportArgumentType]
    driver.play(plan())
    assert not driver.session.pending
    made = [body for body in bodies(driver, e.EffectDispatched) if isinstance(body, e.EffectDispatched)]
    assert [body.again for body in made] == ([False, True] if decision == "retry" else [False])
    assert len({body.call.id for body in made}) == len(made)


def test_a_call_that_was_to_be_made_again_and_was_not_waits_again() -> None:
    driver = ToolDriver(ends=["failed"])
    driver.play(plan(calls("a-refund")))
    before = dict(driver.session.pending)
    driver.play(plan(waits=["cancel"]))
    (id_,) = before
    assert driver.session.pending == {id_: msgspec.structs.replace(before[id_], tries=1)}


def test_a_call_that_another_session_asked_about_is_made_as_it_was_asked() -> None:
    driver = ToolDriver()
    moved = msgspec.structs.replace(PLANNED, server="a")
    driver.answers_next = (Answer(id="mcpr_x", decision="approve", by="q", call=moved, asked=ASKED, tries=2),)
    driver.play(plan(waits=["cancel"]))
    (waits,) = driver.session.pending.values()
    assert (waits.call, waits.asked, waits.principal, waits.tries) == (moved, ASKED, "p", 3)
    driver.answers_next = (Answer(id="mcpr_y", decision="approve", by="q", call=moved),)
    driver.play(plan(waits=["cancel"]))
    assert driver.session.pending["mcpr_y"].principal == ""


def test_an_approval_that_nobody_can_give_any_more_is_forgotten_and_an_unknown_outcome_never() -> None:
    late = msgspec.structs.replace(ASKED, expires_ms=START_MS)
    open_ = Pending(call=PLANNED, response_id="r", turn=1, asked=ASKED)
    expired = Pending(call=PLANNED, response_id="r", turn=1, asked=late)
    unknown = Pending(call=PLANNED, response_id="r", turn=1, asked=late, step=2)
    bare = Pending(call=PLANNED, response_id="r", turn=1)
    pending = {"a": open_, "b": expired, "c": unknown, "d": bare}
    assert acting.still_open(pending, START_MS) == {"a": open_, "c": unknown, "d": bare}


# -- what a failed turn leaves ---------------------------------------------------------------------------------


def test_what_a_turn_did_is_remembered_though_it_failed_later() -> None:
    driver = ToolDriver()
    driver.play(plan(calls("f")))
    before = driver.session.last_response_id
    driver.play(plan(calls("a-refund"), Attempt(ending="fatal"), input=[user("pay")]))
    assert isinstance(end_of(driver), e.TurnFailed)
    made = [item for item in driver.session.context if isinstance(item, McpCall)]
    assert [item.output for item in made] == ["done"]
    assert driver.session.last_response_id == before, "who asks again goes on from here, and the model is told"


def test_a_turn_that_failed_before_it_did_anything_leaves_nothing() -> None:
    driver = ToolDriver()
    driver.play(plan(Attempt(ending="fatal"), input=[user("pay")]))
    assert not list(driver.session.context)


@pytest.mark.parametrize(
    ("items", "did"),
    [
        ((), False),
        ((user("x"), McpListTools(id="l", server_label="a")), False),
        ((McpApprovalResponse(id="r", approval_request_id="x", approve=True),), True),
        ((EffectResolution(id="e", call_id="c", decision="retry"),), True),
        ((McpApprovalRequest(id="q", server_label="a", name="n", arguments=""),), True),
        ((McpCall(id="c", server_label="a", name="n", arguments=""),), True),
    ],
)
def test_deeds_are_told_from_words(items: tuple[McpCall, ...], did: bool) -> None:
    assert acting.did(items) == did


# -- the fold refuses what would make or end a call twice ----------------------------------------------------------


def test_a_call_is_dispatched_once_and_ended_once() -> None:
    planned = (Act(call=PLANNED),)
    under_way = acting.begun(planned, PLANNED, status="dispatched", step=2)
    with pytest.raises(IllegalTransition):
        acting.begun(under_way, PLANNED, status="dispatched", step=3)
    act = acting.act_of(under_way, PLANNED.id, "dispatched")
    done = acting.ended(under_way, act, unknown=False)
    assert acting.settled(done)
    assert not acting.settled(under_way)
    with pytest.raises(IllegalTransition):
        acting.act_of(done, PLANNED.id, "dispatched")
    with pytest.raises(IllegalTransition):
        acting.act_of(planned, "mcp_nobody", "planned")


# -- servers, sums, names ------------------------------------------------------------------------------------------


def listed(*labels: str, tools: tuple[Tool, ...] | None = (REFUND,)) -> e.ToolsListed:
    return e.ToolsListed(turn=1, servers=tuple([ServerTools(label=label, digest="d", tools=tools) for label in labels]))


def test_a_session_remembers_so_many_servers_the_newest_first() -> None:
    servers = acting.known({}, listed(*map(str, range(SERVERS_KEPT_MAX + 5))))
    assert len(servers) == SERVERS_KEPT_MAX + 5, "those of the turn itself are all known"
    servers = acting.known(servers, listed("0", tools=None))
    assert len(servers) == SERVERS_KEPT_MAX
    assert list(servers)[-1] == "0"
    assert servers["0"].tools == (REFUND,)
    assert "1" not in servers


def test_the_client_keeps_the_names_of_its_functions() -> None:
    request = e.TurnRequest(model="m", tools=(FunctionTool(name="a-refund"),))
    body = listed("a", "b")
    hosting = acting.hosting(acting.known({}, body), body, request)
    assert list(hosting.tools) == ["b-refund"]
    assert hosting.whose("a-refund") is None


def test_a_turn_has_its_own_servers_and_those_of_its_agent_that_it_does_not_name() -> None:
    own = e.TurnRequest(model="m", servers=(SERVER,))
    assert acting.wanted(own, None) == (SERVER,)
    other = McpTool(server_label="other")
    agent = msgspec.structs.replace(AGENT, tools=(*AGENT.tools, other))
    assert acting.wanted(own, agent) == (SERVER, other)


def test_whole_numbers_are_summed_by_tool_and_argument() -> None:
    history = History().called("a/b", {"n": 2, "ok": True, "x": 1.5, "s": "2"}).called("a/b", {"n": -1, "big": 1 << 63})
    assert history.called("a/c", {}) == History(calls={"a/b": 2, "a/c": 1}, sums={"a/b": {"n": 1}})


def test_a_call_that_cannot_be_counted_does_not_fit() -> None:
    history = History().called("a/b", {str(at): 1 for at in range(HISTORY_SUMS_MAX - 1)})
    assert history.fits("a/b", {"0": 1, "one more": 1})
    assert not history.fits("a/b", {"one more": 1, "and one": 1})
    assert history.fits("a/c", {"one more": 1, "and one": 1})
    assert history.fits("a/b", {"true": True, "words": "x", "other": 1.5})
    assert history.fits("a/b", {"0": -(1 << 63)})
    assert not history.fits("a/b", {"0": 1 << 63})


@pytest.mark.parametrize(("tool", "asks"), [("refund", True), ("look", False), ("other", True)])
def test_who_is_asked_about_which_tool(tool: str, asks: bool) -> None:
    server = McpTool(server_label="a", always=("refund",), never=("look",))
    assert server.asks(tool) == asks
    assert msgspec.structs.replace(server, require_approval="never").asks("other") is False
    assert msgspec.structs.replace(server, require_approval="never").asks("refund") is True


def test_the_fewest_calls_that_anybody_allows_are_allowed() -> None:
    driver = ToolDriver()
    for of_request, of_agent, most in ((None, None, None), (3, None, 3), (None, 5, 5), (3, 5, 3), (7, 5, 5)):
        agent = None if of_agent is None else msgspec.structs.replace(AGENT, max_tool_calls=of_agent)
        turn = begun(driver, msgspec.structs.replace(TOOL_REQUEST, max_tool_calls=of_request), agent).session.turn
        assert turn is not None
        assert turn.tool_calls_max == most
        driver = ToolDriver()


def begun(driver: ToolDriver, request: e.TurnRequest, agent: object = None) -> ToolDriver:
    driver.record(e.TurnRequested(response_id="r", turn=1, request=request, input=(), agent=agent))  # pyright: ignore
    return driver


def test_an_agent_says_what_its_models_calls_ask() -> None:
    request = msgspec.structs.replace(TOOL_REQUEST, instructions="In verse.", model="agent/clerk", servers=())
    turn = begun(ToolDriver(), request, AGENT).session.turn
    assert turn is not None
    params = asked(turn)
    assert (params.model, params.instructions, params.max_output_tokens) == ("gpt-5", "Be kind.\n\nIn verse.", 100)
    assert (turn.model, turn.agent_name) == ("gpt-5", "clerk")
    own = begun(ToolDriver(), msgspec.structs.replace(request, max_output_tokens=7), AGENT).session.turn
    assert own is not None
    assert asked(own).max_output_tokens == 7
    more = begun(ToolDriver(), msgspec.structs.replace(request, max_output_tokens=101), AGENT).session.turn
    assert more is not None
    assert asked(more).max_output_tokens == 100
    unbound = msgspec.structs.replace(AGENT, max_output_tokens=None)
    free = begun(ToolDriver(), request, unbound).session.turn
    assert free is not None
    assert asked(free).max_output_tokens is None
    plain = begun(ToolDriver(), e.TurnRequest(model="m")).session.turn
    assert plain is not None
    assert asked(plain) is plain.request


@pytest.mark.parametrize(
    ("choice", "after"),
    [
        ("required", "auto"),
        ("none", "none"),
        (FunctionChoice(name="a-refund"), "auto"),
        (
            AllowedTools(tools=(FunctionChoice(name="a-refund"),), mode="required"),
            AllowedTools(tools=(FunctionChoice(name="a-refund"),), mode="auto"),
        ),
    ],
)
def test_a_call_that_had_to_be_made_need_not_be_made_again(choice: ToolChoice, after: ToolChoice) -> None:
    turn = begun(ToolDriver(), e.TurnRequest(model="m", tool_choice=choice)).session.turn
    assert turn is not None
    assert asked(turn).tool_choice == choice
    assert asked(msgspec.structs.replace(turn, tool_calls=1)).tool_choice == after


def test_a_model_is_given_the_calls_of_earlier_turns_and_the_tools_of_this_one() -> None:
    driver = ToolDriver(rulings=["ask"])
    driver.play(plan(calls("a-refund"), input=[user("pay")]))
    (id_,) = driver.session.pending
    answer = McpApprovalResponse(id="mcpa_1", approval_request_id=id_, approve=True)
    driver.record(e.TurnRequested(response_id="r", turn=2, request=TOOL_REQUEST, input=(answer,)))
    driver.record(driver._listed())  # pyright: ignore[reportPrivateUsage]
    request = model_request(driver.session, CallModel(turn=2, step=1, key="k"), stream=True)
    output = request.items[-1]
    assert isinstance(output, FunctionCallOutput)
    assert output.output == NOT_MADE
    assert [tool.name for tool in request.params.tools] == ["f", "a-look", "a-refund", "b-put"]
    # Not every provider takes it that an output is incomplete.
    assert [each.what for each in dropped(driver.session, "openai-chat/openai")] == ["output_status"]


# -- items ----------------------------------------------------------------------------------------------------


def test_what_a_tool_gives_beside_text_is_kept_and_shown() -> None:
    item = McpCall(id="c", server_label="a", name="n", arguments="", status="in_progress")
    parts = (InputText(text="see"), InputImage(image_url="data:" + "x" * 1000))
    done = acting.ended_item(item, e.EffectCommitted(turn=1, step=1, id="c", output=parts))
    assert (done.output, done.content, done.status) == ("see\n[input_image]", parts, "completed")
    assert item_bytes(done) >= 1000
    no = acting.ended_item(item, e.EffectCommitted(turn=1, step=1, id="c", output="no", failed=True))
    assert no.error is not None
    assert (no.status, no.error.content, no.output) == ("failed", "no", None)


def test_a_list_of_tools_is_shown_where_the_request_names_the_server() -> None:
    driver = begun(ToolDriver(), TOOL_REQUEST)
    body = driver._listed()  # pyright: ignore[reportPrivateUsage]
    driver.record(msgspec.structs.replace(body, items=(McpListTools(id="mcpl_1", server_label="a"),)))
    driver.finish()
    events, response = stream(driver.log, "r")
    assert [each["type"] for each in events if "mcp_list" in each["type"]] == [
        "response.mcp_list_tools.in_progress",
        "response.mcp_list_tools.completed",
    ]
    assert response.output[0] == McpListTools(id="mcpl_1", server_label="a")
    assert [each["sequence_number"] for each in events] == list(range(len(events)))


def test_a_call_that_is_not_made_is_shown_as_failed() -> None:
    driver = ToolDriver(rulings=REFUSED)
    name = driver.play(plan(calls("a-refund")))
    assert name is not None
    events, response = stream(driver.log, name)
    assert [each["type"] for each in events[2:7]] == [
        "response.output_item.added",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.failed",
        "response.output_item.done",
    ]
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    (call,) = [item for item in response.output if isinstance(item, McpCall)]
    assert (call.status, call.error and call.error.content) == ("failed", "no")


def test_only_what_is_under_way_is_lost() -> None:
    acts = (Act(call=PLANNED, status="done"), Act(call=PLANNED, status="dispatched", step=3))
    (body,) = acting.lost(acts, 1, 7, "c", "m")
    assert body == e.EffectUnknown(turn=1, step=3, number=7, id=PLANNED.id, code="c", message="m")


def test_a_response_repeats_what_its_request_wants_to_be_asked_about() -> None:
    server = McpTool(server_label="a", always=("refund",))
    assert mcp_field(server).require_approval == {"always": {"tool_names": ["refund"]}}
    assert mcp_field(McpTool(server_label="a", require_approval="never")).require_approval == "never"


def test_an_error_of_a_tool_says_whether_it_may_have_begun() -> None:
    error = ToolError("no", sent=True)
    assert (error.code, error.sent, error.retryable) == ("tool_failed", True, False)


def test_a_response_says_what_it_waits_for() -> None:
    driver = ToolDriver(ends=["failed"], rulings=["dispatch", "ask"])
    name = driver.play(plan(calls("a-refund", "b-put")))
    assert name is not None
    _, response = stream(driver.log, name)
    assert isinstance(response.stateline, StatelineField)
    assert {(ask.name, ask.demanded_by) for ask in response.stateline.waits_for} == {
        ("refund", None),
        ("put", "client"),
    }


# -- the stream of an answer with hosted calls ------------------------------------------------------------------------

HOSTING = Hosting({"a-look": HostedTool("a-look", "a", Tool(name="look"))}, frozenset({"f"}))


def builder() -> StreamBuilder:
    return StreamBuilder(REF.id, 1, 1, 2, 0, hosting=HOSTING)


def test_hosted_calls_are_told_from_the_clients_however_they_are_interleaved() -> None:
    made = builder()
    made.feed(
        [
            TextDelta("I look."),
            CallStart(0, "c0", "a-look"),
            SidecarDelta({"signature": "s0"}),
            CallStart(1, "c1", "f"),
            SidecarDelta({"signature": "s1"}),
            CallStart(2, "c2", "a-look"),
            CallDelta(0, '{"n"'),
            CallDelta(1, "{}"),
            CallDelta(2, '{"é":2}'),
            CallDelta(0, ":1}"),
            SidecarDelta({"signature": "s2"}),
        ]
    )
    items, _, _ = made.end("completed")
    assert [(call.tool, call.arguments) for call in made.calls()] == [("look", '{"n":1}'), ("look", '{"é":2}')]
    assert [getattr(item, "arguments", "") for item in items] == ["", "{}"]
    ids = [call.id for call in made.calls()]
    assert {id_: data["signature"] for id_, data in made.sidecars.items()} == {
        ids[0]: "s0",
        items[1].id: "s1",
        ids[1]: "s2",
    }
    assert made.output_bytes == len('I look.{"n":1}{}{"é":2}'.encode())


def test_a_hosted_call_that_begins_twice_is_malformed() -> None:
    with pytest.raises(ModelError):
        builder().feed([CallStart(0, "c", "a-look"), CallStart(0, "c", "a-look")])


def test_an_answer_with_too_many_hosted_calls_is_refused() -> None:
    made = builder()
    made.feed([CallStart(at, "c", "a-look") for at in range(TOOL_CALLS_ANSWER_MAX)])
    with pytest.raises(ModelError) as caught:
        made.feed([CallStart(TOOL_CALLS_ANSWER_MAX, "c", "a-look")])
    assert (caught.value.code, caught.value.retryable) == ("malformed_stream", False)


def test_an_answer_that_was_cut_short_makes_no_calls() -> None:
    driver = ToolDriver()
    cut = Attempt(said=[CallStart(0, "c", "a-refund"), CallDelta(0, '{"ce')], finish=Finish(reason="length"))
    driver.play(plan(cut))
    assert not bodies(driver, e.EffectDispatched)
    end = end_of(driver)
    assert isinstance(end, e.TurnIncomplete)
    assert end.reason == "max_output_tokens"
