"""Values of a tool call: what a tool is, what it is asked, and what it answered.

An effect class says what a second run of the same call does to the world (DESIGN §5, The effect ledger).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stateline.core.errors import Blame, StatelineError
from stateline.core.items import InputContent

EffectClass = Literal["read", "idempotent", "unsafe"]
"""``read`` changes nothing; ``idempotent`` does once what it does under one key; ``unsafe`` may do it again."""


class Tool(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A tool as its host offers it.

    Attributes:
        name: the host's own; unique there.
        parameters: JSON Schema of its arguments.
        effect: what the operator says, or, where the host is trusted, what the host says; else ``unsafe``.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    effect: EffectClass = "unsafe"


class ToolCall(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One call, as its host gets it.

    Attributes:
        tool: its name at the host.
        arguments: a JSON object, as the model wrote it.
        key: the effect's key: the same for every run of the same call.
        principal, agent: for whom it is made; ``agent`` is empty where no agent makes it.
        timeout_s: after which the host gives up.
    """

    tool: str
    arguments: str
    key: str
    tenant: str
    session: str
    principal: str = ""
    agent: str = ""
    timeout_s: float = 60.0


class ToolResult(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a tool answered. ``failed``: it says itself that it did not do it; the model is told so."""

    output: str | tuple[InputContent, ...] = ""
    failed: bool = False


class ToolError(StatelineError):
    """A call that gave no answer.

    Attributes:
        sent: whether the tool may have begun. Where it may, the outcome of an unsafe call is unknown.
        retryable: whether the same call may do better later.
    """

    code = "tool_failed"
    status = 502
    blame: Blame = "upstream"

    def __init__(self, message: str, *, code: str | None = None, sent: bool, retryable: bool = False) -> None:
        super().__init__(message, code=code)
        self.sent = sent
        self.retryable = retryable


class History(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a session did so far, as policies may ask: calls that were dispatched, however they ended.

    Attributes:
        calls: how many of each tool, by ``server/tool``.
        sums: of each tool, by ``server/tool`` and the name of a top-level argument that is a whole number: their sum.
        approvals: how many calls a person has let go; ``refusals``: how many not.
    """

    calls: dict[str, int] = {}
    sums: dict[str, dict[str, int]] = {}
    approvals: int = 0
    refusals: int = 0


class PolicyRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One tool call, as a policy is asked about it.

    Attributes:
        server: the host's label.
        arguments: the JSON object, decoded.
        data_zone: where the tool's host keeps what it is told; empty where that is not configured.
        approved: a person other than the one who asks has let exactly this call go.
    """

    tenant: str
    principal: str
    agent: str
    server: str
    tool: str
    effect: EffectClass
    arguments: dict[str, Any]
    data_zone: str = ""
    history: History = History()
    approved: bool = False


class PolicyRuling(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What the policy says, with what decided it.

    Attributes:
        outcome: ``approve``: it would be allowed if a person approved it.
        policies: the ids of those that decided; none where nothing permits it.
        errors: of the evaluation; with any, the outcome is ``deny``.
        version: a digest of the policies in force.
        enforced: False where the ruling is only recorded (``log_only``).
    """

    outcome: Literal["allow", "approve", "deny"]
    policies: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    version: str = ""
    enforced: bool = True
