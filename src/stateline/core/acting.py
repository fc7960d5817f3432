"""Tool calls in the fold: what the events of effects change in a turn, and what stays open behind it.

A call is *planned* by a model's answer, then *dispatched*, *asked* about or refused; a dispatched one is done, or
*unknown* (DESIGN §5, The effect ledger).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from msgspec import UNSET

from stateline.core import events as e
from stateline.core.errors import IllegalTransition
from stateline.core.hosted import HostedTool, Hosting, decoded, tool_name
from stateline.core.items import (
    EffectResolution,
    InputContent,
    InputText,
    Item,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpCallError,
)
from stateline.core.limits import SERVERS_KEPT_MAX
from stateline.core.tools import (
    Agent,
    Asked,
    EffectClass,
    History,
    McpTool,
    PlannedCall,
    ServerTools,
)

DISPATCH_EVENTS = 4
"""Stream events of a dispatch: the item added, in progress, its arguments as one delta, and as a whole."""
END_EVENTS = 2
"""Of a call's end: completed or failed, and the item done."""
REFUSE_EVENTS = 5
"""Of a call that is not made: the item added, its arguments twice, failed, the item done."""
ASK_EVENTS = 2
"""Of an approval request: the item added and done."""
LIST_EVENTS = 4
"""Of a list of tools: the item added, in progress, completed or failed, the item done."""


class Pending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that waits for a person, in the session whose turn wanted it.

    Attributes:
        response_id: of that turn.
        asked: None where its outcome is not known.
        step: of the dispatch whose outcome is not known.
        tries: how often a person has let it go, in turns that ended without making it.
    """

    call: PlannedCall
    response_id: str
    turn: int
    step: int = 0
    asked: Asked | None = None
    effect: EffectClass = "unsafe"
    code: str = ""
    principal: str = ""
    agent: str = ""
    tries: int = 0

    @property
    def unknown(self) -> bool:
        """Whether it was dispatched, and its outcome is what is asked about; else it waits for approval."""
        return self.step > 0


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call of the running turn.

    Attributes:
        step, effect, at_ms: once it is dispatched (Unix time).
        approval: the request that a person has approved.
        first: the call whose outcome is not known, where a person wants it made anew.
        asked: what that person was asked: the call is made for whom it says.
        by_another: that person is not whoever the call is for.
        tries: how often it was let go before, in turns that ended without making it.
    """

    call: PlannedCall
    status: Literal["planned", "dispatched", "asked", "unknown", "done"] = "planned"
    step: int = 0
    effect: EffectClass = "unsafe"
    approval: str | None = None
    first: Pending | None = None
    asked: Asked | None = None
    by_another: bool = False
    tries: int = 0
    at_ms: int = 0

    @property
    def again(self) -> bool:
        """Whether a person wants it made though an earlier one may have taken effect."""
        return self.first is not None


def wanted(request: e.TurnRequest, agent: Agent | None) -> tuple[McpTool, ...]:
    """The servers whose tools a turn has: the request's own, then its agent's."""
    if agent is None:
        return request.servers
    named = {each.server_label for each in request.servers}
    return (*request.servers, *(each for each in agent.tools if each.server_label not in named))


def known(servers: Mapping[str, ServerTools], body: e.ToolsListed) -> dict[str, ServerTools]:
    """What a session has heard of its servers, with what a turn has heard; of the oldest no more than fits.

    A request names its servers as it likes, so their number would grow with every turn.
    """
    heard = {each.label: each for each in body.servers}
    now = {label: servers.get(label, each) if each.tools is None else each for label, each in heard.items()}
    before = [label for label in servers if label not in now]
    kept = before[max(len(before) + len(now) - SERVERS_KEPT_MAX, 0) :]
    return {**{label: servers[label] for label in kept}, **now}


def hosting(servers: Mapping[str, ServerTools], body: e.ToolsListed, request: e.TurnRequest) -> Hosting:
    """Which calls a turn's model may make of hosted tools; ``servers`` are as after ``body``.

    A function of the client's keeps its name: no provider takes two tools of one name.
    """
    tools: dict[str, HostedTool] = {}
    functions = frozenset([each.name for each in request.tools])
    for each in body.servers:
        for tool in servers[each.label].tools or ():
            name = tool_name(each.label, tool.name)
            if name not in functions:
                tools[name] = HostedTool(name, each.label, tool)
    return Hosting(tools, functions)


def begun(acts: tuple[Act, ...], call: PlannedCall, **changes: object) -> tuple[Act, ...]:
    """With another status of one that was planned.

    Raises:
        IllegalTransition: none of this id is.
    """
    act = act_of(acts, call.id, "planned")
    return tuple([msgspec.structs.replace(each, **changes) if each is act else each for each in acts])


def ended(acts: tuple[Act, ...], act: Act, *, unknown: bool) -> tuple[Act, ...]:
    """With the end of one that was dispatched."""
    status = "unknown" if unknown else "done"
    return tuple([msgspec.structs.replace(each, status=status) if each is act else each for each in acts])


