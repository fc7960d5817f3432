"""Files of prices on disk, the shipped book, and what the configuration makes of both."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from bench.price_oracles import Case, Mix, litellm_cost
from bench.prices import cases, judged

from stateline import price_files, wiring
from stateline.config import load
from stateline.core.billing import Price, Rates
from stateline.core.limits import PRICE_FILE_BYTES_MAX
from stateline.money.book import PriceBook, PriceError
from stateline.money.comparing import differences
from stateline.price_files import load_any, load_catalogue, load_file, load_folder, read, shipped, write
from stateline.pricing import books, budgets, currency_rates, priced

D = Decimal
DAY = date(2026, 11, 26)

TOML = """
source = "our agreement of October"
currency = "USD"

[[prices]]
cloud = "azure"
model = "gpt-5"
input_per_mtok = 1.10
output_per_mtok = "8.80"
"""

LITELLM = {
    "azure/gpt-x": {
        "litellm_provider": "azure",
        "mode": "chat",
        "input_cost_per_token": 5e-06,
        "output_cost_per_token": 3e-05,
        "cache_read_input_token_cost": 5e-07,
        "input_cost_per_token_above_272k_tokens": 1e-05,
        "output_cost_per_token_above_272k_tokens": 4.5e-05,
        "cache_read_input_token_cost_above_272k_tokens": 1e-06,
        "input_cost_per_token_priority": 1.25e-05,
        "output_cost_per_token_priority": 7.5e-05,
        "cache_read_input_token_cost_priority": 1.25e-06,
        "input_cost_per_token_above_272k_tokens_priority": 2e-05,
        "output_cost_per_token_above_272k_tokens_priority": 9e-05,
        "cache_read_input_token_cost_above_272k_tokens_priority": 2e-06,
        "input_cost_per_token_batches": 2.5e-06,
    },
    "azure/eu/gpt-x": {
        "litellm_provider": "azure",
        "mode": "chat",
        "input_cost_per_token": 5.5e-06,
        "output_cost_per_token": 3.3e-05,
    },
    "gpt-x": {
        "litellm_provider": "openai",
        "mode": "responses",
        "input_cost_per_token": 5e-06,
        "output_cost_per_token": 3e-05,
        "output_cost_per_reasoning_token": 3.5e-05,
        "regional_processing_uplift_multiplier_eu": 1.1,
    },
    "us.anthropic.claude-x-v1:0": {
        "litellm_provider": "bedrock_converse",
        "mode": "chat",
        "input_cost_per_token": 3.3e-06,
        "output_cost_per_token": 1.65e-05,
        "cache_read_input_token_cost": 3.3e-07,
        "cache_creation_input_token_cost": 4.125e-06,
    },
    "claude-x": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": 3e-06,
        "output_cost_per_token": 1.5e-05,
        "provider_specific_entry": {"us": 1.1},
    },
    "vertex_ai/gemini-x": {
        "litellm_provider": "vertex_ai",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
        "regional_endpoint_uplift_multiplier": 1.1,
    },
    "gemini/gemini-x": {
        "litellm_provider": "gemini",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
    },
}
"""A trimmed catalogue: its form is LiteLLM's, its amounts are made up."""


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# -- files -----------------------------------------------------------------------------------------


def test_amounts_come_out_as_they_were_written(tmp_path: Path) -> None:
    (row,) = load_file(put(tmp_path, "p.toml", TOML))
    assert row == Price(
        cloud="azure",
        model="gpt-5",
        currency="USD",
        rates=(Rates(input=D("1.10"), output=D("8.80")),),
        source="our agreement of October",
    )


def test_a_folder_is_read_with_those_in_it_but_not_what_is_hidden(tmp_path: Path) -> None:
    put(tmp_path, "a.toml", TOML)
    put(
        tmp_path,
        "deep/b.json",
        '{"prices": [{"cloud": "aws", "model": "m", "currency": "EUR", "input_per_mtok": 1.5}]}',
    )
    put(tmp_path, ".hidden/c.toml", "nonsense")
    put(tmp_path, ".c.toml", "nonsense")
    put(tmp_path, "README.md", "nonsense")
    assert [(each.cloud, each.rates[0].input) for each in load_folder(tmp_path).all()] == [
        ("azure", D("1.10")),
        ("aws", D("1.5")),
    ]


