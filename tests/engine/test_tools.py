"""Tools that the runtime calls: what runs, what waits for a person, and what a crash leaves."""

from __future__ import annotations

import pytest
from tests.engine.conftest import Lab, asking, kinds, log_of, logged, texts
from tests.engine.tool_lab import (
    CAREFUL,
    FREE,
    Ruled,
    box,
    call_of,
    calling,
    done,
    hanging,
    request_of,
    tools,
)

from stateline.core import events as e
from stateline.core.approvals import Sealer
from stateline.core.errors import StatelineError
from stateline.core.items import McpApprovalRequest, McpApprovalResponse, McpCall
from stateline.core.tools import Agent, McpTool, ToolResult
from stateline.engine import Answerer
from stateline.engine.tooling import Toolbox
from stateline.testing.scripted import ModelAsked
from stateline.testing.tool_host import ScriptedHosts


async def test_a_tool_is_called_and_its_output_given_to_the_model(lab: Lab) -> None:
    lab.script(calling("look"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,)))
        response = await engine.wait(accepted, "open-responses")
        assert response.status == "completed"
        assert [type(item).__name__ for item in response.output] == ["McpCall", "Message"]
        call = response.output[0]
        assert isinstance(call, McpCall)
        assert (call.server_label, call.name, call.arguments, call.status) == (
            "payments",
            "look",
            '{"n":1}',
            "completed",
        )
        assert call.output == 'look of {"n":1}'
        assert texts(response.output) == ['all done: look of {"n":1}']
        assert [one.key for one in host.calls] == [f"{accepted.session.id}/1/2"]
        assert kinds(await log_of(engine, accepted.session, chunks=False)) == [
            "SessionCreated",
            "TurnRequested",
            "ToolsListed",
            "ModelCallStarted",
            "ModelCallFinished",
            "EffectDispatched",
            "EffectCommitted",
            "ModelCallStarted",
            "ModelCallFinished",
            "TurnCompleted",
        ]


async def test_the_stream_of_a_tool_call_is_numbered_without_a_gap(lab: Lab) -> None:
    lab.script(calling("look", "refund"))
    async with lab.engine(toolbox=box(tools())) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,)))
        seen = [event async for events in engine.stream(accepted) for event in events]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        types = [event.type for event in seen]
        assert types.count("response.mcp_call.completed") == 2
        assert types.count("response.output_item.added") == types.count("response.output_item.done") == 3
        again = [event async for events in engine.stream(accepted, cursor=4) for event in events]
        assert again == seen[5:]


async def test_an_agent_is_used_as_a_model(lab: Lab) -> None:
    agent = Agent(name="clerk", version="1", model="m", instructions="Be kind.", tools=(FREE,))
    model = lab.script(calling("look"))
    async with lab.engine(toolbox=box(tools()), agents={"clerk": agent}) as engine:
        response = await done(engine, "go", model="agent/clerk")
        assert texts(response.output) == ['all done: look of {"n":1}']
        assert response.model == "agent/clerk"
        assert response.instructions is None
        assert [asked.request.params.instructions for asked in model.requests if isinstance(asked, ModelAsked)] == [
            "Be kind."
        ] * 2
        with pytest.raises(StatelineError) as caught:
            await engine.submit(asking("go", model="agent/nobody"))
        assert caught.value.code == "model_not_found"


