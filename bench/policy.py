"""The CPU of one tool call's ruling: ``python -m bench.policy``.

Twenty policies, each about a tool of its own but for what a row says. Whoever asks has asked before, as in a session
that goes on; the last row is the first question of a caller, with the entities and policies read.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import thread_time_ns
from typing import Any

from stateline.core.tools import History, PolicyRequest
from stateline.identity.policy import CedarPolicy, load_policy

POLICIES = 20
RULINGS = 3000
SPENDING = (
    'permit(principal, action, resource == Tool::"payments/refund") when { context.arguments.amount_cents <= 5000 && '
    "context.history.sum.amount_cents + context.arguments.amount_cents <= 20000 };\n"
)
ARGUMENTS: dict[str, Any] = {"amount_cents": 300, "order": "o-123", "reason": "The parcel never came."}


def other(number: int) -> str:
    return (
        f'permit(principal in Tenant::"acme", action, resource == Tool::"s{number}/t") '
        f"when {{ context.arguments.x < {number} }};\n"
    )


def loaded(folder: Path, text: str) -> CedarPolicy:
    (folder / "a.cedar").write_text(text + "".join(other(number) for number in range(POLICIES - text.count(";"))))
    return load_policy(folder)


def call(**changes: Any) -> PolicyRequest:
    fields: dict[str, Any] = {
        "tenant": "acme",
        "principal": "key_0123456789abcdef",
        "agent": "support",
        "server": "payments",
        "tool": "refund",
        "effect": "unsafe",
        "arguments": ARGUMENTS,
        "history": History(calls={"payments/refund": 2}, sums={"payments/refund": {"amount_cents": 900}}),
    }
    return PolicyRequest(**{**fields, **changes})


def p50_us(once: Callable[[int], object]) -> float:
    took: list[int] = []
    for number in range(-100, RULINGS):
        begun = thread_time_ns()
        once(number)
        if number >= 0:
            took.append(thread_time_ns() - begun)
    return median(took) / 1000


def main() -> None:
    by_whom = SPENDING.replace("(principal,", '(principal in Tenant::"acme",')
    approval = 'permit(principal, action, resource == Tool::"payments/refund") when { context.approved };\n'
    general = "".join(
        f"forbid(principal, action, resource) when {{ context.arguments has y{n} && context.arguments.y{n} > 1 }};\n"
        for n in range(POLICIES - 1)
    )
    large = {"arguments": {**ARGUMENTS, "amount_cents": 9_000}}
    rows: list[tuple[str, str, dict[str, Any], str]] = [
        ("a sum and an argument, for an agent that acts for a key", SPENDING, {}, "allow"),
        ("the same, where policies look at who asks: both are asked about", by_whom, {}, "allow"),
        ("the same, by a key alone", by_whom, {"agent": ""}, "allow"),
        ("too much, so a person may approve it: asked twice", SPENDING + approval, large, "approve"),
        ("all 20 of them about this tool", general + SPENDING, {}, "allow"),
        ("no condition, so the answer is remembered", 'permit(principal, action, resource in Server::"crm");\n',
         {"server": "crm", "tool": "find"}, "allow"),
        ("no policy about this tool", SPENDING, {"tool": "payout"}, "deny"),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for what, text, changes, outcome in rows:
            policy, request = loaded(Path(name), text), call(**changes)
            ruling = policy.rule(request)
            assert (ruling.outcome, ruling.errors) == (outcome, ()), ruling
            cost = p50_us(lambda _, policy=policy, request=request: policy.rule(request))
            sys.stdout.write(f"{what}: p50 {cost:6.1f} us\n")
        policy = loaded(Path(name), SPENDING)
        asked = [call(principal=f"user{number}") for number in range(-100, RULINGS)]
        cost = p50_us(lambda number: policy.rule(asked[number + 100]))
        sys.stdout.write(f"a caller's first question: p50 {cost:6.1f} us\n")


if __name__ == "__main__":
    main()
