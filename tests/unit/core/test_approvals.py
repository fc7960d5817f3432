"""An approval is for exactly what was approved: whatever else it is held against, it is refused, and says why."""

from __future__ import annotations

import string
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stateline.core.approvals import ApprovalRefused, Terms, may_answer, sign, verify
from stateline.core.arguments import canonical_arguments
from stateline.core.limits import APPROVAL_KEY_BYTES_MIN

KEY = bytes(range(32))
KEYS = {"k1": KEY, "k0": b"o" * 32}
NOW = 1_790_000_000_000
TERMS = Terms(
    tenant="acme",
    session="sess_1",
    turn="resp_1",
    call="sess_1/1/2",
    server="payments",
    tool="refund",
    arguments=canonical_arguments('{"amount_cents": 9000}'),
    principal="alice",
    agent="support",
    demand="policy",
    policy_version="7b2f",
    expires_ms=NOW + 1,
)
CODES = {
    "tenant": "approval_tenant_changed",
    "session": "approval_call_changed",
    "turn": "approval_call_changed",
    "call": "approval_call_changed",
    "server": "approval_tool_changed",
    "tool": "approval_tool_changed",
    "arguments": "approval_arguments_changed",
    "principal": "approval_principal_changed",
    "agent": "approval_agent_changed",
    "demand": "approval_demand_changed",
    "policy_version": "approval_policy_changed",
    "expires_ms": "approval_expiry_changed",
}
TEXTS = st.text(st.characters(), max_size=20)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(CODES, TEXTS),
    "arguments": st.binary(max_size=40),
    "demand": st.sampled_from(["client", "policy"]),
    "expires_ms": st.integers(0, 2**62),
}
ALL = st.builds(Terms, **FIELDS)


def refusal(terms: Terms, signature: str, keys: dict[str, bytes] = KEYS, now_ms: int = NOW) -> str:
    with pytest.raises(ApprovalRefused) as caught:
        verify(terms, signature, keys, now_ms)
    return caught.value.code


def test_every_term_is_bound() -> None:
    assert tuple(CODES) == Terms.__struct_fields__


@given(ALL)
def test_what_was_approved_holds_until_it_expires(terms: Terms) -> None:
    signature = sign(terms, "k1", KEY)
    verify(terms, signature, KEYS, terms.expires_ms - 1)
    for now_ms in (terms.expires_ms, terms.expires_ms + 1):
        assert refusal(terms, signature, now_ms=now_ms) == "approval_expired"


@given(ALL, st.sampled_from(sorted(CODES)), st.data())
def test_any_single_change_of_a_term_is_refused_by_its_name(terms: Terms, name: str, data: st.DataObject) -> None:
    value = data.draw(FIELDS[name])
    assume(value != getattr(terms, name))
    changed = msgspec.structs.replace(terms, **{name: value})
    # Expired or not: a change is told first.
    assert refusal(changed, sign(terms, "k1", KEY), now_ms=2**63) == CODES[name]


@given(ALL, ALL)
def test_no_two_terms_have_one_seal(left: Terms, right: Terms) -> None:
    assert (sign(left, "k1", KEY) == sign(right, "k1", KEY)) == (left == right)


def test_values_do_not_move_from_term_to_term() -> None:
    swapped = msgspec.structs.replace(TERMS, server=TERMS.tool, tool=TERMS.server)
    assert refusal(swapped, sign(TERMS, "k1", KEY)) == "approval_tool_changed"
    moved = msgspec.structs.replace(TERMS, session="sess_", turn="1resp_1")
    assert refusal(moved, sign(TERMS, "k1", KEY)) == "approval_call_changed"


@given(st.integers(0), st.sampled_from(string.printable + "é"))
def test_a_seal_with_any_character_changed_is_worth_nothing(at: int, char: str) -> None:
    signature = sign(TERMS, "k1", KEY)
    at %= len(signature)
    assume(signature[at] != char)
    forged = signature[:at] + char + signature[at + 1 :]
    assert refusal(TERMS, forged) in {"approval_forged", "approval_key_unknown"}


@pytest.mark.parametrize("cut", [0, 1, 3, 6, 20, 200])
def test_a_seal_that_is_cut_or_grown_is_worth_nothing(cut: int) -> None:
    signature = sign(TERMS, "k1", KEY)
    for forged in (signature[:cut], signature[: -cut or None] + "AAAA", signature + "=" * 4, signature + "\n"):
        assert refusal(TERMS, forged) == "approval_forged"


def test_tags_of_two_seals_make_no_third() -> None:
    cheap = sign(TERMS, "k1", KEY)
    dear = msgspec.structs.replace(TERMS, arguments=canonical_arguments('{"amount_cents": 900000}'))
    bodies = [urlsafe_b64decode(each.rpartition(".")[2]) for each in (cheap, sign(dear, "k1", KEY))]
    mixed = bodies[0][: 6 * 16] + bodies[1][6 * 16 : 7 * 16] + bodies[0][7 * 16 :]
    assert refusal(dear, "a1.k1." + urlsafe_b64encode(mixed).decode()) == "approval_forged"


def test_keys_are_rotated() -> None:
    old, new = sign(TERMS, "k0", KEYS["k0"]), sign(TERMS, "k1", KEY)
    for signature in (old, new):
        verify(TERMS, signature, KEYS, NOW)
    assert refusal(TERMS, old, {"k1": KEY}) == "approval_key_unknown"
    # Another key under the same id, and the right key under another id.
    assert refusal(TERMS, old, {"k0": b"x" * 32}) == "approval_forged"
    assert refusal(TERMS, old.replace("k0", "k2"), {"k2": KEYS["k0"]}) == "approval_forged"


def test_a_key_that_could_be_guessed_is_refused() -> None:
    short = b"x" * (APPROVAL_KEY_BYTES_MIN - 1)
    with pytest.raises(ValueError, match="32 bytes at least"):
        sign(TERMS, "k1", short)
    with pytest.raises(ValueError, match="32 bytes at least"):
        verify(TERMS, sign(TERMS, "k1", KEY), {"k1": short}, NOW)


@pytest.mark.parametrize("key_id", ["", "a.b", "k" * 33, "ké", "k\n"])
def test_an_id_of_a_key_is_plain(key_id: str) -> None:
    with pytest.raises(ValueError, match="a key's id"):
        sign(TERMS, key_id, KEY)


def test_what_a_policy_demands_another_must_answer() -> None:
    assert may_answer(TERMS, "acme", "alice") == "approval_own_request"
    assert may_answer(TERMS, "acme", "bob") is None
    asked = msgspec.structs.replace(TERMS, demand="client")
    assert may_answer(asked, "acme", "alice") is None
    assert may_answer(asked, "acme", "bob") is None
    for terms in (TERMS, asked):
        assert may_answer(terms, "acme", "") == "approval_nobody"
        assert may_answer(terms, "umbrella", "bob") == "approval_not_found"
