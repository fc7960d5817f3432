"""What each deployment is priced at: its own price, else the first book's that has its model.

Clouds sell one model under several names and at several places, and a price of another is none. So each cloud says
here by which names and places its deployments are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Protocol

from stateline.core.billing import DEFAULT_TIER, ZERO, Price, Rates, Tariff
from stateline.money.book import PriceBook, tariff_of

GLOBAL = "global"
GEMINI_API = "gemini-api"
VERTEX = "vertex"
RUNS_HERE = "runs here"

# https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html: an ARN ends with the id of what
# it names. That of an application's own profile says nothing of the model.
_ARN = re.compile(r"arn:[^:]*:bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/(.+)")


class Deployed(Protocol):
    """What prices ask of a deployment (``ports.Deployment`` is one)."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def upstream_model(self) -> str: ...
    @property
    def cloud(self) -> str: ...
    @property
    def base_url(self) -> str: ...
    @property
    def host(self) -> str | None: ...
    @property
    def vendor(self) -> str | None: ...
    @property
    def region(self) -> str | None: ...
    @property
    def data_zone(self) -> str | None: ...
    @property
    def accelerator(self) -> str | None: ...
    @property
    def channel(self) -> str: ...
    @property
    def billing_account(self) -> str | None: ...
    @property
    def price(self) -> Price | None: ...


def names_of(deployment: Deployed) -> tuple[str, ...]:
    """The names that a deployment's price may stand under, the cloud's own first.

    On Azure the cloud's name is one that its owner gave, so the model's is asked for as well. On Bedrock it is not:
    ``us.``, ``eu.`` and ``global.`` before a model's name are other prices.
    """
    name = deployment.upstream_model
    if deployment.cloud == "aws":
        arn = _ARN.fullmatch(name)
        return (name,) if arn is None else (name, arn[1])
    return (name,) if name == deployment.model else (name, deployment.model)


def places_of(deployment: Deployed) -> tuple[str, ...]:
    """Where a deployment runs, by the names that rows have it under, from the narrowest to the widest.

    - Azure: the region, then its data zone (``eu``, ``us``), or ``global`` where it names none, which is how Azure
      calls a deployment that may be served anywhere.
    - Google: on Vertex the location (``global`` by default), then ``vertex``; else ``gemini-api``.
    - others: the region, then the data zone.
    """
    region = () if deployment.region is None else (deployment.region,)
    zone = () if deployment.data_zone is None else (deployment.data_zone.lower(),)
    if deployment.cloud == "azure":
        return (*region, *(zone or (GLOBAL,)))
    if deployment.cloud == "google":
        return (*(region or (GLOBAL,)), VERTEX) if "/projects/" in deployment.base_url else (GEMINI_API,)
    return (*region, *zone)


def tariffs(deployments: Iterable[Deployed], books: Sequence[PriceBook], on: date) -> dict[str, dict[str, Tariff]]:
    """The tariffs of each deployment on a day, by service tier; an unpriced one has none.

    A deployment's own price is that of the tier that it asks for; other tiers are as the books have them. Of the books
    the first goes before the second, tier by tier. What runs here costs nothing.
    """
    return {each.name: {tier: _tariff(each, row) for tier, row in _prices(each, books, on)} for each in deployments}


def _prices(deployment: Deployed, books: Sequence[PriceBook], on: date) -> Iterable[tuple[str, Price]]:
    found: dict[str, Price] = {}
    for book in reversed(books):
        found |= book.find(deployment.cloud, names_of(deployment), places=places_of(deployment), on=on)
    own = deployment.price
    if own is not None:
        found[own.service_tier] = own
    elif deployment.cloud == "local" and not found:
        free = Rates(input=ZERO)
        found[DEFAULT_TIER] = Price(
            cloud="local", model=deployment.upstream_model, currency="USD", rates=(free,), source=RUNS_HERE
        )
    return found.items()


def _tariff(deployment: Deployed, price: Price) -> Tariff:
    return tariff_of(
        Tariff(
            id="",
            deployment=deployment.name,
            model=deployment.model,
            upstream_model=deployment.upstream_model,
            cloud=deployment.cloud,
            host=deployment.host or deployment.cloud,
            price=price,
            vendor=deployment.vendor or "",
            region=deployment.region or "",
            billing_account=deployment.billing_account or "",
            accelerator=deployment.accelerator or "",
            channel=deployment.channel,
        )
    )
