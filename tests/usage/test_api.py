"""``/v1/usage`` over the real server: a tenant's own calls, each in one page."""

from __future__ import annotations

from collections.abc import Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import MODEL, Served
from tests.api.http import Client
from tests.api.test_budgets import COST, give
from tests.usage.test_served import settled

from stateline.core.calls import Usage
from stateline.core.limits import USAGE_SESSIONS_MAX
from stateline.testing import Answer


@pytest.fixture
def paid(tmp_path: Path) -> Generator[Served]:
    server = Served(tmp_path / "stateline.db").start()
    server.script({MODEL: Answer(text="an answer", usage=Usage(input_tokens=1_000, output_tokens=100))})
    yield server
    server.stop()


@pytest.fixture
def http(paid: Served) -> Generator[Client]:
    made = Client(paid.port)
    yield made
    made.close()


def pages(http: Client, query: str = "") -> list[list[Any]]:
    found: list[list[Any]] = []
    after = ""
    while True:
        page = http("GET", f"/v1/usage?{query}{after}").json
        found.append(page["data"])
        assert page["has_more"] is (page["last_id"] is not None)
        if not page["has_more"]:
            return found
        after = f"&after={page['last_id']}"


def test_calls_are_added_up_by_day_model_and_workload(paid: Served, http: Client) -> None:
    give(paid, "100")
    with paid.openai() as client:
        first = client.responses.create(model=MODEL, input="one")
        client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        client.responses.create(model=MODEL, input="fork", previous_response_id=first.id)
        client.responses.create(model=MODEL, input="three", store=False)
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "go"}])
    settled(paid, 5 * Decimal(COST))
    stored, unstored = [each for page in pages(http) for each in page]
    assert stored.pop("day") == unstored.pop("day")
    usual = {
        "object": "usage", "model": MODEL, "unpriced": 0, "cached_tokens": 0, "cache_write_tokens": 0,
        "reasoning_tokens": 0,
    }  # fmt: skip
    cost = {"currency": "USD", "estimated": False}
    assert stored == {
        **usual, "workload": "stateful", "calls": 3, "input_tokens": 3000, "output_tokens": 300,
        "cost": [{"amount": str(3 * Decimal(COST)), **cost}],
    }  # fmt: skip
    assert unstored == {
        **usual, "workload": "stateless", "calls": 2, "input_tokens": 2000, "output_tokens": 200,
        "cost": [{"amount": str(2 * Decimal(COST)), **cost}],
    }  # fmt: skip
    assert not any(pages(http, "to=2020-01-01"))
    assert not any(pages(http, "from=2200-01-01"))
    assert sum(map(len, pages(http, "from=2020-01-01&to=2200-01-01"))) == 2


def test_a_call_without_a_price_is_counted_without_a_cost(paid: Served, http: Client) -> None:
    with paid.openai() as client:
        client.responses.create(model=MODEL, input="one")
    ((one,), *_) = pages(http)
    assert (one["calls"], one["unpriced"], one["input_tokens"], one["cost"]) == (1, 1, 1000, [])


def test_a_page_looks_through_so_many_sessions(paid: Served, http: Client) -> None:
    with paid.openai() as client:
        client.responses.create(model=MODEL, input="below them all")
        for _ in range(USAGE_SESSIONS_MAX):
            client.conversations.create()
    found = pages(http)
    assert found[0] == []
    assert found[1][0]["calls"] == 1


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("from=November", "invalid_value"),
        ("to=0001-01-01", "invalid_value"),
        ("to=9999-12-31", "invalid_value"),
        ("after=%00", "invalid_cursor"),
        ("after=-a/b", "invalid_cursor"),
        ("after=", "invalid_cursor"),
    ],
)
def test_what_is_no_page_of_usage_is_refused(http: Client, query: str, code: str) -> None:
    answer = http("GET", f"/v1/usage?{query}")
    assert (answer.status, answer.json["error"]["code"]) == (400, code)
