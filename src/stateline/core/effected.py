"""What agents did to the world: the tool calls of a log, with who wanted them and what became of them."""

from __future__ import annotations

from typing import Literal

import msgspec

from stateline.core import events as e
from stateline.core.ids import SessionRef, effect_key
from stateline.core.tools import Answer, Asked, EffectClass, PlannedCall, PolicyRuling

EffectStatus = Literal[
    "waiting", "expired", "refused", "rejected", "dispatched", "committed", "failed", "unknown", "resolved", "abandoned"
]
TAGS = (
    "turn_requested",
    "model_call_started",
    "effect_dispatched",
    "effect_committed",
    "effect_failed",
    "effect_unknown",
    "effect_refused",
    "approval_requested",
)
"""Of the events that `Effects` looks at; a reading may leave out all others."""


class EffectRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tool call.

    Attributes:
        id: of its item: what an answer to an unknown outcome names.
        key: the effect's key, once it was dispatched: what the tool was given.
        response_id: of the turn that made it, or asked for it.
        principal, agent: for whom it was made.
        model, deployment: what wanted it.
        approval: the id of the request that a person was asked with; ``decided_by`` is that person.
        failed: the tool says that it did not do it; ``read_back``: it proved an earlier run.
        at_ms, ended_ms: when it was dispatched, or refused, or asked about; and when its end was recorded (Unix time).
    """

    session: SessionRef
    id: str
    call: PlannedCall
    status: EffectStatus
    response_id: str
    turn: int
    step: int = 0
    key: str = ""
    effect: EffectClass | None = None
    principal: str = ""
    agent: str = ""
    agent_version: str = ""
    model: str = ""
    deployment: str = ""
    approval: str | None = None
    asked: Asked | None = None
    decided_by: str | None = None
    policy: PolicyRuling | None = None
    code: str | None = None
    message: str | None = None
    failed: bool = False
    read_back: bool = False
    at_ms: int = 0
    ended_ms: int | None = None


class Effects:
    """Follows one session's log from its beginning.

    Attributes:
        records: its tool calls by the id of their item, in the order in which they were wanted. One that waits for
            approval stands there once, and keeps its place when it is made.
    """

    def __init__(self) -> None:
        self.records: dict[str, EffectRecord] = {}
        self._turn: e.TurnRequested | None = None
        self._started: e.ModelCallStarted | None = None
        self._approvals: dict[str, str] = {}

    def see(self, event: e.Event) -> None:
        body = event.body
        if type(body) is e.TurnRequested:
            self._turn, self._started = body, None
            for answer in body.answers:
                self._answered(event, answer)
        elif type(body) is e.ModelCallStarted:
            self._started = body
        elif type(body) is e.EffectDispatched:
            changes: dict[str, object] = {"effect": body.effect, "approval": body.approval, "step": body.step}
            key = effect_key(event.session.id, body.turn, body.step)
            self._begun(event, body.call, "dispatched", policy=body.policy, key=key, **changes)
        elif type(body) is e.EffectRefused:
            why: dict[str, object] = {"code": body.code, "message": body.message}
            self._begun(event, body.call, "refused", policy=body.policy, ended_ms=event.at_ms, **why)
        elif type(body) is e.ApprovalRequested:
            self._approvals[body.id] = body.call.id
            asked = body.asked
            self._begun(
                event,
                body.call,
                "waiting",
                policy=body.policy,
                approval=body.id,
                asked=asked,
                principal=asked.principal,
                agent=asked.agent,
            )
        elif type(body) is e.EffectCommitted:
            self._ended(event, body.id, "committed", failed=body.failed, read_back=body.read_back)
        elif type(body) is e.EffectFailed:
            self._ended(event, body.id, "failed", code=body.code, message=body.message)
        elif type(body) is e.EffectUnknown:
            self._ended(event, body.id, "unknown", code=body.code, message=body.message)

    def as_of(self, now_ms: int) -> list[EffectRecord]:
        """The calls as they stand at a moment (Unix time): nobody can let go any more what has expired."""
        return [_expired(each) if _has_expired(each, now_ms) else each for each in self.records.values()]

    def _begun(self, event: e.Event, call: PlannedCall, status: EffectStatus, **fields: object) -> None:
        turn, started, before = self._turn, self._started, self.records.get(call.id)
        if turn is None:
            return  # The log was cut before it: nothing is known of the call.
        if before is not None:
            self.records[call.id] = msgspec.structs.replace(before, status=status, at_ms=event.at_ms, **fields)
            return
        shape: dict[str, object] = {
            "principal": turn.principal,
            "agent": turn.agent_name,
            "agent_version": "" if turn.agent is None else turn.agent.version,
            "model": turn.model,
            "deployment": "" if started is None else started.deployment,
        }
        self.records[call.id] = EffectRecord(
            session=event.session,
            id=call.id,
            call=call,
            status=status,
            response_id=turn.response_id,
            turn=turn.turn,
            at_ms=event.at_ms,
            **(shape | fields),  # pyright: ignore[reportArgumentType]
        )

    def _ended(self, event: e.Event, id_: str, status: EffectStatus, **fields: object) -> None:
        before = self.records.get(id_)
        if before is not None:
            self.records[id_] = msgspec.structs.replace(before, status=status, ended_ms=event.at_ms, **fields)

    def _answered(self, event: e.Event, answer: Answer) -> None:
        id_ = self._approvals.get(answer.id, answer.id)
        if answer.decision == "approve":
            if id_ in self.records:
                self.records[id_] = msgspec.structs.replace(self.records[id_], decided_by=answer.by)
            return
        status: EffectStatus = "rejected"
        if answer.decision != "reject":
            status = "abandoned" if answer.decision == "abandoned" else "resolved"
        self._ended(event, id_, status, decided_by=answer.by)


def _has_expired(record: EffectRecord, now_ms: int) -> bool:
    return record.status == "waiting" and record.asked is not None and now_ms >= record.asked.expires_ms


def _expired(record: EffectRecord) -> EffectRecord:
    assert record.asked is not None
    return msgspec.structs.replace(record, status="expired", ended_ms=record.asked.expires_ms)
