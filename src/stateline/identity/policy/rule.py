"""One call, put to the policies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from stateline.core.limits import (
    POLICY_CASES_KEPT_MAX,
    POLICY_CONTEXT_BYTES_MAX,
    POLICY_ERROR_CHARS_MAX,
    POLICY_ERRORS_KEPT_MAX,
)
from stateline.core.tools import History, PolicyRequest, PolicyRuling
from stateline.identity.policy import cedar
from stateline.identity.policy.arguments import LONG_MAX, encode
from stateline.identity.policy.errors import Unfit
from stateline.identity.policy.flat import ROOTS, flattened, joined
from stateline.identity.policy.names import principal_of
from stateline.identity.policy.schema import ARGUMENTS, SUMS, Policy, Shapes, Target
from stateline.identity.policy.shapes import Record

_ACTION = {"type": "Action", "id": "call"}
_FAILED = re.compile(r"error while evaluating policy `policy(\d+)`: (.*)", re.DOTALL)
_FAILED_CODE, _REQUEST_CODE = "policy_failed", "policy_request"
_HISTORY = ("calls", "calls_of_tool", "tools", "sum", "approvals", "refusals")


class _Reading(NamedTuple):
    """What the policies that can match a tool read, all together."""

    policies: list[Policy]
    parsed: cedar.PolicySet
    context: frozenset[str]
    """Names of the context that they read."""
    arguments: tuple[str, ...] | None
    """None: all of them."""
    history: tuple[str, ...]
    sums: tuple[str, ...]
    every_sum: bool
    shape: Record
    strict: bool
    flat: bool
    """Whether they are evaluated without the context's inner records."""

    @property
    def still(self) -> bool:
        """Whether the answer goes by who asks for which tool alone."""
        return "arguments" not in self.context and "history" not in self.context


class _Case(NamedTuple):
    """Who asks for which tool, prepared."""

    reading: _Reading
    requests: list[dict[str, Any]]
    """One for each who must be allowed; without a context."""
    entities: cedar.Entities
    context: dict[str, Any]
    """What is the same in all calls."""
    rulings: dict[bool, PolicyRuling]
    """Those of a case that is still."""


