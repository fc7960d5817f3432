"""Tools that the runtime calls: what runs, what waits for a person, and what a crash leaves."""

from __future__ import annotations

import asyncio

import pytest
from tests.engine.conftest import Lab, asking, kinds, log_of, logged, texts

from stateline.core import events as e
from stateline.core.errors import StatelineError
from stateline.core.items import FunctionCallOutput, McpApprovalRequest, McpApprovalResponse, McpCall
from stateline.core.tools import Agent, Asked, McpTool, PolicyRequest, PolicyRuling, Terms, Tool, ToolCall, ToolResult
from stateline.engine import Engine
from stateline.engine.tooling import Toolbox
from stateline.testing.scripted import Answer, ScriptedCall
from stateline.testing.scripted import ModelAsked as Request
from stateline.testing.tool_host import ScriptedHosts, ScriptedTools

FREE = McpTool(server_label="payments", require_approval="never")
CAREFUL = McpTool(server_label="payments")


class Signed:
    """Signs nothing: what a signature is worth is shown with the signer itself."""

    def sign(self, terms: Terms) -> Asked:
        return Asked(
            demanded_by=terms.demanded_by,
            principal=terms.principal,
            agent=terms.agent,
            expires_ms=terms.expires_ms,
            policy_version=terms.policy_version,
            signature="signed",
        )

    def refusal(self, terms: Terms, asked: Asked, now_ms: int) -> str | None:
        return None if asked.signature == "signed" and now_ms < terms.expires_ms else "approval_forged"


class Ruled:
    """A policy that says what it is told to, by tool."""

    def __init__(self, **outcomes: str) -> None:
        self.outcomes = outcomes
        self.asked: list[PolicyRequest] = []

    def rule(self, request: PolicyRequest) -> PolicyRuling:
        self.asked.append(request)
        outcome = self.outcomes.get(request.tool, "allow")
        if outcome == "approve" and request.approved:
            outcome = "allow"
        return PolicyRuling(outcome=outcome, policies=("rule",), version="1")  # pyright: ignore[reportArgumentType]


def tools(**answers: str) -> ScriptedTools:
    """A host ``payments``: ``look`` reads, ``put`` is idempotent, ``refund`` is unsafe."""

    def of(name: str, effect: str) -> tuple[Tool, object]:
        tool = Tool(name=name, description=f"does {name}", parameters={"type": "object"}, effect=effect)  # pyright: ignore
        return tool, lambda call: ToolResult(output=answers.get(name, f"{name} of {call.arguments}"))

    shapes = {"look": of("look", "read"), "put": of("put", "idempotent"), "refund": of("refund", "unsafe")}
    return ScriptedTools("payments", shapes)  # pyright: ignore[reportArgumentType]


def calling(*names: str, then: str = "all done") -> object:
    """A model that calls tools in its first answer, and speaks once it has their outputs."""

    def script(asked: Request, _: int) -> Answer:
        outputs = [item for item in asked.request.items if isinstance(item, FunctionCallOutput)]
        if outputs:
            said = "; ".join(str(item.output) for item in outputs)
            return Answer(text=f"{then}: {said}")
        return Answer(calls=tuple(ScriptedCall(name=f"payments-{name}", arguments='{"n":1}') for name in names))

    return script


def box(host: ScriptedTools, policy: Ruled | None = None) -> Toolbox:
    return Toolbox(ScriptedHosts([host]), Signed(), policy)


async def done(engine: Engine, text: object, **fields: object) -> object:
    accepted = await engine.submit(asking(text, **fields))  # pyright: ignore[reportArgumentType]
    return await engine.wait(accepted, "open-responses")


async def test_a_tool_is_called_and_its_output_given_to_the_model(lab: Lab) -> None:
    lab.script(calling("look"))  # pyright: ignore[reportArgumentType]
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
    lab.script(calling("look", "refund"))  # pyright: ignore[reportArgumentType]
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
    model = lab.script(calling("look"))  # pyright: ignore[reportArgumentType]
    async with lab.engine(toolbox=box(tools()), agents={"clerk": agent}) as engine:
        response = await done(engine, "go", model="agent/clerk")
        assert texts(response.output) == ['all done: look of {"n":1}']  # pyright: ignore
        assert response.model == "agent/clerk"  # pyright: ignore
        assert response.instructions is None  # pyright: ignore
        assert [asked.request.params.instructions for asked in model.requests] == ["Be kind."] * 2
        with pytest.raises(StatelineError) as caught:
            await engine.submit(asking("go", model="agent/nobody"))
        assert caught.value.code == "model_not_found"


