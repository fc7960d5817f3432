"""The worked example of docs/policies.md, run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.policy.build import call, folder_of

from stateline.core.tools import History
from stateline.identity.policy import CedarPolicy, load_policy

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "policies.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture(scope="module", params=[None, block("cedarschema")])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CedarPolicy:
    return load_policy(folder_of(tmp_path_factory.mktemp("docs"), block("cedar"), request.param))


MAIL = {"server": "mail", "tool": "send", "arguments": {"to": "a@example.com"}}
SPENT = History(calls={"payments/refund": 4}, sums={"payments/refund": {"amount_cents": 19_800}})


@pytest.mark.parametrize(
    ("changes", "outcome", "policies"),
    [
        ({"arguments": {"amount_cents": 300}}, "allow", ("small-refunds",)),
        ({"arguments": {"amount_cents": -300}}, "deny", ()),
        ({"arguments": {"amount_cents": 9_000}}, "approve", ("approved-refunds",)),
        ({"arguments": {"amount_cents": 9_000}, "approved": True}, "allow", ("approved-refunds",)),
        ({"arguments": {"amount_cents": 300}, "history": SPENT}, "approve", ("approved-refunds",)),
        ({"arguments": {"amount_cents": 200}, "history": SPENT}, "allow", ("small-refunds",)),
        ({"arguments": {"amount_cents": 200_000}}, "deny", ()),
        ({"server": "crm", "tool": "find", "effect": "read"}, "allow", ("reading",)),
        ({"server": "crm", "tool": "update"}, "deny", ()),
        ({**MAIL, "agent": "support"}, "allow", ("support-mail",)),
        ({**MAIL, "agent": "sales"}, "deny", ()),
        ({**MAIL, "agent": "support", "principal": "key_0123456789abcdef"}, "deny", ()),
        ({**MAIL, "agent": "support", "history": History(calls={"web/fetch": 1})}, "deny", ("no-mail-after-web",)),
        ({"server": "shell", "tool": "run"}, "deny", ()),
    ],
)
def test_the_worked_example_rules_as_it_says(
    policy: CedarPolicy, changes: dict[str, Any], outcome: str, policies: tuple[str, ...]
) -> None:
    ruling = policy.rule(call(tenant="default", **changes))
    assert (ruling.outcome, ruling.policies, ruling.errors) == (outcome, policies, ())
