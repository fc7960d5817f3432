"""Policies are evaluated without the context's inner records; what comes of it is what they say as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.policy.build import call, loaded

from stateline.core.tools import History

HEAD = 'permit(principal, action, resource == Tool::"payments/refund") when'
# Where a record is read as a whole, policies are evaluated as they stand.
WHOLE = f"forbid{HEAD[6:]} {{ context.history.sum != context.history.sum }};"


@pytest.mark.parametrize(
    "condition",
    [
        "context.arguments.amount_cents == 300",
        'context["arguments"]["amount_cents"] == 300',
        'context.arguments["a.b"] == 1',
        "context.arguments.a.b == 2",
        "context.arguments has a.b && context.arguments.a.b == 2",
        "context.arguments has a && context.arguments.a has b && context.arguments.a.b == 2",
        'context.arguments has "a.b" && context.arguments["a.b"] == 1',
        "!(context.arguments has nothing)",
        "context.arguments.sum == 4 && context.arguments.calls == 5",
        "context.history.calls == 3 && context.history.calls_of_tool == 2",
        "context.history.sum.calls == 7 && context.arguments.calls == 5",
        "[context.arguments.amount_cents, 1].contains(300)",
        "(if context.approved then context.arguments.amount_cents else context.arguments.calls) == 300",
        '{"arguments": {"amount_cents": 300}}.arguments.amount_cents == 300',
        '"context.arguments.amount_cents" like "context.*"',
        'context.history.tools.contains(Tool::"a/b")',
    ],
)
def test_a_condition_holds_as_it_is_written(tmp_path: Path, condition: str) -> None:
    arguments: dict[str, Any] = {"amount_cents": 300, "a.b": 1, "a": {"b": 2}, "sum": 4, "calls": 5}
    history = History(calls={"payments/refund": 2, "a/b": 1}, sums={"payments/refund": {"calls": 7}})
    for extra in ("", WHOLE):
        for said, outcome in ((condition, "allow"), (f"!({condition})", "deny")):
            ruling = loaded(tmp_path, f"{HEAD} {{ {said} }};{extra}").rule(
                call(arguments=arguments, history=history, approved=True)
            )
            assert (extra, ruling.outcome, ruling.errors) == (extra, outcome, ())
