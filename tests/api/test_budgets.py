"""Budgets and costs as a client sees them, over the real server."""

from __future__ import annotations

from collections.abc import Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from tests.api.conftest import MODEL, Served

from stateline.core.billing import Price, Rates, Tariff
from stateline.core.calls import Usage
from stateline.engine.meter import Meter
from stateline.money.book import tariff_of
from stateline.money.budgets import Budget
from stateline.testing import Answer

COST = "0.012"


@pytest.fixture
def paid(tmp_path: Path) -> Generator[Served]:
    server = Served(tmp_path / "stateline.db").start()
    server.script({MODEL: Answer(text="an answer", usage=Usage(input_tokens=1_000, output_tokens=100))})
    yield server
    server.stop()


@pytest.fixture
def client(paid: Served) -> Generator[openai.OpenAI]:
    with paid.openai() as made:
        yield made


def give(server: Served, limit: str, *budgets: Budget, mode: Any = "hard") -> None:
    """Put a price on the model, and budgets in force."""
    name = server.engine.deployments(MODEL)[0].name
    rates = (Rates(input=Decimal(10), output=Decimal(20)),)
    price = Price(cloud="openai", model=MODEL, currency="USD", rates=rates)
    tariff = tariff_of(
        Tariff(id="", deployment=name, model=MODEL, upstream_model=MODEL, cloud="openai", host="openai", price=price)
    )
    own = Budget(name="ours", limit=Decimal(limit), tenant="default", mode=mode)
    meter = Meter({name: {"default": tariff}}, (own, *budgets))

    async def use() -> None:
        await server.engine.ledger.announce(meter.tariffs)
        server.engine.meter = meter
        if server.engine.volatile is not None:
            server.engine.volatile.meter = meter

    server.run(use)


def budgets(server: Served) -> list[dict[str, Any]]:
    return httpx.get(f"{server.url}/v1/budgets").raise_for_status().json()["data"]


def test_a_response_says_what_it_cost_and_the_budget_what_is_left(paid: Served, client: openai.OpenAI) -> None:
    give(paid, "100")
    response = client.responses.create(model=MODEL, input="go").to_dict()
    extension: Any = response["stateline"]
    assert extension["cost"] == [{"amount": COST, "currency": "USD", "estimated": False}]
    [budget] = budgets(paid)
    assert (budget["name"], budget["limit"], Decimal(budget["spent"])) == ("ours", "100", Decimal(COST))
    assert (Decimal(budget["held"]), Decimal(budget["left"])) == (0, Decimal("99.988"))
    assert f'charged_total{{currency="USD",estimated="false"}} {COST}' in httpx.get(f"{paid.url}/metrics").text


def test_a_budget_that_is_used_up_answers_429_and_says_not_to_try_again(paid: Served, client: openai.OpenAI) -> None:
    give(paid, "0.001")
    with pytest.raises(openai.RateLimitError) as caught:
        client.with_options(max_retries=2).responses.create(model=MODEL, input="go")
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.RateLimitError) as caught:
        client.with_options(max_retries=2).chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "go"}]
        )
    assert caught.value.code == "insufficient_quota"
    with pytest.raises(openai.RateLimitError):
        client.embeddings.create(model=MODEL, input="go")
    messages = anthropic.Anthropic(base_url=paid.url, api_key="none", max_retries=2).messages
    with pytest.raises(anthropic.RateLimitError):
        messages.create(model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "go"}])
    assert not paid.scripted.requests


def test_a_stream_that_no_budget_pays_for_is_refused_before_it_begins(paid: Served, client: openai.OpenAI) -> None:
    give(paid, "0.001")
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "go"}], stream=True)
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model=MODEL, input="go", stream=True)


def test_a_budget_that_only_warns_refuses_nothing(paid: Served, client: openai.OpenAI) -> None:
    give(paid, "0.001", mode="warn")
    client.responses.create(model=MODEL, input="go")
    client.responses.create(model=MODEL, input="go")
    [budget] = budgets(paid)
    assert Decimal(budget["spent"]) == Decimal("0.024")
    assert Decimal(budget["left"]) == Decimal("-0.023")


def test_a_tenant_sees_its_own_budgets_alone(paid: Served) -> None:
    give(paid, "1", Budget(name="theirs", limit=Decimal(1), tenant="acme"), Budget(name="all", limit=Decimal(9)))
    assert [each["name"] for each in budgets(paid)] == ["ours"]
