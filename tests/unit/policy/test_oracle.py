"""Random policies of a sub-language, evaluated once more in Python: the same outcome, by the same policies."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.unit.policy.build import folder_of

from stateline.core.tools import History, PolicyRequest
from stateline.identity.policy import load_policy

HUGE = 2**63
WHOLE = "forbid(principal, action, resource) when { context.history.sum != context.history.sum };"


class Failed(Exception):
    """An evaluation that Cedar ends with an error."""


class Asked(NamedTuple):
    request: PolicyRequest
    kind: str
    name: str
    approved: bool


@dataclass(frozen=True)
class Piece:
    """A piece of a policy, and what it means."""

    text: str
    holds: Callable[[Asked], bool]


class Rule(NamedTuple):
    effect: str
    principal: Piece
    resource: Piece
    condition: Piece


def _number(asked: Asked, name: str) -> int:
    value = asked.request.arguments.get(name)
    if type(value) is not int:
        raise Failed
    return value


def _compares(name: str, bound: int) -> Piece:
    return Piece(f"context.arguments.{name} <= {bound}", lambda asked: _number(asked, name) <= bound)


def _guarded(inner: Piece, name: str) -> Piece:
    return Piece(
        f"(context.arguments has {name} && {inner.text})",
        lambda asked: asked.request.arguments.get(name) is not None and inner.holds(asked),
    )


def _equals(name: str, word: str) -> Piece:
    def holds(asked: Asked) -> bool:
        value = asked.request.arguments.get(name)
        if value is None:
            raise Failed
        return value == word

    return Piece(f'context.arguments.{name} == "{word}"', holds)


def _sums(name: str, bound: int) -> Piece:
    def holds(asked: Asked) -> bool:
        request = asked.request
        sums = request.history.sums.get(f"{request.server}/{request.tool}", {})
        return sums.get(name, 0) + _number(asked, name) <= bound

    return Piece(f"context.history.sum.{name} + context.arguments.{name} <= {bound}", holds)


def _both(left: Piece, right: Piece) -> Piece:
    return Piece(f"({left.text} && {right.text})", lambda asked: left.holds(asked) and right.holds(asked))


def _either(left: Piece, right: Piece) -> Piece:
    return Piece(f"({left.text} || {right.text})", lambda asked: left.holds(asked) or right.holds(asked))


def _not(inner: Piece) -> Piece:
    return Piece(f"!({inner.text})", lambda asked: not inner.holds(asked))


ALWAYS = Piece("true", lambda asked: True)
APPROVED = Piece("context.approved", lambda asked: asked.approved)
PLAIN = [
    ALWAYS,
    APPROVED,
    APPROVED,
    Piece('principal.name == "ann"', lambda asked: asked.name == "ann"),
    Piece('context.tenant == Tenant::"t1"', lambda asked: asked.request.tenant == "t1"),
    Piece('(context has agent && context.agent.name == "bot")', lambda asked: asked.request.agent == "bot"),
    Piece('resource.effect == "read"', lambda asked: asked.request.effect == "read"),
]
PRINCIPALS = [
    Piece("principal", lambda asked: True),
    Piece("principal", lambda asked: True),
    Piece("principal is User", lambda asked: asked.kind == "User"),
    Piece('principal == Agent::"t1/bot"', lambda asked: (asked.request.tenant, asked[1:3]) == ("t1", ("Agent", "bot"))),
    Piece('principal == User::"t1/ann"', lambda asked: (asked.request.tenant, asked[1:3]) == ("t1", ("User", "ann"))),
    Piece('principal in Tenant::"t2"', lambda asked: asked.request.tenant == "t2"),
]
RESOURCES = [
    Piece("resource", lambda asked: True),
    Piece('resource == Tool::"pay/a"', lambda asked: (asked.request.server, asked.request.tool) == ("pay", "a")),
    Piece('resource in Server::"pay"', lambda asked: asked.request.server == "pay"),
    Piece('resource is Tool in Server::"crm"', lambda asked: asked.request.server == "crm"),
]


def random_condition(rng: random.Random, depth: int = 2) -> Piece:
    if depth and rng.random() < 0.4:
        inner = random_condition(rng, depth - 1)
        kind = rng.randrange(3)
        return _not(inner) if kind == 0 else (_both, _either)[kind - 1](inner, random_condition(rng, depth - 1))
    kind = rng.randrange(8)
    if kind == 0:
        return _compares("n", rng.randint(-3, 3))
    if kind == 1:
        return _sums("n", rng.randint(-3, 6))
    if kind == 2:
        return _guarded(_compares("m", rng.randint(-3, 3)), "m")
    if kind == 3:
        return _equals("s", rng.choice("xy"))
    return rng.choice(PLAIN)


def random_rules(rng: random.Random) -> list[Rule]:
    return [
        Rule(
            rng.choice(["permit", "permit", "permit", "forbid"]),
            rng.choice(PRINCIPALS),
            rng.choice(RESOURCES),
            random_condition(rng),
        )
        for _ in range(rng.randint(0, 6))
    ]


def random_request(rng: random.Random) -> PolicyRequest:
    arguments: dict[str, Any] = {"n": rng.randint(-3, 3), "s": rng.choice("xy"), "m": rng.randint(-3, 3)}
    if rng.random() < 0.3:
        arguments[rng.choice("nmso")] = rng.choice(["x", "y", 1.5, None, HUGE, True, 1])
    for name in "nms":
        if rng.random() < 0.1:
            del arguments[name]
    return PolicyRequest(
        tenant=rng.choice(["t1", "t1", "t2"]),
        principal=rng.choice(["ann", "ann", "bob", ""]),
        agent=rng.choice(["bot", "", ""]),
        server=rng.choice(["pay", "crm"]),
        tool=rng.choice(["a", "b"]),
        effect=rng.choice(["read", "unsafe"]),
        arguments=arguments,
        history=History(sums={"pay/a": {"n": rng.randint(-3, 5)}, "crm/b": {"m": 1}}),
        approved=rng.random() < 0.2,
    )


def judged(rules: list[Rule], request: PolicyRequest) -> tuple[str, set[str], bool]:
    """The outcome, who decided it, and whether there were errors."""
    who = [("User", request.principal)] * bool(request.principal) + [("Agent", request.agent)] * bool(request.agent)
    if not who:
        return "deny", set(), True
    asked = [Asked(request, kind, name, request.approved) for kind, name in who]
    speaking = [(f"p{at}", each) for at, each in enumerate(rules) if each.resource.holds(asked[0])]
    read = " ".join(each.condition.text for _, each in speaking)
    if any(value == HUGE and f"arguments.{name} " in read for name, value in request.arguments.items()):
        return "deny", set(), True
    before: set[str] = set()
    for approved in (True,) if request.approved else (False, True):
        answers = [_answer(speaking, each._replace(approved=approved)) for each in asked]
        if any(failed for _, _, failed in answers):
            return "deny", set(), True
        allowed = all(answer for answer, _, _ in answers)
        decided = {name for answer, names, _ in answers if answer == allowed for name in names}
        if allowed and approved and not request.approved:
            return "approve", before | decided, False
        if allowed:
            return "allow", decided, False
        before = decided
    return "deny", before, False


def _answer(speaking: list[tuple[str, Rule]], asked: Asked) -> tuple[bool, set[str], bool]:
    held: dict[str, set[str]] = {"permit": set(), "forbid": set()}
    failed = False
    for name, rule in speaking:
        try:
            if rule.principal.holds(asked) and rule.condition.holds(asked):
                held[rule.effect].add(name)
        except Failed:
            failed = True
    allowed = bool(held["permit"]) and not held["forbid"]
    return allowed, held["permit"] if allowed else held["forbid"], failed


@pytest.mark.parametrize("count", [60, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_the_same_ruling_as_by_hand(tmp_path: Path, count: int) -> None:
    rng = random.Random(20261126)
    seen: Counter[str] = Counter()
    for _ in range(count):
        rules = random_rules(rng)
        text = "\n".join(
            f'@id("p{at}") {each.effect}({each.principal.text}, action, {each.resource.text}) '
            f"when {{ {each.condition.text} }};"
            for at, each in enumerate(rules)
        )
        # What reads a record as a whole has all of them evaluated as they were written, and not flattened.
        policy = load_policy(folder_of(tmp_path, text if rng.random() < 0.6 else f"{text}\n{WHOLE}"))
        for _ in range(8):
            request = random_request(rng)
            outcome, names, failed = judged(rules, request)
            for _ in range(2):  # The second time from what is remembered.
                ruling = policy.rule(request)
                assert (text, request, ruling.outcome, bool(ruling.errors)) == (text, request, outcome, failed)
                assert failed or set(ruling.policies) == names
            seen["error" if failed else outcome] += 1
    assert min(seen[word] for word in ("allow", "approve", "deny", "error")) >= count / 6, seen