def test_prices_of_two_files_that_overlap_are_refused_with_both_named(tmp_path: Path) -> None:
    text = TOML.replace('source = "our agreement of October"\n', "")
    put(tmp_path, "a.toml", text)
    put(tmp_path, "b.toml", text)
    with pytest.raises(PriceError) as caught:
        load_folder(tmp_path)
    assert caught.value.code == "price_overlap"
    assert "a.toml" in str(caught.value)
    assert "b.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("p.toml", TOML.replace('currency = "USD"\n', ""), "price_invalid", "prices[0]: a price has a currency"),
        ("p.toml", TOML.replace("1.10", "= 1"), "price_invalid", "not valid TOML"),
        ("p.toml", TOML.replace("1.10", "nan"), "price_invalid", "a price that is no amount"),
        ("p.json", '{"prices": [{"cloud": "aws"', "price_invalid", "not valid JSON, as a file is that came in part"),
        ("p.json", '{"prices": [{"cloud": NaN}]}', "price_invalid", "NaN is no number"),
        ("p.json", '{"prices": [], "prices": []}', "price_invalid", 'the key "prices" is written twice'),
        ("p.json", "[" * 100_000, "price_invalid", "nested too deeply"),
        ("p.json", '{"prices": [{"cloud": "aws", "per_call": 1e99999999999999999999}]}', "price_invalid", "p.json"),
        ("p.json", "", "price_invalid", "not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str, code: str, said: str
) -> None:
    put(tmp_path, name, text)
    with pytest.raises(PriceError) as caught:
        load_folder(tmp_path)
    assert caught.value.code == code
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_or_too_large_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PriceError, match="no such folder") as caught:
        load_folder(tmp_path / "absent")
    assert caught.value.code == "prices_unreadable"
    with pytest.raises(PriceError, match="cannot be read"):
        read(tmp_path / "absent.json")
    with pytest.raises(PriceError, match="cannot be read"):
        read(tmp_path)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(PRICE_FILE_BYTES_MAX + 1)
    with pytest.raises(PriceError, match="larger than"):
        read(tmp_path / "large.json")
    put(tmp_path, "latin.json", "").write_bytes(b"\xff")
    with pytest.raises(PriceError, match="not valid JSON"):
        read(tmp_path / "latin.json")


def test_a_book_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.toml", TOML)
    monkeypatch.setattr(price_files, "PRICE_ROWS_MAX", 0)
    with pytest.raises(PriceError, match="more than 0 prices"):
        load_folder(tmp_path)


def test_what_was_written_is_read_back_and_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    rows = load_catalogue("litellm", put(tmp_path, "c.json", json.dumps(LITELLM)), DAY).prices
    target = tmp_path / "out.json"
    write(target, rows)
    assert load_file(target) == rows
    with pytest.raises(PriceError, match="cannot be written"):
        write(tmp_path / "absent" / "out.json", rows)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["c.json", "out.json"]


# -- catalogues ------------------------------------------------------------------------------------


def test_what_a_place_is_shows_in_its_content(tmp_path: Path) -> None:
    catalogue = put(tmp_path, "c.json", json.dumps(LITELLM))
    genai = [{"id": "openai", "models": [{"id": "m", "match": {"equals": "m"}, "prices": {"input_mtok": 2}}]}]
    assert len(load_any(str(catalogue), DAY)) == 11
    assert [each.model for each in load_any(str(put(tmp_path, "g.json", json.dumps(genai))), DAY)] == ["m"]
    assert len(load_any(str(put(tmp_path, "own/p.toml", TOML)), DAY)) == 1
    assert len(load_any(str(tmp_path / "own"), DAY)) == 1
    assert len(load_any("shipped", DAY)) == len(shipped())
    with pytest.raises(PriceError, match=r"c\.json: not the data of genai-prices"):
        load_catalogue("genai-prices", catalogue, DAY)
    clause = '{"or": [' * 400 + '{"equals": "m"}' + "]}" * 400
    deep = f'[{{"id": "openai", "models": [{{"id": "m", "match": {clause}, "prices": {{"input_mtok": 2}}}}]}}]'
    with pytest.raises(PriceError, match="nested too deeply"):
        load_any(str(put(tmp_path, "deep.json", deep)), DAY)


def test_random_calls_cost_what_the_raw_catalogue_says(tmp_path: Path) -> None:
    path = put(tmp_path, "c.json", json.dumps(LITELLM))
    rows = load_catalogue("litellm", path, DAY).prices
    models = [("azure", "gpt-x"), ("openai", "gpt-x"), ("anthropic", "claude-x"), ("google", "gemini-x")]
    found = cases([*models, ("aws", "us.anthropic.claude-x-v1:0")], 300, 7)
    result = judged(found, PriceBook(rows), lambda case: litellm_cost(LITELLM, case), DAY)
    assert (result["cases"], result["disagree"], result["unpriced_here_alone"]) == (300, [], [])
    assert result["agree"] > 100
    # The batch tier of Azure lacks a price of output, and is nobody else's.
    assert "azure gpt-x global batch" in result["unpriced_by_both"]


def test_the_computation_beside_ours_sees_a_price_that_is_wrong(tmp_path: Path) -> None:
    wrong = {**LITELLM, "azure/eu/gpt-x": {**LITELLM["azure/eu/gpt-x"], "output_cost_per_token": 3.4e-05}}
    rows = load_catalogue("litellm", put(tmp_path, "c.json", json.dumps(wrong)), DAY).prices
    call = Case("azure", "gpt-x", "eu", "default", Mix(10, 0, 0, 10, 0))
    result = judged([call], PriceBook(rows), lambda case: litellm_cost(LITELLM, case), DAY)
    assert len(result["disagree"]) == 1


