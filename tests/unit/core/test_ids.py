"""Identifiers round-trip, sort by age, and take nothing that was not made here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core import ids

TIMES_MS = st.integers(0, 2**48 - 1)
ENTROPY = st.binary(min_size=9, max_size=16)
SESSIONS = st.builds(ids.session_id, TIMES_MS, ENTROPY)


@given(st.integers(0, 2**70), st.integers(1, 20))
def test_base32_round_trips_at_any_width(value: int, width: int) -> None:
    text = ids.base32(value, width)
    assert ids.unbase32(text) == value
    assert len(text) >= width
    assert set(text) <= set(ids.ALPHABET)


@given(TIMES_MS, ENTROPY)
def test_a_session_id_has_its_fixed_length(at_ms: int, entropy: bytes) -> None:
    session = ids.session_id(at_ms, entropy)
    assert len(session) == ids.SESSION_CHARS
    assert set(session) <= set(ids.ALPHABET)


@given(TIMES_MS, TIMES_MS, ENTROPY, ENTROPY)
def test_session_ids_sort_by_age(a_ms: int, b_ms: int, a: bytes, b: bytes) -> None:
    if a_ms != b_ms:
        assert (ids.session_id(a_ms, a) < ids.session_id(b_ms, b)) == (a_ms < b_ms)


@given(TIMES_MS, st.binary(min_size=9, max_size=9), st.binary(min_size=9, max_size=9))
def test_entropy_tells_sessions_of_one_millisecond_apart(at_ms: int, a: bytes, b: bytes) -> None:
    assert (ids.session_id(at_ms, a) == ids.session_id(at_ms, b)) == (a == b)


@given(SESSIONS, st.binary(min_size=5, max_size=9), st.integers(0, 2**60 - 1))
def test_a_response_id_tells_its_session_and_place(session: str, entropy: bytes, after: int) -> None:
    nonce = ids.nonce(entropy)
    assert len(nonce) == ids.NONCE_CHARS
    parsed = ids.parse_response_id(ids.response_id(session, nonce, after))
    assert parsed == ids.ResponseRef(session, nonce, after)


@given(SESSIONS)
def test_a_conversation_id_tells_its_session(session: str) -> None:
    assert ids.parse_conversation_id(ids.conversation_id(session)) == session


@given(SESSIONS, st.sampled_from(["msg", "fc", "fco", "rs", "cmp"]), *[st.integers(0, 10**6)] * 3)
def test_an_item_id_tells_its_session(session: str, prefix: str, turn: int, step: int, index: int) -> None:
    assert ids.item_session(ids.item_id(prefix, session, turn, step, index)) == session


@given(st.text())
def test_foreign_text_is_no_id_and_raises_nothing(text: str) -> None:
    assert ids.parse_response_id(text) is None
    assert ids.parse_conversation_id(text) is None
    assert ids.item_session(text) is None


SESSION = "0123456789abcdefghjkmnpq"


@pytest.mark.parametrize("spoil", ["{}\n", " {}", "{}x\u0661", "{}-", "{}ü"])
def test_an_id_with_anything_around_it_is_refused(spoil: str) -> None:
    assert ids.parse_response_id(spoil.format(ids.response_id(SESSION, "a" * 8, 7))) is None
    assert ids.parse_conversation_id(spoil.format(ids.conversation_id(SESSION))) is None
    assert ids.item_session(spoil.format(ids.item_id("msg", SESSION, 1, 2, 3))) is None


def test_only_ascii_digits_count_in_an_item_id() -> None:
    assert ids.item_session(f"msg_{SESSION}t1s1i\u0661") is None


@given(
    st.tuples(SESSIONS, st.integers(1, 99), st.integers(1, 99)),
    st.tuples(SESSIONS, st.integers(1, 99), st.integers(1, 99)),
)
def test_effect_keys_differ_where_session_turn_or_step_do(a: tuple[str, int, int], b: tuple[str, int, int]) -> None:
    assert (ids.effect_key(*a) == ids.effect_key(*b)) == (a == b)


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_a_digest_counts_the_boundaries_of_its_parts(a: list[bytes], b: list[bytes]) -> None:
    assert (ids.digest(*a) == ids.digest(*b)) == (a == b)
    assert len(ids.digest(*a)) == 32


@given(st.lists(st.integers(1, ids.ENTROPY_BYTES + 1), max_size=40))
def test_entropy_gives_no_byte_twice_and_asks_for_many_at_once(counts: list[int]) -> None:
    drawn: list[bytes] = []

    def source(count: int) -> bytes:
        begin = sum(map(len, drawn))
        drawn.append(b"".join(at.to_bytes(4, "big") for at in range(begin, begin + count))[:count])
        return drawn[-1]

    entropy = ids.Entropy(source)
    given_ = [entropy(count) for count in counts]
    assert [len(each) for each in given_] == counts
    rest = b"".join(drawn)
    for each in given_:
        at = rest.find(each)
        assert at >= 0
        rest = rest[at + len(each) :]
    assert all(len(each) >= ids.ENTROPY_BYTES for each in drawn)


@pytest.mark.parametrize("text", ["", "a b", "a\0", "a/1", "\u0661", "a'", "a%"])
def test_other_text_than_letters_and_digits_is_no_sessions_id(text: str) -> None:
    assert ids.may_be_session("06h1jeywbeq6qd4vqk2j7xvb")
    assert not ids.may_be_session(text)
