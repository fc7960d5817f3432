"""Who may do what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.errors import BadRequest
from stateline.core.principals import SCOPES, Principal, checked_scopes


@given(st.lists(st.sampled_from(SCOPES), min_size=1))
def test_known_scopes_are_taken_once_each(given_scopes: list[str]) -> None:
    assert checked_scopes(given_scopes) == set(given_scopes)


@given(st.lists(st.text()).filter(lambda texts: not texts or any(text not in SCOPES for text in texts)))
def test_unknown_scopes_are_refused(given_scopes: list[str]) -> None:
    with pytest.raises(BadRequest, match="Scopes are responses"):
        checked_scopes(given_scopes)


def test_a_principal_has_the_scopes_that_it_was_given_and_no_other() -> None:
    one = Principal(tenant="acme", kind="key", id="key_1", scopes=frozenset({"responses"}))
    assert [scope for scope in SCOPES if one.allows(scope)] == ["responses"]
