"""The configuration of money: prices, rates of exchange and budgets, and one line for what cannot be counted."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from stateline.config import ConfigError, load

OPENAI = """
[[deployments]]
name = "a"
model = "gpt-5"
cloud = "openai"
api_key_env = "OPENAI_API_KEY"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "stateline.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), {})
    assert "\n" not in str(caught.value)
    return caught.value


def test_amounts_come_out_as_they_were_written(tmp_path: Path) -> None:
    text = """
    [prices]
    path = "prices"
    unpriced = "refuse"
    [[prices.rates]]
    from = "EUR"
    to = "USD"
    rate = 1.0812
    on = 2026-11-01
    [[budgets]]
    tenant = "default"
    model = "gpt-5"
    usd_per_month = 499.99
    [[budgets]]
    name = "everybody"
    tenant = "default"
    usd_per_month = "0.1"
    mode = "warn"
    """
    config = load(write(tmp_path, text), {})
    assert config.prices.path == str(tmp_path / "prices")
    assert (config.prices.shipped, config.prices.unpriced) == (True, "refuse")
    (rate,) = config.prices.rates
    assert (rate.have, rate.want, rate.rate, rate.on) == ("EUR", "USD", Decimal("1.0812"), date(2026, 11, 1))
    assert [(each.name, each.usd_per_month, each.mode) for each in config.budgets] == [
        ("tenant=default,model=gpt-5", Decimal("499.99"), "hard"),
        ("everybody", Decimal("0.1"), "warn"),
    ]


MONEY_REFUSALS = [
    ("[[budgets]]\n", "config_invalid", "budgets[0]: missing key `usd_per_month`"),
    ("[[budgets]]\nusd_per_month = 5\n", "config_invalid", "name one of tenant, key, agent, session, model"),
    ('[[budgets]]\ntenant = "a"\nusd_per_month = -1\n', "config_invalid", "budgets[0].usd_per_month: not an amount"),
    ('[[budgets]]\ntenant = "a"\nusd_per_month = nan\n', "config_invalid", "budgets[0].usd_per_month: not an amount"),
    ('[[budgets]]\ntenant = "a"\nusd_per_month = 1e10\n', "config_invalid", "up to 1000000000"),
    ('[[budgets]]\ntenant = "a"\nusd_per_month = 1e-16\n', "config_invalid", "up to 15 digits"),
    ('[[budgets]]\ntenant = "a"\nusd_per_month = "x"\n', "config_invalid", "budgets[0].usd_per_month"),
    ('[[budgets]]\ntenant = "a"\nusd_per_month = 1\nmode = "soft"\n', "config_invalid", 'it may be "hard", "warn"'),
    ("[[budgets]]\ntenant = 1\nusd_per_month = 1\n", "config_invalid", "budgets[0].tenant"),
    ('[[budgets]]\ntenent = "a"\nusd_per_month = 1\n', "config_unknown_key", "did you mean `tenant`?"),
    ('[[budgets]]\ntenant = "a"\nusd_per_month = 1\n' * 2, "config_invalid", '"tenant=a" is taken'),
    ("budgets = 1\n", "config_invalid", "budgets: expected a list"),
    ("budgets = [1]\n", "config_invalid", "budgets[0]: expected a table"),
    (f"{OPENAI}price = {{input_per_mtok = 1}}\n", "config_invalid", "deployments[0].price: missing key `currency`"),
    (f'{OPENAI}price = {{currency = "usd", input_per_mtok = 1}}\n', "config_invalid", "deployments[0].price.currency"),
    (f'{OPENAI}price = {{currency = "USD"}}\n', "config_invalid", "missing key `input_per_mtok`"),
    (f'{OPENAI}price = {{currency = "USD", inputt_per_mtok = 1}}\n', "config_unknown_key", "did you mean `input_per_"),
    (
        f'{OPENAI}price = {{currency = "USD", input_per_mtok = -1}}\n',
        "config_invalid",
        "price.input_per_mtok: not an am",
    ),
    ('[prices]\nunpriced = "deny"\n', "config_invalid", 'it may be "unbudgeted", "allow", "refuse"'),
    (
        '[[prices.rates]]\nform = "EUR"\n',
        "config_unknown_key",
        "prices.rates[0].form: unknown key `form`; did you mean",
    ),
    ('[[prices.rates]]\nfrom = "EUR"\n', "config_invalid", "prices.rates[0]: missing key `to`"),
    (
        '[[prices.rates]]\nfrom = "EUR"\nto = "USD"\nrate = 0\non = 2026-11-01\n',
        "config_invalid",
        "prices.rates[0].rate: not an amount",
    ),
    (
        '[[prices.rates]]\nfrom = "EUR"\nto = "EUR"\nrate = 1\non = 2026-11-01\n',
        "config_invalid",
        "from EUR to itself",
    ),
    (
        '[[prices.rates]]\nfrom = "EUR"\nto = "USD"\nrate = 1\non = 2026-11-01\n' * 2,
        "config_invalid",
        "EUR to USD on 2026-11-01 has two rates",
    ),
]


@pytest.mark.parametrize(("text", "code", "expected"), MONEY_REFUSALS)
def test_money_that_cannot_be_counted_is_refused(tmp_path: Path, text: str, code: str, expected: str) -> None:
    error = refusal(tmp_path, text)
    assert error.code == code
    assert expected in str(error)


# -- rate limits -------------------------------------------------------------------------------------------


def test_a_rate_limit_without_a_name_is_named_by_what_it_covers(tmp_path: Path) -> None:
    text = """
    [[rate_limits]]
    requests_per_minute = 60
    [[rate_limits]]
    tenant = "acme"
    model = "gpt-5"
    tokens_per_minute = 1_000
    max_concurrency = 2
    """
    every, team = load(write(tmp_path, text), {}).rate_limits
    assert (every.name, every.requests_per_minute, every.tokens_per_minute, every.max_concurrency) == (
        "all", 60, None, None,
    )  # fmt: skip
    assert (team.name, team.tenant, team.tokens_per_minute, team.max_concurrency) == (
        "tenant=acme,model=gpt-5", "acme", 1_000, 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[rate_limits]]\ntenant = "a"', "it limits nothing"),
        ("[[rate_limits]]\nrequests_per_minute = 0", "rate_limits[0].requests_per_minute"),
        ("[[rate_limits]]\nmax_concurrency = 1_000_000_001", "rate_limits[0].max_concurrency"),
        ("[[rate_limits]]\nrequests_per_minuet = 1", "requests_per_minute"),
        ("[[rate_limits]]\nmax_concurrency = 1\n[[rate_limits]]\nmax_concurrency = 2", '"all" is taken'),
    ],
)
def test_a_rate_limit_that_cannot_be_held_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in str(refusal(tmp_path, text))
