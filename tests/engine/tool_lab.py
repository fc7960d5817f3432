"""A host of tools, a policy, a signer and a model that calls the tools, for the flows of tool calls."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.conftest import asking

from stateline.core.items import FunctionCallOutput, Item, McpApprovalRequest, McpApprovalResponse, McpCall
from stateline.core.limits import TOOL_OUTPUT_SHOWN_BYTES
from stateline.core.response import Response
from stateline.core.tools import (
    Asked,
    EffectClass,
    McpTool,
    PolicyRequest,
    PolicyRuling,
    Terms,
    Tool,
    ToolCall,
    ToolResult,
)
from stateline.engine import Engine
from stateline.engine.tooling import Toolbox
from stateline.testing.scripted import Answer, ModelAsked, Script, ScriptedCall
from stateline.testing.scripted import Asked as AnyAsked
from stateline.testing.tool_host import Does, ScriptedHosts, ScriptedTools

FREE = McpTool(server_label="payments", require_approval="never")
CAREFUL = McpTool(server_label="payments")


class Signed:
    """Signs nothing: what a signature is worth is shown with the signer itself."""

    def sign(self, terms: Terms) -> Asked:
        return Asked(
            demanded_by=terms.demanded_by,
            principal=terms.principal,
            user=terms.user,
            server_url=terms.server_url,
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

    def of(name: str, effect: EffectClass) -> tuple[Tool, Does]:
        def does(call: ToolCall) -> ToolResult:
            return ToolResult(output=answers.get(name, f"{name} of {call.arguments}"))

        return Tool(name=name, description=f"does {name}", parameters={"type": "object"}, effect=effect), does

    return ScriptedTools(
        "payments", {"look": of("look", "read"), "put": of("put", "idempotent"), "refund": of("refund", "unsafe")}
    )


def calling(*names: str, then: str = "all done") -> Script:
    """A model that calls tools in its first answer, and speaks once it has their outputs."""

    def script(asked: AnyAsked, _: int) -> Answer:
        assert isinstance(asked, ModelAsked)
        outputs = [item for item in asked.request.items if isinstance(item, FunctionCallOutput)]
        if outputs:
            said = "; ".join(str(item.output) for item in outputs)
            return Answer(text=f"{then}: {said}")
        return Answer(calls=tuple(ScriptedCall(name=f"payments-{name}", arguments='{"n":1}') for name in names))

    return script


def does(host: ScriptedTools, name: str, does: Does) -> None:
    """Let a tool of the host do something else."""
    host._tools[name] = (host._tools[name][0], does)  # pyright: ignore[reportPrivateUsage]


def hanging(host: ScriptedTools, *names: str) -> asyncio.Event:
    """Let the tools never answer; the event says that one has begun."""
    begun = asyncio.Event()

    async def hang(call: ToolCall) -> ToolResult:
        begun.set()
        await asyncio.sleep(3600)
        raise AssertionError(call)

    for name in names:
        does(host, name, hang)
    return begun


def call_of(response: Response, at: int = 0) -> McpCall:
    item = response.output[at]
    assert isinstance(item, McpCall)
    return item


def request_of(response: Response, at: int = 0) -> McpApprovalRequest:
    item = response.output[at]
    assert isinstance(item, McpApprovalRequest)
    return item


def reason_of(response: Response) -> str | None:
    return response.incomplete_details and response.incomplete_details.reason


def saying(asked: McpApprovalRequest, *, approve: bool = True, reason: str | None = None) -> McpApprovalResponse:
    return McpApprovalResponse(id="", approval_request_id=asked.id, approve=approve, reason=reason)


def box(host: ScriptedTools, policy: Ruled | None = None, shown_bytes: int = TOOL_OUTPUT_SHOWN_BYTES) -> Toolbox:
    return Toolbox(ScriptedHosts([host]), Signed(), policy, shown_bytes)


async def done(engine: Engine, text: str | tuple[Item, ...], **fields: Any) -> Response:
    accepted = await engine.submit(asking(text, **fields))
    return await engine.wait(accepted, "open-responses")
