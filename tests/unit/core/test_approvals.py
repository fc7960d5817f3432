"""An approval is for exactly what was approved: whatever else it is held against, it is refused, and says why."""

from __future__ import annotations

import json
import string
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stateline.core.approvals import CHANGED, Sealer, by_another, seal
from stateline.core.arguments import ArgumentsError, canonical_arguments
from stateline.core.limits import APPROVAL_KEY_BYTES_MIN
from stateline.core.tools import Terms

KEYS = {"k1": bytes(range(32)), "k0": b"o" * 32}
SEALER = Sealer(KEYS, "k1")
NOW = 1_790_000_000_000
TERMS = Terms(
    tenant="acme",
    session="sess_1",
    call="fc_1",
    server="payments",
    server_url="https://pay.example/mcp",
    tool="refund",
    arguments='{"amount_cents": 9000}',
    principal="key_alice",
    user="alice",
    agent="support",
    demanded_by="policy",
    policy_version="7b2f",
    expires_ms=NOW + 1,
)
TEXTS = st.text(st.characters(), max_size=20)
OBJECTS = st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False) | TEXTS, max_size=3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(CHANGED, TEXTS),
    "arguments": OBJECTS.map(json.dumps) | TEXTS | st.sampled_from(['{"a":1,"a":2}', '{"a":2,"a":1}', "{}", ""]),
    "demanded_by": st.sampled_from(["client", "policy"]),
    "expires_ms": st.integers(0, 2**62),
}
ALL = st.builds(Terms, **FIELDS)


def refusal(terms: Terms, of: Terms = TERMS, signature: str | None = None, now_ms: int = NOW) -> str | None:
    """Held against the approval of other terms, or another seal."""
    asked = SEALER.sign(of)
    if signature is not None:
        asked = msgspec.structs.replace(asked, signature=signature)
    return SEALER.refusal(terms, asked, now_ms)


def read(arguments: str) -> object:
    try:
        return canonical_arguments(arguments)
    except ArgumentsError:
        return arguments


def test_what_is_asked_says_what_it_is_bound_to() -> None:
    asked = SEALER.sign(TERMS)
    assert (asked.principal, asked.agent, asked.demanded_by) == ("key_alice", "support", "policy")
    assert (asked.expires_ms, asked.policy_version, asked.key_id) == (NOW + 1, "7b2f", "k1")
    assert asked.signature == seal(TERMS, "k1", KEYS["k1"])
    for value in TERMS:
        assert str(value) not in asked.signature


@given(ALL)
def test_what_was_approved_holds_until_it_expires(terms: Terms) -> None:
    assert refusal(terms, terms, now_ms=terms.expires_ms - 1) is None
    for now_ms in (terms.expires_ms, terms.expires_ms + 1):
        assert refusal(terms, terms, now_ms=now_ms) == "approval_expired"


@given(ALL, st.sampled_from(sorted(CHANGED)), st.data())
def test_any_single_change_of_a_term_is_refused_by_its_name(terms: Terms, name: str, data: st.DataObject) -> None:
    value = data.draw(FIELDS[name])
    assume(value != getattr(terms, name))
    assume(name != "arguments" or read(value) != read(terms.arguments))
    # Expired or not: a change is told first.
    assert refusal(terms._replace(**{name: value}), terms, now_ms=2**63) == CHANGED[name]


@given(ALL, ALL)
def test_no_two_terms_have_one_seal(left: Terms, right: Terms) -> None:
    same = left._replace(arguments="") == right._replace(arguments="") and read(left.arguments) == read(right.arguments)
    assert (seal(left, "k1", KEYS["k1"]) == seal(right, "k1", KEYS["k1"])) == same


def test_arguments_are_bound_as_a_tool_reads_them() -> None:
    alike = TERMS._replace(arguments=' {"amount\\u005fcents":9000}')
    assert refusal(alike) is None
    for other in ('{"amount_cents": 9001}', '{"amount_cents": 9000.0}', '{"amount_cents": "9000"}', "{}", ""):
        assert refusal(TERMS._replace(arguments=other)) == "approval_arguments_changed"
    # Where tools read different ones they are bound by what was written.
    twice = TERMS._replace(arguments='{"a":1,"a":2}')
    assert refusal(twice, twice) is None
    assert refusal(TERMS._replace(arguments='{"a":1, "a":2}'), twice) == "approval_arguments_changed"


