"""What a deployment is priced at, by each cloud's names and places."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import msgspec
import pytest

from stateline.core.billing import ZERO, Price, Rates
from stateline.money.book import PriceBook
from stateline.money.tariffs import RUNS_HERE, names_of, places_of, tariffs
from stateline.ports import Deployment

DAY = date(2026, 11, 26)


def deployed(**fields: object) -> Deployment:
    base = Deployment(
        name="d",
        model="gpt-5",
        cloud="azure",
        format="openai-responses",
        base_url="https://x.openai.azure.com",
        upstream_model="gpt-5-prod",
    )
    return msgspec.structs.replace(base, **fields)


def row(amount: int = 1, **fields: object) -> Price:
    base = Price(cloud="azure", model="gpt-5", currency="USD", rates=(Rates(input=Decimal(amount)),))
    return msgspec.structs.replace(base, **fields)


def priced(deployment: Deployment, *books: PriceBook) -> dict[str, Decimal]:
    found = tariffs([deployment], books, DAY)[deployment.name]
    return {tier: tariff.price.rates[0].input for tier, tariff in found.items()}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ("gpt-5-prod", "gpt-5")),
        ({"upstream_model": "gpt-5"}, ("gpt-5",)),
        ({"cloud": "aws", "upstream_model": "us.anthropic.claude-x"}, ("us.anthropic.claude-x",)),
        (
            {"cloud": "aws", "upstream_model": "arn:aws:bedrock:us-east-1:1:inference-profile/us.claude"},
            ("arn:aws:bedrock:us-east-1:1:inference-profile/us.claude", "us.claude"),
        ),
        (
            {"cloud": "aws", "upstream_model": "arn:aws:bedrock:us-east-1:1:application-inference-profile/x1"},
            ("arn:aws:bedrock:us-east-1:1:application-inference-profile/x1",),
        ),
    ],
)
def test_a_price_is_looked_up_by_the_clouds_own_name_first(fields: dict[str, object], names: tuple[str, ...]) -> None:
    assert names_of(deployed(**fields)) == names


VERTEX = {"cloud": "google", "base_url": "https://aiplatform.googleapis.com/v1/projects/p"}


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({}, ("global",)),
        ({"region": "swedencentral"}, ("swedencentral", "global")),
        ({"region": "swedencentral", "data_zone": "EU"}, ("swedencentral", "eu")),
        ({"cloud": "google", "region": "eu"}, ("gemini-api",)),
        (VERTEX, ("global", "vertex")),
        ({**VERTEX, "region": "us-east5"}, ("us-east5", "vertex")),
        ({"cloud": "aws", "region": "us-east-1"}, ("us-east-1",)),
        ({"cloud": "openai", "data_zone": "eu"}, ("eu",)),
        ({"cloud": "openai"}, ()),
    ],
)
def test_where_a_deployment_runs_is_known_by_its_cloud(fields: dict[str, object], places: tuple[str, ...]) -> None:
    assert places_of(deployed(**fields)) == places


def test_a_deployments_own_price_goes_before_the_books_in_its_tier_alone() -> None:
    book = PriceBook([row(2), row(3, service_tier="flex")])
    assert priced(deployed(), book) == {"default": 2, "flex": 3}
    assert priced(deployed(price=row(9)), book) == {"default": 9, "flex": 3}
    assert priced(deployed(price=row(9, service_tier="flex"), service_tier="flex"), book) == {"default": 2, "flex": 9}


def test_the_first_book_goes_before_the_second() -> None:
    shipped = PriceBook([row(2, region="global"), row(3, service_tier="flex", region="global")])
    assert priced(deployed(), PriceBook([row(1)]), shipped) == {"default": 1, "flex": 3}


def test_what_runs_here_costs_nothing_unless_it_is_said_to() -> None:
    here = deployed(cloud="local", upstream_model="qwen")
    (tariff,) = tariffs([here], [], DAY)["d"].values()
    assert (tariff.price.rates[0].input, tariff.price.rates[0].output, tariff.price.source) == (ZERO, ZERO, RUNS_HERE)
    assert priced(deployed(cloud="local", price=row(1, cloud="local"))) == {"default": 1}
    book = PriceBook([row(4, cloud="local", model="qwen")])
    assert priced(here, book) == {"default": 4}


def test_a_deployment_without_a_price_has_no_tariff() -> None:
    assert tariffs([deployed()], [PriceBook()], DAY) == {"d": {}}


def test_a_tariff_says_what_a_bill_says_of_its_deployment() -> None:
    one = deployed(
        host="microsoft",
        vendor="openai",
        region="swedencentral",
        billing_account="a1",
        accelerator="h100",
        channel="mp",
    )
    tariff = tariffs([one], [PriceBook([row()])], DAY)["d"]["default"]
    assert (tariff.deployment, tariff.model, tariff.upstream_model, tariff.cloud) == (
        "d",
        "gpt-5",
        "gpt-5-prod",
        "azure",
    )
    assert (tariff.host, tariff.vendor, tariff.region) == ("microsoft", "openai", "swedencentral")
    assert (tariff.billing_account, tariff.accelerator, tariff.channel) == ("a1", "h100", "mp")
    bare = tariffs([deployed()], [PriceBook([row()])], DAY)["d"]["default"]
    assert (bare.host, bare.vendor, bare.region, bare.billing_account, bare.accelerator) == ("azure", "", "", "", "")
    assert bare.id != tariff.id
