"""Values of a tool call: what a tool is, what it is asked, and what it answered.

An effect class says what a second run of the same call does to the world (DESIGN §5, The effect ledger).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from stateline.core.errors import Blame, StatelineError
from stateline.core.items import InputContent
from stateline.core.limits import HISTORY_SUMS_MAX

_NO_SUMS: Mapping[str, int] = {}
_INT_MAX = 1 << 63

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


class ServerTools(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What one host offers to a turn.

    Attributes:
        label: the host's.
        digest: of the tools.
        tools: None where the session has heard of the same before.
        data_zone: where the host keeps what it is told; empty where that is not configured.
    """

    label: str
    digest: str
    tools: tuple[Tool, ...] | None = None
    data_zone: str = ""


class McpTool(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A server whose tools a request wants, without what it is to be told as a secret.

    Attributes:
        server_url: None: the operator's own of this label.
        allowed_tools: None: all of them.
        always, never: names of tools that are asked about at each call, or not at all; for all others
            ``require_approval`` says.
        secret: the request brings headers for it, which are kept in the memory of the node that took it alone.
    """

    server_label: str
    server_url: str | None = None
    server_description: str | None = None
    allowed_tools: tuple[str, ...] | None = None
    require_approval: Literal["always", "never"] = "always"
    always: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    secret: bool = False

    def asks(self, tool: str) -> bool:
        """Whether the client wants to be asked about a call of the tool."""
        if tool in self.always:
            return True
        return self.require_approval == "always" and tool not in self.never


AGENT_PREFIX = "agent/"
"""A request that names a model ``agent/NAME`` means an agent."""


class Agent(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An agent as the operator has configured it; a turn keeps the one that it began with.

    Attributes:
        version: a digest of all the rest, where the operator names none.
        tools: the operator's servers that it uses.
    """

    name: str
    version: str
    model: str
    instructions: str = ""
    description: str = ""
    tools: tuple[McpTool, ...] = ()
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None


class PlannedCall(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A call that a model's answer asks for.

    Attributes:
        id: of the item that it becomes.
        server, tool: whose it is; an empty ``server``: there is no such tool.
        arguments: as the model wrote them.
    """

    id: str
    server: str
    tool: str
    arguments: str

    @property
    def name(self) -> str:
        """By which histories and policies know the tool."""
        return f"{self.server}/{self.tool}"


Demand = Literal["client", "policy"]
"""Who wants a person to be asked. What the policy demands, another than the asking principal must answer."""


class Asked(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a person is asked about a call, and what the answer is bound to.

    Attributes:
        principal, agent: for whom the call would be made; ``user`` is the person behind the principal, if known.
        expires_ms: Unix time from which on it cannot be answered.
        server_url: of the server that a request named itself; empty where it is one of the operator's.
        policy_version: of the policy that was asked; empty where there is none.
        signature: over all of this and the call; ``key_id`` names its key.
    """

    demanded_by: Demand
    principal: str
    user: str = ""
    agent: str = ""
    server_url: str = ""
    expires_ms: int
    policy_version: str = ""
    key_id: str = ""
    signature: str = ""


class Terms(NamedTuple):
    """What an approval is bound to: exactly this call, for exactly this principal.

    Attributes:
        call: the id of its item, which is of one turn and step of one session.
        arguments: as the model wrote them.
        expires_ms: Unix time.
    """

    tenant: str
    session: str
    call: str
    server: str
    server_url: str
    tool: str
    arguments: str
    principal: str
    user: str
    agent: str
    demanded_by: Demand
    policy_version: str
    expires_ms: int


class Answer(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a person said, as the server saw it.

    Attributes:
        id: of the approval request, or of the call whose outcome was not known.
        by: the principal who said it.
        by_another: it is neither the principal nor the person for whom the call would be made.
        call, asked: what was asked, where another session had asked it.
        tries: how often it was let go before, in turns that ended without making the call.
    """

    id: str
    decision: Literal["approve", "reject", "committed", "abandoned", "retry"]
    by: str
    by_another: bool = False
    call: PlannedCall | None = None
    asked: Asked | None = None
    tries: int = 0


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

    def called(self, name: str, arguments: Mapping[str, Any]) -> History:
        """With another call of the tool."""
        sums = self.sums.get(name, _NO_SUMS)
        more = {key: sums.get(key, 0) + value for key, value in arguments.items() if _counts(value)}
        return msgspec.structs.replace(
            self,
            calls={**self.calls, name: self.calls.get(name, 0) + 1},
            sums={**self.sums, name: {**sums, **more}} if more else self.sums,
        )

    def fits(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """Whether another call of the tool can be counted: models write names of arguments as they like."""
        sums = self.sums.get(name, _NO_SUMS)
        new = [key for key, value in arguments.items() if key not in sums and _counts(value)]
        return len(sums) + len(new) <= HISTORY_SUMS_MAX and not any(
            type(value) is int and not _counts(value) for value in arguments.values()
        )


def _counts(value: object) -> bool:
    """Whether a sum takes it: a whole number of 64 bits, which is as many as policies have."""
    return type(value) is int and -_INT_MAX <= value < _INT_MAX


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