# -- the shipped book ------------------------------------------------------------------------------


def test_every_shipped_row_has_a_source_with_its_day_and_no_two_hold_at_once() -> None:
    rows = shipped()
    assert len(PriceBook(rows)) == len(rows) > 2500
    assert all(", read 2026-" in row.source for row in rows)
    assert {row.cloud for row in rows} == {"openai", "azure", "anthropic", "aws", "google"}
    assert {row.currency for row in rows} == {"USD"}


def test_only_the_rows_that_are_asked_for_are_made() -> None:
    wanted = [("azure", "gpt-5.5"), ("azure", "gpt-5.5"), ("azure", "absent"), ("mars", "gpt-5.5")]
    rows = shipped(wanted)
    assert {(row.cloud, row.model) for row in rows} == {("azure", "gpt-5.5")}
    assert rows == [row for row in shipped() if (row.cloud, row.model) == ("azure", "gpt-5.5")]


def test_azures_tiers_and_zones_have_their_own_prices() -> None:
    # 25,500 input and 4,250 output tokens: what genai-prices answers with the same 0.255 whatever the tier and zone.
    rows = {(row.region, row.service_tier): row.rates[0] for row in shipped([("azure", "gpt-5.5")])}

    def cost(region: str, tier: str) -> Decimal:
        rates = rows[region, tier]
        return (25_500 * rates.input + 4_250 * rates.output) / 1_000_000

    assert cost("global", "default") == D("0.255")
    assert cost("global", "priority") == D("0.6375")
    assert cost("global", "batch") == D("0.1275")
    assert cost("eu", "default") == D("0.2805")


def test_the_book_is_made_of_both_catalogues_and_the_dearer_word_is_taken() -> None:
    words = {row.source.rpartition("; ")[2] for row in shipped() if ";" in row.source}
    assert words == {"LiteLLM 1.109.1 agrees", "LiteLLM 1.109.1 says less", "genai-prices 0.2.3 says less"}
    assert differences(shipped(), shipped(), DAY) == []


# -- the configuration -----------------------------------------------------------------------------

CONFIG = """
[prices]
path = "prices"
{prices}

[[prices.rates]]
from = "EUR"
to = "USD"
rate = "1.08"
on = 2026-11-01

[[budgets]]
tenant = "default"
usd_per_month = 500

[[deployments]]
name = "a"
model = "gpt-5.5"
cloud = "azure"
base_url = "https://x.openai.azure.com"
upstream_model = "prod"
data_zone = "eu"
auth = "none"
billing_account = "b1"
{deployment}
"""


def config_of(folder: Path, prices: str = "", deployment: str = "") -> dict[str, tuple[Decimal, str, str]]:
    config = load(put(folder, "stateline.toml", CONFIG.format(prices=prices, deployment=deployment)), {})
    found = wiring.deployments(config, secrets=False)
    (tiers,) = priced(config, found, DAY).values()
    return {
        tier: (tariff.price.rates[0].input, tariff.price.source.partition(",")[0], tariff.billing_account)
        for tier, tariff in tiers.items()
    }


def test_own_price_goes_before_own_files_and_these_before_the_shipped_book(tmp_path: Path) -> None:
    (tmp_path / "prices").mkdir()
    assert config_of(tmp_path)["default"] == (D("5.5"), "LiteLLM 1.109.1", "b1")
    put(tmp_path, "prices/p.toml", TOML.replace("gpt-5", "gpt-5.5"))
    assert config_of(tmp_path)["default"] == (D("1.10"), "our agreement of October", "b1")
    own = 'price = {currency = "USD", input_per_mtok = 0.90}'
    assert config_of(tmp_path, deployment=own)["default"] == (D("0.90"), "stateline.toml", "b1")
    assert config_of(tmp_path)["batch"][0] == D("2.75")
    assert config_of(tmp_path, prices="shipped = false").keys() == {"default"}


def test_a_mistake_in_a_file_of_prices_is_the_configurations(tmp_path: Path) -> None:
    put(tmp_path, "prices/p.toml", "[[prices]]\n")
    with pytest.raises(PriceError, match=r"p\.toml: prices\[0\]"):
        config_of(tmp_path)


def test_where_nothing_is_called_no_book_is_opened(tmp_path: Path) -> None:
    config = load(put(tmp_path, "stateline.toml", ""), {})
    assert books(config, wiring.deployments(config)) == []


def test_budgets_and_rates_are_those_of_the_configuration(tmp_path: Path) -> None:
    config = load(put(tmp_path, "stateline.toml", CONFIG.format(prices="", deployment="")), {})
    (budget,) = budgets(config)
    assert (budget.name, budget.limit, budget.currency, budget.tenant, budget.mode) == (
        "tenant=default",
        D(500),
        "USD",
        "default",
        "hard",
    )
    (rate,) = currency_rates(config)
    assert rate == ("EUR", "USD", D("1.08"), date(2026, 11, 1))
