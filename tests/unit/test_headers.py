"""Headers that people give for others' servers."""

from __future__ import annotations

import pytest

from stateline.core.headers import fits, is_ours, may_be_secret
from stateline.core.limits import MCP_HEADER_CHARS_MAX


def test_what_the_connection_sets_is_not_given() -> None:
    assert all(is_ours(name) for name in ("Host", "content-length", "Mcp-Session-Id", "Idempotency-Key", "Sec-Fetch"))
    assert not is_ours("X-Tenant")


def test_headers_for_secrets_are_known_by_their_names() -> None:
    assert all(may_be_secret(name) for name in ("Authorization", "X-Api-Key", "Cookie", "x-auth-token"))
    assert not may_be_secret("X-Tenant")


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "é", " a", "a ", "a\x00"])
def test_no_value_begins_another_line(value: str) -> None:
    assert not fits("x-a", value)


@pytest.mark.parametrize("name", ["", "a b", "a:", "é", "a\r\n"])
def test_no_name_does_either(name: str) -> None:
    assert not fits(name, "a")


def test_a_header_has_its_limit() -> None:
    assert fits("x-a_b", "v" * (MCP_HEADER_CHARS_MAX - 5))
    assert not fits("x-a_b", "v" * (MCP_HEADER_CHARS_MAX - 4))