def act_of(acts: Iterable[Act], id_: str, status: Literal["planned", "dispatched"]) -> Act:
    """That call.

    Raises:
        IllegalTransition: the turn has none of this id and status. A call is never dispatched twice, nor ended twice.
    """
    for act in acts:
        if act.call.id == id_ and act.status == status:
            return act
    raise IllegalTransition(f"no tool call {id_} is {status}")


def lost(acts: Iterable[Act], turn: int, number: int, code: str, message: str) -> tuple[e.Body, ...]:
    """The ends of all that is under way, where nobody will find out about them any more."""
    out: list[e.Body] = []
    for act in acts:
        if act.status == "dispatched":
            kind = e.EffectUnknown if act.effect == "unsafe" else e.EffectFailed
            out.append(kind(turn=turn, step=act.step, number=number, id=act.call.id, code=code, message=message))
            number += END_EVENTS
    return tuple(out)


def did(items: Iterable[Item]) -> bool:
    """Whether something was done, asked or answered in a turn that has these items, so that it must be remembered."""
    return any(type(item) in _DEEDS for item in items)


def settled(acts: Iterable[Act]) -> bool:
    """Whether nothing more comes of any of them in this turn."""
    return all(act.status not in ("planned", "dispatched") for act in acts)


def unused(turn_response_id: str, turn: int, acts: Iterable[Act]) -> dict[str, Pending]:
    """What waits again since a turn ended before it made what persons had let go: an answer is used up by the call."""
    out: dict[str, Pending] = {}
    for act in acts:
        if act.status != "planned":
            continue
        if act.first is not None:
            out[act.first.call.id] = msgspec.structs.replace(act.first, tries=act.first.tries + 1)
        elif act.approval is not None:
            out[act.approval] = Pending(
                call=act.call,
                response_id=turn_response_id,
                turn=turn,
                asked=act.asked,
                principal="" if act.asked is None else act.asked.principal,
                agent="" if act.asked is None else act.asked.agent,
                tries=act.tries + 1,
            )
    return out


def still_open(pending: Mapping[str, Pending], now_ms: int) -> dict[str, Pending]:
    """Without the approvals that have expired: nobody can give them any more. An unknown outcome never does."""
    return {
        id_: each
        for id_, each in pending.items()
        if each.unknown or each.asked is None or now_ms < each.asked.expires_ms
    }


# -- items -------------------------------------------------------------------------------------------------

_DEEDS: frozenset[type] = frozenset((McpCall, McpApprovalRequest, McpApprovalResponse, EffectResolution))


def dispatched_item(body: e.EffectDispatched) -> McpCall:
    call = body.call
    return McpCall(
        id=call.id,
        server_label=call.server,
        name=call.tool,
        arguments=call.arguments,
        approval_request_id=body.approval,
        status="in_progress",
    )


def ended_item(item: McpCall, body: e.EffectCommitted | e.EffectFailed | e.EffectUnknown) -> McpCall:
    """The item of a call when it has ended."""
    if type(body) is e.EffectFailed:
        return msgspec.structs.replace(item, status="failed", error=McpCallError(content=body.message))
    if type(body) is e.EffectUnknown:
        return msgspec.structs.replace(item, status="incomplete", error=McpCallError(content=body.message))
    assert type(body) is e.EffectCommitted
    output = body.output
    text = output if isinstance(output, str) else "\n".join(_in_text(part) for part in output)
    if body.failed:
        return msgspec.structs.replace(item, status="failed", error=McpCallError(content=text))
    content = UNSET if isinstance(output, str) else output
    return msgspec.structs.replace(item, status="completed", output=text, content=content)


def _in_text(part: InputContent) -> str:
    return part.text if type(part) is InputText else f"[{part.__struct_config__.tag}]"


def refused_item(body: e.EffectRefused) -> McpCall:
    call = body.call
    return McpCall(
        id=call.id,
        server_label=call.server,
        name=call.tool,
        arguments=call.arguments,
        error=McpCallError(content=body.message),
        status="failed",
    )


def asked_item(body: e.ApprovalRequested) -> McpApprovalRequest:
    call = body.call
    return McpApprovalRequest(id=body.id, server_label=call.server, name=call.tool, arguments=call.arguments)


def with_item(items: tuple[Item, ...], item: Item) -> tuple[Item, ...]:
    """With another state of the item of that id."""
    return tuple([item if each.id == item.id else each for each in items])


# -- what a policy may ask -----------------------------------------------------------------------------------


def after(history: History, body: e.EffectDispatched) -> History:
    """What a session did, with another call."""
    return history.called(body.call.name, decoded(body.call.arguments) or {})


def answered(history: History, decisions: Iterable[str]) -> History:
    """What a session did, with what persons said."""
    said = list(decisions)
    return msgspec.structs.replace(
        history,
        approvals=history.approvals + said.count("approve"),
        refusals=history.refusals + said.count("reject"),
    )
