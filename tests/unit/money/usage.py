"""Calls and tariffs for tests of what is made of usage."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from stateline.core.billing import Charge, Metered, Price, Rates, Tariff
from stateline.core.calls import Usage
from stateline.money.book import tariff_of
from stateline.money.meter import cost_of

DAY = date(2026, 11, 2)


def rates(above: int = 0, scale: str = "1") -> Rates:
    by = Decimal(scale)
    return Rates(
        input=Decimal("1.25") * by, output=10 * by, cached=Decimal("0.125") * by, cache_write=Decimal("1.5625") * by,
        above=above,
    )  # fmt: skip


def tariff(model: str = "gpt-5", account: str = "acc-1", currency: str = "USD", **changes: object) -> Tariff:
    price = Price(cloud="azure", model=model, currency=currency, rates=(rates(), rates(272_000, "2")))
    made = Tariff(
        id="", deployment=f"{model}-se", model=model, upstream_model=model, cloud="azure", host="azure",
        price=price, vendor="openai", region="swedencentral", billing_account=account,
    )  # fmt: skip
    for name, value in changes.items():
        made = _with(made, name, value) if hasattr(made, name) else _with(made, "price", _with(made.price, name, value))
    return tariff_of(made)


_T = TypeVar("_T", Tariff, Price)


def _with(struct: _T, name: str, value: object) -> _T:
    return msgspec.structs.replace(struct, **{name: value})


def at(day: date = DAY, hour: int = 12) -> int:
    return int(datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp() * 1000)


def call(by: Tariff | None, usage: Usage | None = None, **changes: object) -> Metered:
    """A call that was charged by what it used; without usage, by ``amount``, estimated."""
    amount = changes.pop("amount", None)
    charge = None
    if by is not None:
        cost = cost_of(by.price, usage) if usage is not None and amount is None else Decimal(str(amount or 0))
        charge = Charge(tariff=by.id, amount=cost, currency=by.price.currency, estimated=usage is None)
    given: dict[str, object] = {
        "id": "s/1/1", "at_ms": at(), "tenant": "acme", "principal": "key_1", "session": "s", "model": "gpt-5",
        "deployment": "gpt-5-se", "interface": "responses", "workload": "stateful", "charge": charge, "usage": usage,
        **changes,
    }  # fmt: skip
    return Metered(**given)  # pyright: ignore[reportArgumentType]


usages = st.builds(
    Usage,
    input_tokens=st.integers(0, 400_000),
    output_tokens=st.integers(0, 20_000),
    cached_tokens=st.integers(0, 300_000),
    reasoning_tokens=st.integers(0, 10_000),
    cache_write_tokens=st.integers(0, 50_000),
)
