"""Large content out of an encoded body and back, as pure functions."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stateline.core.blobs import MARK, REFERENCE, blob_name, join, may_hold, references, split, tenant_key
from stateline.core.limits import BLOB_BYTES_MIN

KEY = tenant_key(b"secret", "t")
LARGE = "A" * BLOB_BYTES_MIN


class Shelf:
    """Keeps what is split off, by name."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def keep(self, content: bytes) -> str:
        name = blob_name(KEY, content)
        self.kept[name] = content
        return name


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def test_large_values_go_out_and_come_back() -> None:
    raw = encode([{"image_url": "data:," + LARGE}, {"file_data": LARGE}, {"video_url": LARGE}, {"text": LARGE}])
    shelf = Shelf()
    stored = split(raw, shelf.keep)
    assert len(stored) < BLOB_BYTES_MIN + 1000
    assert set(references(stored)) == set(shelf.kept)
    assert len(shelf.kept) == 2  # The file and the video are the same content.
    assert join(stored, shelf.kept.__getitem__) == raw


def test_small_values_and_other_keys_stay() -> None:
    raw = encode({"image_url": "https://example.com/a.png", "file_data": LARGE[:-1], "other": LARGE, "n": None})
    assert split(raw, Shelf().keep) == raw
    assert references(raw) == []
    assert join(raw, Shelf().kept.__getitem__) == raw


def test_a_value_that_looks_like_a_reference_is_no_way_to_another_content() -> None:
    shelf = Shelf()
    secret = blob_name(KEY, b"someone's")
    raw = encode({"image_url": REFERENCE.decode() + secret})
    assert split(raw, shelf.keep) == raw
    assert references(raw) == []
    assert join(raw, shelf.kept.__getitem__) == raw
    raw = encode([{"image_url": REFERENCE.decode() + secret}, {"file_data": LARGE}])
    stored = split(raw, shelf.keep)
    assert secret not in references(stored)
    assert join(stored, shelf.kept.__getitem__) == raw


def test_a_key_inside_a_text_is_not_a_key() -> None:
    raw = encode({"text": f'"image_url":"{LARGE}"', "image_url": None})
    assert split(raw, Shelf().keep) == raw


def test_names_differ_by_tenant_and_by_installation() -> None:
    keys = [tenant_key(secret, tenant) for secret in (b"a", b"b") for tenant in ("x", "y")]
    assert len({blob_name(key, b"content") for key in keys}) == 4
    assert blob_name(keys[0], b"content") == blob_name(keys[0], b"content")


TEXTS = st.text(alphabet='\\"ab:,{}é\n', max_size=8)


def grown(text: str) -> str:
    return text + LARGE + text


def pretended(text: str) -> str:
    return REFERENCE.decode() + text


VALUES = st.one_of(TEXTS, TEXTS.map(grown), TEXTS.map(pretended), st.none())
KEYS = st.sampled_from(["image_url", "file_data", "video_url", "text", '"image_url":"', "\\"])


@given(st.recursive(st.dictionaries(KEYS, VALUES, max_size=4), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_whatever_is_split_joins_to_the_same_bytes(value: Any) -> None:
    raw = encode(value)
    shelf = Shelf()
    stored = split(raw, shelf.keep)
    assert json.loads(stored.removeprefix(MARK)) is not None
    assert set(references(stored)) == set(shelf.kept)
    assert join(stored, shelf.kept.__getitem__) == raw
    if not may_hold(raw):
        assert stored == raw