class CedarPolicy:
    """Policies in force; they never change.

    Attributes:
        version: a digest of them.
    """

    def __init__(self, shapes: Shapes, *, version: str, enforced: bool) -> None:
        self.version = version
        self.enforced = enforced
        self._shapes = shapes
        self._cases: dict[tuple[str, ...], _Case] = {}
        self._readings: dict[Target, _Reading] = {}

    @property
    def names(self) -> list[str]:
        """Of all policies, by file and position."""
        return [each.name for each in self._shapes.policies]

    def rule(self, request: PolicyRequest) -> PolicyRuling:
        """Decide one call. Whatever goes wrong with that denies it."""
        try:
            case = self._case(request)
            if not case.reading.still:
                return self._decide(case, request)
            ruling = case.rulings.get(request.approved)
            if ruling is None:
                ruling = case.rulings[request.approved] = self._decide(case, request)
            return ruling
        except Unfit as problem:
            return self._ruling("deny", (), [f"{problem.code}: {problem}"])
        except (ValueError, TypeError, RecursionError) as error:
            # Text that is no Unicode, a key that is no text: nothing that a policy could be asked about.
            return self._ruling("deny", (), [f"{_REQUEST_CODE}: {error}"])

    def _decide(self, case: _Case, request: PolicyRequest) -> PolicyRuling:
        reading = case.reading
        if not reading.policies:
            return self._ruling("deny", ())
        context = _context(case, request)
        first = self._ask(case, context, request.approved)
        if first.outcome == "allow" or first.errors or request.approved or "approved" not in reading.context:
            return first
        second = self._ask(case, context, True)
        if second.outcome != "allow":
            return second
        return self._ruling("approve", dict.fromkeys((*first.policies, *second.policies)))

    def _ask(self, case: _Case, context: dict[str, Any], approved: bool) -> PolicyRuling:
        reading = case.reading
        if "approved" in reading.context:
            context["approved"] = approved
        text = msgspec.json.encode(context)
        if len(text) > POLICY_CONTEXT_BYTES_MAX:
            raise Unfit(
                f"what the policies read of this call is more than {POLICY_CONTEXT_BYTES_MAX} bytes",
                code="policy_argument",
            )
        asked = [{**each, "context": text.decode()} for each in case.requests]
        answers = cedar.ask(asked, reading.parsed, case.entities)
        errors = [error for each in answers for error in each.errors]
        if errors:
            return self._failed(errors, reading)
        allowed = all(each.allowed for each in answers)
        deciding = (index for each in answers if each.allowed == allowed for index in each.policies)
        names = dict.fromkeys(reading.policies[int(index.removeprefix("policy"))].name for index in deciding)
        return self._ruling("allow" if allowed else "deny", names)

    def _failed(self, errors: list[str], reading: _Reading) -> PolicyRuling:
        """Whatever the other policies say: what was not evaluated may have been what forbids the call."""
        names: list[str] = []
        told: list[str] = []
        for error in errors:
            match = _FAILED.match(error)
            if match is None:
                told.append(f"{_REQUEST_CODE}: {error}")
            else:
                names.append(reading.policies[int(match[1])].name)
                told.append(f"{_FAILED_CODE}: {names[-1]}: {match[2]}")
        return self._ruling("deny", dict.fromkeys(names), told)

    def _ruling(self, outcome: Any, policies: Iterable[str], errors: Iterable[str] = ()) -> PolicyRuling:
        kept = tuple(dict.fromkeys(each[:POLICY_ERROR_CHARS_MAX] for each in errors))[:POLICY_ERRORS_KEPT_MAX]
        return PolicyRuling(
            outcome=outcome, policies=tuple(policies), errors=kept, version=self.version, enforced=self.enforced
        )

    # -- what is prepared ---------------------------------------------------------------------------------

    def _case(self, request: PolicyRequest) -> _Case:
        key = (
            request.tenant,
            request.principal,
            request.agent,
            request.server,
            request.tool,
            request.effect,
            request.data_zone,
        )
        case = self._cases.get(key)
        if case is None:
            case = self._prepared(request)
            if len(self._cases) >= POLICY_CASES_KEPT_MAX:
                self._cases.clear()
                self._readings.clear()
            self._cases[key] = case
        return case

    def _prepared(self, request: PolicyRequest) -> _Case:
        if "/" in request.tenant or not request.tenant:
            raise Unfit("a tenant's name is not empty and has no slash", code="policy_request")
        if "/" in request.server or not request.server:
            # Else server "a", tool "b/c" and server "a/b", tool "c" would be one.
            raise Unfit("a server's label is not empty and has no slash", code="policy_request")
        who: dict[str, dict[str, str]] = {}
        entities: list[dict[str, Any]] = []
        home = {"type": "Tenant", "id": request.tenant}
        if request.principal:
            uid = principal_of(request.tenant, request.principal)
            who[uid["type"].lower()] = uid
            entities.append({"uid": uid, "attrs": {"name": request.principal}, "parents": [home]})
        if request.agent:
            uid = {"type": "Agent", "id": f"{request.tenant}/{request.agent}"}
            who["agent"] = uid
            entities.append({"uid": uid, "attrs": {"name": request.agent}, "parents": [home]})
        if not who:
            raise Unfit("nobody asks for this call", code="policy_request")
        target = Target(request.server, request.tool)
        tool = {"type": "Tool", "id": target.name}
        attributes = {"name": request.tool, "effect": request.effect, "data_zone": request.data_zone}
        entities.append({"uid": tool, "attrs": attributes, "parents": [{"type": "Server", "id": request.server}]})
        reading = self._readings.get(target)
        if reading is None:
            reading = self._readings[target] = self._read(target)
        # Where no policy looks at who asks, the answer is the same for all of them.
        one = not any(each.mentions.principal for each in reading.policies)
        asking = list(who.values())[:1] if one else list(who.values())
        known = {name: {"__entity": uid} for name, uid in (*who.items(), ("tenant", home)) if name in reading.context}
        return _Case(
            reading,
            [{"principal": uid, "action": _ACTION, "resource": tool} for uid in asking],
            cedar.entities(entities),
            known,
            {},
        )

    def _read(self, target: Target) -> _Reading:
        policies = self._shapes.relevant(target)
        read = [each.mentions for each in policies]
        names = ("arguments", "history", "approved", "tenant", "user", "key", "agent")
        arguments = tuple(sorted({name for each in read for name in each.names(*ARGUMENTS)}))
        sums = tuple(sorted({name for each in read for name in each.names(*SUMS)}))
        # Where one of the records is read as a whole it has to be there.
        flat = not any(each.whole(*root) for each in read for root in ROOTS)
        return _Reading(
            policies,
            cedar.from_json(flattened([each.tree for each in policies]))
            if flat
            else cedar.parse("\n".join(each.statement.text for each in policies)),
            frozenset(name for name in names if any(each.reads(name) for each in read)),
            None if any(each.whole(*ARGUMENTS) for each in read) else arguments,
            tuple(name for name in _HISTORY if any(each.reads("history", name) for each in read)),
            sums,
            any(each.whole(*SUMS) for each in read),
            self._shapes.of(target),
            target.name in self._shapes.declared,
            flat,
        )


