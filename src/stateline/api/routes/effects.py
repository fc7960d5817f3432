"""``/v1/effects`` and ``/v1/approvals``: what agents did, and what of it waits for a person."""

from __future__ import annotations

import typing
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stateline.api.call import Call
from stateline.api.item_params import Text
from stateline.api.params import Body
from stateline.api.parse import decode_exact
from stateline.api.query import FIRST_DAY, LAST_DAY, Query, day_ms
from stateline.api.service import Service
from stateline.core.effected import EffectRecord, EffectStatus
from stateline.core.errors import BadRequest
from stateline.core.items import EffectResolution, McpApprovalResponse
from stateline.core.principals import Principal
from stateline.core.tools import Demand, EffectClass
from stateline.engine import Accepted, Answerer

_STATUSES = typing.get_args(EffectStatus)


class PolicyObject(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy said of the call; see docs/policies.md."""

    outcome: Literal["allow", "approve", "deny"]
    policies: tuple[str, ...]
    errors: tuple[str, ...]
    version: str
    enforced: bool


class EffectObject(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call. Times are Unix seconds.

    Attributes:
        key: what the tool was given as its idempotency key; None before it was dispatched.
        model, deployment: what wanted the call.
        approval_request_id: what a person was asked; ``decided_by`` is who answered.
        failed: the tool answered that it did not do it.
        read_back: the tool proved that an earlier run had taken effect.
    """

    id: str
    object: Literal["effect"] = "effect"
    status: EffectStatus
    session: str
    response_id: str
    server_label: str
    name: str
    arguments: str
    effect: EffectClass | None
    key: str | None
    principal: str
    agent: str | None
    model: str
    deployment: str | None
    approval_request_id: str | None
    decided_by: str | None
    policy: PolicyObject | None
    code: str | None
    message: str | None
    failed: bool
    read_back: bool
    created_at: int
    ended_at: int | None


class EffectList(msgspec.Struct, frozen=True, kw_only=True):
    """``last_id`` goes into ``after`` for the next page, and may be there though this one is empty."""

    object: Literal["list"] = "list"
    data: tuple[EffectObject, ...]
    last_id: str | None
    has_more: bool


class ApprovalObject(msgspec.Struct, frozen=True, kw_only=True):
    """A call that waits, or has waited, for a person. Times are Unix seconds.

    Attributes:
        server_url: where the server is, if the request named it itself and it is none of the operator's.
        demanded_by: ``policy``: another than ``principal`` must answer.
        status: ``waiting``, or what became of it.
    """

    id: str
    object: Literal["approval"] = "approval"
    status: EffectStatus
    session: str
    response_id: str
    server_label: str
    server_url: str | None
    name: str
    arguments: str
    principal: str
    agent: str | None
    demanded_by: Demand
    decided_by: str | None
    policy: PolicyObject | None
    created_at: int
    expires_at: int


class ApprovalList(msgspec.Struct, frozen=True, kw_only=True):
    """``last_id`` goes into ``after`` for the next page, and may be there though this one is empty."""

    object: Literal["list"] = "list"
    data: tuple[ApprovalObject, ...]
    last_id: str | None
    has_more: bool


class AnswerApproval(Body, frozen=True, kw_only=True):
    approve: bool
    reason: Text | None = None


class ResolveEffect(Body, frozen=True, kw_only=True):
    """``committed``: it took effect, and gave ``output``; ``retry``: it is made again."""

    decision: Literal["committed", "abandoned", "retry"]
    output: Annotated[str, Meta(max_length=1024 * 1024)] = ""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """``response_id``: the background response that goes on from the answer."""

    id: str
    object: Literal["answer"] = "answer"
    response_id: str


_answer = msgspec.json.Decoder(AnswerApproval)
_resolve = msgspec.json.Decoder(ResolveEffect)


async def list_effects(service: Service, call: Call) -> None:
    """What was done: of a principal, an agent, a model, a deployment or a tool, in a time."""
    query = Query(call.query)
    found = await service.engine.effects(
        call.tenant, _wanted(query), session=query.name("session"), after=_after(query)
    )
    data = tuple(_effect(each) for each in found.records)
    await call.reply_json(EffectList(data=data, last_id=found.cursor, has_more=found.cursor is not None))


async def resolve(service: Service, call: Call) -> None:
    """A person says what became of a call whose outcome is not known."""
    params, id_ = decode_exact(_resolve, await call.body()), call.path_params["effect_id"]
    item = EffectResolution(id="", call_id=id_, decision=params.decision, output=params.output)
    await _reply(call, id_, await service.engine.answer(call.tenant, _answerer(call.principal), item))


async def list_approvals(service: Service, call: Call) -> None:
    query = Query(call.query)
    status = _status(query, "all", "") or "waiting"

    def wanted(each: EffectRecord) -> bool:
        return each.asked is not None and status in ("all", each.status)

    found = await service.engine.effects(call.tenant, wanted, session=query.name("session"), after=_after(query))
    data = tuple(_approval(each) for each in found.records)
    await call.reply_json(ApprovalList(data=data, last_id=found.cursor, has_more=found.cursor is not None))


async def answer(service: Service, call: Call) -> None:
    """A person lets a call go, or not; the first answer counts."""
    params, id_ = decode_exact(_answer, await call.body()), call.path_params["approval_id"]
    item = McpApprovalResponse(id="", approval_request_id=id_, approve=params.approve, reason=params.reason)
    await _reply(call, id_, await service.engine.answer(call.tenant, _answerer(call.principal), item))


def _answerer(principal: Principal) -> Answerer:
    return Answerer(principal.id, principal.user, may_approve=True)  # The route wants the scope.


async def _reply(call: Call, id_: str, accepted: Accepted) -> None:
    call.durable = True
    await call.reply_json(Answered(id=id_, response_id=accepted.response_id))


def _after(query: Query) -> str | None:
    return query.page().after


def _status(query: Query, *more: str) -> str | None:
    """The status that is asked for: one that calls have, or one of ``more``."""
    status = query.text("status")
    if status is not None and status not in (*_STATUSES, *more):
        raise BadRequest(f"Invalid value: '{status[:64]}' at 'status'.", code="invalid_value", param="status")
    return status


def _wanted(query: Query) -> Callable[[EffectRecord], bool]:
    status = _status(query)
    since_ms = day_ms(query.day("from") or FIRST_DAY)
    until_ms = day_ms((query.day("to") or LAST_DAY) + timedelta(days=1))
    names: dict[str, Any] = {
        name: query.name(name) for name in ("principal", "agent", "model", "deployment", "server_label", "name", "key")
    }

    def wanted(each: EffectRecord) -> bool:
        has = {
            "principal": each.principal,
            "agent": each.agent,
            "model": each.model,
            "deployment": each.deployment,
            "server_label": each.call.server,
            "name": each.call.tool,
            "key": each.key,
        }
        return (
            all(value is None or has[name] == value for name, value in names.items())
            and status in (None, each.status)
            and since_ms <= each.at_ms < until_ms
        )

    return wanted


def _policy(each: EffectRecord) -> PolicyObject | None:
    ruling = each.policy
    if ruling is None:
        return None
    return PolicyObject(
        outcome=ruling.outcome,
        policies=ruling.policies,
        errors=ruling.errors,
        version=ruling.version,
        enforced=ruling.enforced,
    )


def _effect(each: EffectRecord) -> EffectObject:
    return EffectObject(
        id=each.id,
        status=each.status,
        session=each.session.id,
        response_id=each.response_id,
        server_label=each.call.server,
        name=each.call.tool,
        arguments=each.call.arguments,
        effect=each.effect,
        key=each.key or None,
        principal=each.principal,
        agent=each.agent or None,
        model=each.model,
        deployment=each.deployment or None,
        approval_request_id=each.approval,
        decided_by=each.decided_by,
        policy=_policy(each),
        code=each.code,
        message=each.message,
        failed=each.failed,
        read_back=each.read_back,
        created_at=each.at_ms // 1000,
        ended_at=None if each.ended_ms is None else each.ended_ms // 1000,
    )


def _approval(each: EffectRecord) -> ApprovalObject:
    assert each.asked is not None
    assert each.approval is not None
    return ApprovalObject(
        id=each.approval,
        status=each.status,
        session=each.session.id,
        response_id=each.response_id,
        server_label=each.call.server,
        server_url=each.asked.server_url or None,
        name=each.call.tool,
        arguments=each.call.arguments,
        principal=each.asked.principal,
        agent=each.asked.agent or None,
        demanded_by=each.asked.demanded_by,
        decided_by=each.decided_by,
        policy=_policy(each),
        created_at=each.at_ms // 1000,
        expires_at=each.asked.expires_ms // 1000,
    )
