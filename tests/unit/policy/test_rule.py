"""What policies say of a call: allowed, allowed if approved, denied; by which of them; and never more than both may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.policy.build import SPENDING, call, folder_of, loaded

from stateline.core import limits
from stateline.core.tools import History
from stateline.identity.policy import CedarPolicy, load_policy, principal_of

ANY = "permit(principal, action, resource)"
KEY = "key_0123456789abcdef"


def outcome(policy: CedarPolicy, **changes: Any) -> str:
    ruling = policy.rule(call(**changes))
    assert ruling.errors == ()
    return ruling.outcome


def spent(cents: int) -> History:
    return History(calls={"payments/refund": 3}, sums={"payments/refund": {"amount_cents": cents}})


def test_a_spending_limit_holds_by_call_and_by_session(tmp_path: Path) -> None:
    policy = loaded(tmp_path, f'@id("refunds") {SPENDING}')
    ruling = policy.rule(call())
    assert (ruling.outcome, ruling.policies, ruling.version) == ("allow", ("refunds",), policy.version)
    assert outcome(policy, arguments={"amount_cents": 5001}) == "deny"
    assert outcome(policy, history=spent(19_700)) == "allow"
    assert outcome(policy, history=spent(19_701)) == "deny"
    assert outcome(policy, tool="payout") == "deny"
    assert outcome(policy, server="payment") == "deny"


def test_what_a_person_may_let_go_is_to_be_approved(tmp_path: Path) -> None:
    large = '@id("large") permit(principal, action, resource) when { context.approved };'
    policy = loaded(tmp_path, f'@id("small") {SPENDING}\n{large}')
    ruling = policy.rule(call(arguments={"amount_cents": 9_000}))
    assert (ruling.outcome, ruling.policies) == ("approve", ("large",))
    ruling = policy.rule(call(arguments={"amount_cents": 9_000}, approved=True))
    assert (ruling.outcome, ruling.policies) == ("allow", ("large",))
    assert policy.rule(call()).policies == ("small",)


def test_what_forbids_until_it_is_approved_is_named_with_what_permits(tmp_path: Path) -> None:
    policy = loaded(tmp_path, f'@id("all") {ANY}; @id("hold") forbid{ANY[6:]} unless {{ context.approved }};')
    ruling = policy.rule(call())
    assert (ruling.outcome, ruling.policies) == ("approve", ("hold", "all"))


def test_a_denied_call_names_what_forbids_it(tmp_path: Path) -> None:
    policy = loaded(tmp_path, f'{ANY}; @id("no") forbid{ANY[6:]} when {{ resource.data_zone != "eu" }};')
    assert policy.rule(call()).policies == ("no",)
    assert outcome(policy, data_zone="eu") == "allow"


def test_approval_changes_nothing_where_no_policy_asks_for_it(tmp_path: Path) -> None:
    policy = loaded(tmp_path, SPENDING)
    assert outcome(policy, arguments={"amount_cents": 9_000}, approved=True) == "deny"


def test_an_agent_does_no_more_than_both_may(tmp_path: Path) -> None:
    policy = loaded(
        tmp_path,
        """
        @id("alice") permit(principal == User::"acme/alice", action, resource);
        @id("bot") permit(principal == Agent::"acme/bot", action, resource in Server::"crm");
        """,
    )
    assert outcome(policy) == "allow"
    assert outcome(policy, principal="", agent="bot", server="crm") == "allow"
    assert outcome(policy, agent="bot") == "deny"
    assert outcome(policy, agent="other", server="crm") == "deny"
    assert outcome(policy, principal="bob", agent="bot", server="crm") == "deny"
    ruling = policy.rule(call(agent="bot", server="crm"))
    assert (ruling.outcome, ruling.policies) == ("allow", ("alice", "bot"))


def test_a_policy_may_bind_an_agent_to_those_it_acts_for(tmp_path: Path) -> None:
    policy = loaded(
        tmp_path,
        """
        permit(principal is User, action, resource);
        permit(principal == Agent::"acme/bot", action, resource)
          when { context has user && context.user == User::"acme/alice" };
        forbid(principal, action, resource) when { context has key && context has agent };
        permit(principal is Key, action, resource);
        """,
    )
    assert outcome(policy, agent="bot") == "allow"
    assert outcome(policy, agent="bot", principal="bob") == "deny"
    assert outcome(policy, principal=KEY) == "allow"
    assert outcome(policy, principal=KEY, agent="bot") == "deny"


def test_a_name_counts_in_its_tenant_alone(tmp_path: Path) -> None:
    policy = loaded(
        tmp_path,
        """
        permit(principal == User::"acme/alice", action, resource);
        permit(principal in Tenant::"umbrella", action, resource) when { principal.name == "carol" };
        permit(principal, action, resource in Server::"crm") when { context.tenant == Tenant::"initech" };
        """,
    )
    assert outcome(policy) == "allow"
    assert outcome(policy, tenant="umbrella") == "deny"
    assert outcome(policy, tenant="umbrella", principal="carol") == "allow"
    assert outcome(policy, tenant="acme", principal="carol") == "deny"
    assert outcome(policy, tenant="initech", server="crm") == "allow"
    # A user who calls himself so is still one of his tenant.
    assert outcome(policy, tenant="a", principal="cme/alice") == "deny"


def test_only_the_id_of_a_key_stands_for_a_key() -> None:
    assert principal_of("t", KEY) == {"type": "Key", "id": f"t/{KEY}"}
    for name in ("anonymous", "key_", KEY + "0", KEY.upper(), f"{KEY}\n", "key_0123456789abcd\u0660f"):
        assert principal_of("t", name) == {"type": "User", "id": f"t/{name}"}


def test_the_history_of_the_session_is_there_to_ask(tmp_path: Path) -> None:
    policy = loaded(
        tmp_path,
        """
        permit(principal, action, resource == Tool::"mail/send") when {
          context.history.calls < 4 && context.history.calls_of_tool < 2 && context.history.refusals == 0 &&
          context.history.approvals >= 1 && !context.history.tools.contains(Tool::"web/fetch")
        };
        """,
    )
    mail = {"server": "mail", "tool": "send"}
    ok = {"mail/send": 1, "crm/find": 2}
    assert outcome(policy, **mail, history=History(calls=ok, approvals=1)) == "allow"
    for worse in (
        History(calls=ok),
        History(calls=ok, approvals=1, refusals=1),
        History(calls={"mail/send": 2}, approvals=1),
        History(calls={"crm/find": 4}, approvals=1),
        History(calls={"web/fetch": 1}, approvals=1),
    ):
        assert outcome(policy, **mail, history=worse) == "deny"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "policy_failed: a.cedar:1: record does not have the attribute `arguments.amount_cents`"),
        (
            {"amount_cents": None},
            "policy_failed: a.cedar:1: record does not have the attribute `arguments.amount_cents`",
        ),
        ({"amount_cents": "300"}, "policy_failed: a.cedar:1: type error: expected long, got string"),
        ({"amount_cents": 300.0}, "policy_failed: a.cedar:1: type error: expected long, got decimal"),
        ({"amount_cents": True}, "policy_failed: a.cedar:1: type error: expected long, got bool"),
        ({"amount_cents": 2**63}, "policy_argument: arguments.amount_cents is a whole number of more than 64 bits"),
    ],
)
def test_an_answer_with_an_error_is_a_deny(tmp_path: Path, arguments: dict[str, Any], error: str) -> None:
    # However much others permit it.
    ruling = loaded(tmp_path, f"{SPENDING}\n{ANY};").rule(call(arguments=arguments))
    assert (ruling.outcome, ruling.errors) == ("deny", (error,))
    assert ruling.policies == (("a.cedar:1",) if error.startswith("policy_failed") else ())


def test_a_sum_that_overflows_is_a_deny(tmp_path: Path) -> None:
    policy = loaded(tmp_path, SPENDING)
    for cents in (2**63 - 1, 2**63):
        ruling = policy.rule(call(history=spent(cents)))
        assert ruling.outcome == "deny"
        assert len(ruling.errors) == 1


def test_an_error_hides_no_more_than_a_few_others(tmp_path: Path) -> None:
    text = "".join(f"{ANY} when {{ context.arguments.x{n} > 1 }};" for n in range(20))
    errors = loaded(tmp_path, text).rule(call()).errors
    assert len(errors) == limits.POLICY_ERRORS_KEPT_MAX
    (error,) = loaded(tmp_path, f"{ANY} when {{ context.arguments.{'x' * 999} > 1 }};").rule(call()).errors
    assert len(error) == limits.POLICY_ERROR_CHARS_MAX


def test_log_only_says_what_it_would_do_and_enforces_nothing(tmp_path: Path) -> None:
    ruling = load_policy(folder_of(tmp_path, SPENDING), mode="log_only").rule(call(arguments={"amount_cents": 9_000}))
    assert (ruling.outcome, ruling.enforced) == ("deny", False)


def test_nobody_and_names_that_could_stand_for_others_are_denied(tmp_path: Path) -> None:
    policy = loaded(tmp_path, f"{ANY};")
    changes: list[dict[str, Any]] = [
        {"principal": ""},
        {"tenant": ""},
        {"tenant": "a/b"},
        {"server": ""},
        {"server": "a/b"},
        {"principal": "\ud800"},
        {"tool": "\ud800"},
    ]
    for each in changes:
        ruling = policy.rule(call(**each))
        assert ruling.outcome == "deny"
        assert ruling.errors[0].startswith("policy_request: "), each


def test_who_was_asked_about_is_forgotten_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stateline.identity.policy.rule.POLICY_CASES_KEPT_MAX", 3)
    policy = loaded(tmp_path, SPENDING)
    for _ in range(2):
        for name in "abcdefg":
            assert outcome(policy, principal=name) == "allow"
            assert outcome(policy, principal=name, arguments={"amount_cents": 9_000}) == "deny"


def test_an_answer_that_is_remembered_goes_by_who_asks_and_by_approval(tmp_path: Path) -> None:
    policy = loaded(tmp_path, 'permit(principal == User::"acme/alice", action, resource) when { context.approved };')
    for _ in range(2):
        assert outcome(policy) == "approve"
        assert outcome(policy, approved=True) == "allow"
        assert outcome(policy, principal="bob") == "deny"
        assert outcome(policy, principal="bob", approved=True) == "deny"