def _context(case: _Case, request: PolicyRequest) -> dict[str, Any]:
    """What the policies read, and no more: Cedar's reading of it is half of what an answer costs."""
    reading = case.reading
    context = case.context.copy()
    arguments: dict[str, Any] = {}
    history: dict[str, Any] = {}
    if "arguments" in reading.context:
        arguments = encode(request.arguments, reading.arguments, reading.shape, strict=reading.strict)
    if reading.history:
        history = _history(reading, request)
    if not reading.flat:
        context["arguments"], context["history"] = arguments, history
        return context
    for name, value in arguments.items():
        context[joined(ARGUMENTS, name)] = value
    for name, value in history.pop("sum", {}).items():
        context[joined(SUMS, name)] = value
    for name, value in history.items():
        context[joined(("history",), name)] = value
    return context


def _history(reading: _Reading, request: PolicyRequest) -> dict[str, Any]:
    history = request.history
    name = f"{request.server}/{request.tool}"
    out: dict[str, Any] = {}
    for each in reading.history:
        if each == "sum":
            out["sum"] = _sums(history.sums.get(name, {}), reading)
        elif each == "calls":
            out["calls"] = sum(history.calls.values())
        elif each == "calls_of_tool":
            out["calls_of_tool"] = history.calls.get(name, 0)
        elif each == "tools":
            out["tools"] = [{"__entity": {"type": "Tool", "id": tool}} for tool in history.calls]
        else:
            out[each] = _number(history, each)
    return out


def _number(history: History, name: str) -> int:
    return history.approvals if name == "approvals" else history.refusals


def _sums(found: dict[str, int], reading: _Reading) -> dict[str, int]:
    """What earlier calls come to; nothing, where there were none."""
    sums = {name: found.get(name, 0) for name in reading.sums}
    if reading.every_sum:
        sums.update(found)
    for name, value in sums.items():
        if not -LONG_MAX <= value <= LONG_MAX:
            raise Unfit(f"history.sum.{name[:128]} is a number of more than 64 bits", code="policy_argument")
        if name.startswith("__"):
            raise Unfit(f"history.sum has a name that begins with __: {name[:128]}", code="policy_argument")
    return sums
