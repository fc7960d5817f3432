"""Who may do what, and that acting for somebody never adds to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.errors import BadRequest, Forbidden
from stateline.core.principals import DEFAULT_SCOPES, SCOPES, Principal, agent_principal, checked_scopes

scopes = st.frozensets(st.sampled_from(SCOPES))
tenants = st.sampled_from(["acme", "shop"])
agents = st.sampled_from(["", "refunds", "desk"])
users = st.sampled_from(["", "ann", "bob"])
callers = st.builds(
    Principal,
    tenant=tenants,
    kind=st.sampled_from(["open", "key", "user", "operator"]),
    id=st.just("key_1"),
    user=users,
    agent=agents,
    scopes=scopes,
)
acting = st.builds(agent_principal, tenants, st.sampled_from(["refunds", "desk"]), scopes)


@given(callers, acting)
def test_an_agent_that_acts_for_somebody_may_what_both_may_and_nothing_else(
    caller: Principal, agent: Principal
) -> None:
    if caller.tenant != agent.tenant or not caller.may_use(agent.agent):
        with pytest.raises(Forbidden):
            caller.on_behalf(agent)
        return
    acts = caller.on_behalf(agent)
    for scope in SCOPES:
        assert acts.allows(scope) == (caller.allows(scope) and agent.allows(scope))
    assert (acts.kind, acts.tenant, acts.id, acts.agent) == ("agent", caller.tenant, agent.id, agent.agent)
    assert acts.user == caller.user
    # Doing it again changes nothing; nobody else can take it over.
    assert caller.on_behalf(acts) == acts


@given(callers, acting, callers)
def test_what_an_agent_may_never_grows_over_a_chain(first: Principal, agent: Principal, second: Principal) -> None:
    try:
        once = first.on_behalf(agent)
        twice = second.on_behalf(once)
    except Forbidden:
        return
    assert twice.scopes <= once.scopes <= agent.scopes
    assert not once.user or twice.user == once.user


def test_an_agent_that_acts_for_one_person_does_not_act_for_another() -> None:
    ann = Principal(tenant="acme", kind="user", id="user:ann", user="ann", scopes=DEFAULT_SCOPES)
    bob = Principal(tenant="acme", kind="user", id="user:bob", user="bob", scopes=DEFAULT_SCOPES)
    acts = ann.on_behalf(agent_principal("acme", "desk"))
    with pytest.raises(Forbidden, match="somebody else"):
        bob.on_behalf(acts)


def test_only_an_agent_acts_for_somebody() -> None:
    ann = Principal(tenant="acme", kind="user", id="user:ann", user="ann", scopes=DEFAULT_SCOPES)
    with pytest.raises(Forbidden):
        ann.on_behalf(ann)


@given(st.lists(st.sampled_from(SCOPES), min_size=1))
def test_known_scopes_are_taken_once_each(given_scopes: list[str]) -> None:
    assert checked_scopes(given_scopes) == set(given_scopes)


@given(st.lists(st.text()).filter(lambda texts: not texts or any(text not in SCOPES for text in texts)))
def test_unknown_scopes_are_refused(given_scopes: list[str]) -> None:
    with pytest.raises(BadRequest, match="Scopes are responses"):
        checked_scopes(given_scopes)