async def test_what_the_client_wants_to_be_asked_about_waits_for_its_answer(lab: Lab) -> None:
    lab.script(calling("refund"))  # pyright: ignore[reportArgumentType]
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        assert first.status == "completed"  # pyright: ignore
        asked = first.output[0]  # pyright: ignore
        assert isinstance(asked, McpApprovalRequest)
        assert not host.calls
        answer = McpApprovalResponse(id="", approval_request_id=asked.id, approve=True)
        second = await done(engine, (answer,), after=first.id, servers=(CAREFUL,))  # pyright: ignore
        assert [type(item).__name__ for item in second.output] == ["McpCall", "Message"]  # pyright: ignore
        assert second.output[0].approval_request_id == asked.id  # pyright: ignore
        assert len(host.calls) == 1
        with pytest.raises(StatelineError) as caught:
            await done(engine, (answer,), after=second.id, servers=(CAREFUL,))  # pyright: ignore
        assert (caught.value.code, caught.value.status) == ("approval_answered", 409)
        with pytest.raises(StatelineError) as caught:
            # Another branch of the same log: the answer counts once in all of them.
            await done(engine, (answer,), after=first.id, servers=(CAREFUL,))  # pyright: ignore
        assert (caught.value.code, caught.value.status) == ("approval_answered", 409)
        assert len(host.calls) == 1


async def test_a_call_that_a_person_did_not_let_go_is_told_to_the_model(lab: Lab) -> None:
    lab.script(calling("refund"))  # pyright: ignore[reportArgumentType]
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        answer = McpApprovalResponse(
            id="",
            approval_request_id=first.output[0].id,  # pyright: ignore
            approve=False,
            reason="too much",
        )
        second = await done(engine, (answer,), after=first.id, servers=(CAREFUL,))  # pyright: ignore
        assert "did not approve this call" in texts(second.output)[0]  # pyright: ignore
        assert "too much" in texts(second.output)[0]  # pyright: ignore
        assert not host.calls


async def test_what_the_policy_demands_another_must_answer(lab: Lab) -> None:
    lab.script(calling("refund"))  # pyright: ignore[reportArgumentType]
    host, policy = tools(), Ruled(refund="approve")
    async with lab.engine(toolbox=box(host, policy)) as engine:
        first = await done(engine, "go", servers=(FREE,), principal="key_1")
        asked = first.output[0]  # pyright: ignore
        assert isinstance(asked, McpApprovalRequest)
        answer = McpApprovalResponse(id="", approval_request_id=asked.id, approve=True)
        with pytest.raises(StatelineError) as caught:
            await done(engine, (answer,), after=first.id, servers=(FREE,), principal="key_1")  # pyright: ignore
        assert (caught.value.code, caught.value.status) == ("approval_by_requester", 403)
        second = await done(engine, (answer,), after=first.id, servers=(FREE,), principal="key_2")  # pyright: ignore
        assert second.output[0].status == "completed"  # pyright: ignore
        # It is made for whoever asked, not for whoever approved.
        assert [call.principal for call in host.calls] == ["key_1"]
        assert [(one.principal, one.approved) for one in policy.asked] == [("key_1", False), ("key_1", True)]


async def test_what_the_policy_denies_is_told_to_the_model(lab: Lab) -> None:
    lab.script(calling("refund", "look"))  # pyright: ignore[reportArgumentType]
    host = tools()
    async with lab.engine(toolbox=box(host, Ruled(refund="deny"))) as engine:
        response = await done(engine, "go", servers=(FREE,))
        assert [item.status for item in response.output[:2]] == ["failed", "completed"]  # pyright: ignore
        assert "policy" in response.output[0].error.content  # pyright: ignore
        assert [call.tool for call in host.calls] == ["look"]


async def test_a_lost_unsafe_call_is_never_made_again(lab: Lab) -> None:
    begun = asyncio.Event()
    host = tools()

    async def hang(call: ToolCall) -> ToolResult:
        begun.set()
        await asyncio.sleep(3600)
        raise AssertionError

    host._tools["refund"] = (host._tools["refund"][0], hang)  # pyright: ignore[reportPrivateUsage]
    lab.script(calling("refund"))  # pyright: ignore[reportArgumentType]
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
    begun = asyncio.Event()
    host = tools()

    async def hang(call: ToolCall) -> ToolResult:
        begun.set()
        await asyncio.sleep(3600)
        raise AssertionError

    host._tools[name] = (host._tools[name][0], hang)  # pyright: ignore[reportPrivateUsage]
    lab.script(calling(name))  # pyright: ignore[reportArgumentType]
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
    begun = asyncio.Event()
    host = tools()

    async def hang(call: ToolCall) -> ToolResult:
        begun.set()
        await asyncio.sleep(3600)
        raise AssertionError

    host._tools["refund"] = (host._tools["refund"][0], hang)  # pyright: ignore[reportPrivateUsage]
    lab.script(calling("refund"))  # pyright: ignore[reportArgumentType]
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