async def test_what_the_client_wants_to_be_asked_about_waits_for_its_answer(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        assert first.status == "completed"
        asked = request_of(first)
        assert not host.calls
        answer = McpApprovalResponse(id="", approval_request_id=asked.id, approve=True)
        second = await done(engine, (answer,), after=first.id, servers=(CAREFUL,))
        assert [type(item).__name__ for item in second.output] == ["McpCall", "Message"]
        assert call_of(second).approval_request_id == asked.id
        assert len(host.calls) == 1
        with pytest.raises(StatelineError) as caught:
            await done(engine, (answer,), after=second.id, servers=(CAREFUL,))
        assert (caught.value.code, caught.value.status) == ("approval_answered", 409)
        with pytest.raises(StatelineError) as caught:
            # Another branch of the same log: the answer counts once in all of them.
            await done(engine, (answer,), after=first.id, servers=(CAREFUL,))
        assert (caught.value.code, caught.value.status) == ("approval_answered", 409)
        assert len(host.calls) == 1


async def test_a_call_that_a_person_did_not_let_go_is_told_to_the_model(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        answer = McpApprovalResponse(
            id="",
            approval_request_id=request_of(first).id,
            approve=False,
            reason="too much",
        )
        second = await done(engine, (answer,), after=first.id, servers=(CAREFUL,))
        assert "did not approve this call" in texts(second.output)[0]
        assert "too much" in texts(second.output)[0]
        assert not host.calls


async def test_what_the_policy_demands_another_must_answer(lab: Lab) -> None:
    lab.script(calling("refund"))
    host, policy = tools(), Ruled(refund="approve")
    async with lab.engine(toolbox=box(host, policy)) as engine:
        first = await done(engine, "go", servers=(FREE,), principal="key_1")
        asked = request_of(first)
        answer = McpApprovalResponse(id="", approval_request_id=asked.id, approve=True)
        with pytest.raises(StatelineError) as caught:
            await done(engine, (answer,), after=first.id, servers=(FREE,), principal="key_1")
        assert (caught.value.code, caught.value.status) == ("approval_by_requester", 403)
        second = await done(engine, (answer,), after=first.id, servers=(FREE,), principal="key_2")
        assert call_of(second).status == "completed"
        # It is made for whoever asked, not for whoever approved.
        assert [call.principal for call in host.calls] == ["key_1"]
        assert [(one.principal, one.approved) for one in policy.asked] == [("key_1", False), ("key_1", True)]


async def test_one_person_does_not_approve_with_another_key_what_the_policy_demands(lab: Lab) -> None:
    lab.script(calling("refund"))
    host, policy = tools(), Ruled(refund="approve")
    async with lab.engine(toolbox=box(host, policy)) as engine:
        first = await done(engine, "go", servers=(FREE,), principal="key_1", person="ada")
        answer = McpApprovalResponse(id="", approval_request_id=request_of(first).id, approve=True)
        with pytest.raises(StatelineError) as caught:
            await done(engine, (answer,), after=first.id, servers=(FREE,), principal="key_2", person="ada")
        assert (caught.value.code, caught.value.status) == ("approval_by_requester", 403)
        with pytest.raises(StatelineError) as caught:
            await engine.answer("default", Answerer("user:ada", "ada", may_approve=True), answer)
        assert caught.value.code == "approval_by_requester"
        assert not host.calls
        second = await done(engine, (answer,), after=first.id, servers=(FREE,), principal="key_3", person="bob")
        assert call_of(second).status == "completed"
        assert [one.approved for one in policy.asked] == [False, True]


async def test_a_yes_is_for_the_server_that_was_asked_about_and_not_for_another_of_its_label(lab: Lab) -> None:
    lab.script(calling("refund"))
    asked_about, other = tools(), tools()
    hosts = ScriptedHosts(named={"https://pay.example/mcp": asked_about, "https://evil.example/mcp": other})
    signer = Sealer({"k": bytes(32)}, "k")
    right = McpTool(server_label="payments", server_url="https://pay.example/mcp")
    wrong = McpTool(server_label="payments", server_url="https://evil.example/mcp")
    async with lab.engine(toolbox=Toolbox(hosts, signer, None)) as engine:
        first = await done(engine, "go", servers=(right,))
        (asked,) = [item for item in first.output if isinstance(item, McpApprovalRequest)]
        answer = McpApprovalResponse(id="", approval_request_id=asked.id, approve=True)
        accepted = await engine.submit(asking((answer,), after=first.id, servers=(wrong,)))
        second = await engine.wait(accepted, "open-responses")
        assert [item.status for item in second.output if isinstance(item, McpCall)] == ["failed"]
        log = await log_of(engine, accepted.session)
        (refused,) = [event.body for event in log if isinstance(event.body, e.EffectRefused)]
        assert refused.code == "approval_tool_changed"
        assert not other.calls
        assert not asked_about.calls


async def test_what_the_policy_denies_is_told_to_the_model(lab: Lab) -> None:
    lab.script(calling("refund", "look"))
    host = tools()
    async with lab.engine(toolbox=box(host, Ruled(refund="deny"))) as engine:
        response = await done(engine, "go", servers=(FREE,))
        assert [call_of(response, at).status for at in (0, 1)] == ["failed", "completed"]
        error = call_of(response).error
        assert error is not None
        assert "policy" in error.content
        assert [call.tool for call in host.calls] == ["look"]


async def test_a_lost_unsafe_call_is_never_made_again(lab: Lab) -> None:
    host = tools()
    begun = hanging(host, "refund")
    lab.script(calling("refund"))
    async with lab.engine(toolbox=box(host), kill=True) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await begun.wait()
    after = tools()
    async with lab.engine(toolbox=box(after)) as engine:
        await logged(engine, accepted.session, "TurnIncomplete", 1)
        response = await engine.wait(accepted, "open-responses")
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "tool_outcome_unknown"
        call = response.output[0]
        assert isinstance(call, McpCall)
        assert call.status == "incomplete"
        assert not after.calls
        assert [one.key for one in after.looked_up] == [f"{accepted.session.id}/1/2"]


@pytest.mark.parametrize("name", ["look", "put"])
async def test_a_lost_call_that_may_run_twice_runs_again_under_its_key(lab: Lab, name: str) -> None:
    host = tools()
    begun = hanging(host, name)
    lab.script(calling(name))
    async with lab.engine(toolbox=box(host), kill=True) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await begun.wait()
    after = tools()
    async with lab.engine(toolbox=box(after)) as engine:
        await logged(engine, accepted.session, "TurnCompleted", 1)
        response = await engine.wait(accepted, "open-responses")
        assert texts(response.output) == [f'all done: {name} of {{"n":1}}']
        assert [one.key for one in after.calls] == [one.key for one in host.calls]


async def test_a_lost_call_that_its_tool_can_prove_counts(lab: Lab) -> None:
    host = tools()
    begun = hanging(host, "refund")
    lab.script(calling("refund"))
    async with lab.engine(toolbox=box(host), kill=True) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await begun.wait()
    after = tools()
    after.proven[host.calls[0].key] = ToolResult(output="refund 7 was made")
    async with lab.engine(toolbox=box(after)) as engine:
        await logged(engine, accepted.session, "TurnCompleted", 1)
        response = await engine.wait(accepted, "open-responses")
        assert texts(response.output) == ["all done: refund 7 was made"]
        assert not after.calls
        committed = [
            event.body for event in await log_of(engine, accepted.session) if isinstance(event.body, e.EffectCommitted)
        ]
        assert [body.read_back for body in committed] == [True]