def test_values_do_not_move_from_term_to_term() -> None:
    assert refusal(TERMS._replace(server=TERMS.tool, tool=TERMS.server)) == "approval_tool_changed"
    assert refusal(TERMS._replace(session="sess_", call="1fc_1")) == "approval_call_changed"


@given(st.integers(0), st.sampled_from(string.printable + "é"))
def test_a_seal_with_any_character_changed_is_worth_nothing(at: int, char: str) -> None:
    signature = SEALER.sign(TERMS).signature
    at %= len(signature)
    assume(signature[at] != char)
    assert refusal(TERMS, signature=signature[:at] + char + signature[at + 1 :]) == "approval_forged"


@pytest.mark.parametrize("cut", [0, 1, 3, 6, 20, 200])
def test_a_seal_that_is_cut_or_grown_is_worth_nothing(cut: int) -> None:
    signature = SEALER.sign(TERMS).signature
    for forged in (signature[:cut], signature[: -cut or None] + "AAAA", signature + "=" * 4, signature + "\n"):
        assert refusal(TERMS, signature=forged) == "approval_forged"


def test_tags_of_two_seals_make_no_third() -> None:
    dear = TERMS._replace(arguments='{"amount_cents": 900000}')
    bodies = [urlsafe_b64decode(SEALER.sign(each).signature.partition(".")[2]) for each in (TERMS, dear)]
    at = 16 * list(CHANGED).index("arguments")
    mixed = bodies[0][:at] + bodies[1][at : at + 16] + bodies[0][at + 16 :]
    assert refusal(dear, signature="a1." + urlsafe_b64encode(mixed).decode()) == "approval_forged"


def test_keys_are_rotated() -> None:
    old, new = Sealer({"k0": KEYS["k0"]}, "k0").sign(TERMS), SEALER.sign(TERMS)
    for asked in (old, new):
        assert SEALER.refusal(TERMS, asked, NOW) is None
    assert Sealer({"k1": KEYS["k1"]}, "k1").refusal(TERMS, old, NOW) == "approval_key_unknown"
    # Another key under the same id, and the right key under another id.
    assert Sealer({"k0": b"x" * 32}, "k0").refusal(TERMS, old, NOW) == "approval_forged"
    renamed = msgspec.structs.replace(old, key_id="k2")
    assert Sealer({"k2": KEYS["k0"]}, "k2").refusal(TERMS, renamed, NOW) == "approval_forged"


@pytest.mark.parametrize(
    ("keys", "current", "message"),
    [
        ({"k": b"x" * (APPROVAL_KEY_BYTES_MIN - 1)}, "k", "32 bytes at least"),
        ({"k": b"x" * 32}, "l", "there is no key l"),
        ({}, "", "there is no key"),
        ({"": b"x" * 32}, "", "a key's id"),
        ({"a.b": b"x" * 32}, "a.b", "a key's id"),
        ({"k" * 33: b"x" * 32}, "k" * 33, "a key's id"),
        ({"ké": b"x" * 32}, "ké", "a key's id"),
    ],
)
def test_keys_that_could_be_guessed_or_are_not_there_are_refused(
    keys: dict[str, bytes], current: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Sealer(keys, current)


@pytest.mark.parametrize(
    ("principal", "user", "another"),
    [
        ("key_alice", "alice", False),
        ("key_alice", "", False),
        ("key_2", "alice", False),  # Her other key, or she herself where an agent acts for her.
        ("key_alice", "bob", False),
        ("key_2", "bob", True),
        ("key_2", "", True),
        ("", "", False),
        ("", "bob", False),
    ],
)
def test_one_person_with_two_keys_is_no_other(principal: str, user: str, another: bool) -> None:
    assert by_another(SEALER.sign(TERMS), principal, user) is another


def test_keys_that_name_nobody_are_told_apart_by_themselves() -> None:
    asked = SEALER.sign(TERMS._replace(user=""))
    assert by_another(asked, "key_2", "")
    assert by_another(asked, "key_2", "alice")
    assert not by_another(asked, "key_alice", "")
