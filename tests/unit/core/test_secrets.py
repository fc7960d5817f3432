"""Secrets print nowhere, and are named in one way."""

from __future__ import annotations

import pickle

import pytest

from stateline.core.errors import BadRequest
from stateline.core.secrets import Secret, checked_name, looks_like_reference, reference_of


def test_a_secret_prints_nowhere() -> None:
    secret = Secret("planted", version="v")
    assert repr(secret) == "<secret>"
    assert (secret.reveal(), secret.version, Secret("x").version) == ("planted", "v", "")
    for printing in (str, "{}".format, pickle.dumps):
        with pytest.raises(TypeError) as error:
            printing(secret)
        assert "planted" not in str(error.value)


def test_a_reference_names_a_secret() -> None:
    assert reference_of("vault:github.v2") == "github.v2"
    assert reference_of("Bearer vault:github") is None
    assert checked_name("a") == "a"
    for text in ("vault:", "vault:a b", "vault:-a", "vault:" + "x" * 65):
        with pytest.raises(BadRequest):
            reference_of(text)


@pytest.mark.parametrize(
    ("text", "may_be"),
    [("vault:a", True), ("Bearer vault:a", True), ("VAULT:a", True), ("", False), ("my-vault:a", False)],
)
def test_what_may_be_meant_as_a_reference_is_seen(text: str, may_be: bool) -> None:
    assert looks_like_reference(text) is may_be
