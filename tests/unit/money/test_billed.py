"""Clouds' rows as they come: whatever columns, units and names they have, and what is wrong with them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from tests.unit.money.clouds import unheard
from tests.unit.money.usage import DAY, tariff

from stateline.core.errors import BadRequest
from stateline.money.billed import Key, Line, Names, Statement

NEAR = tariff(upstream_model="gpt-5-prod")
OPUS = tariff("claude-opus-4-8", account="sub-9", upstream_model="us.anthropic.claude-opus-4-8")
NAMES = Names([NEAR, OPUS, tariff("small")])
USED: dict[str, str] = {**unheard("gpt-5", 0, "acc-1"), "ContractedCost": "1.5"}
TEXT_COLUMNS = ("ResourceId", "ResourceName", "SkuMeter", "SkuId", "ChargeDescription", "SubAccountId")


def statement(*rows: dict[str, str], names: Names = NAMES, **options: Any) -> Statement:
    columns = list(dict.fromkeys(name for row in (USED, *rows) for name in row))
    found = Statement(columns, names, **options)
    for row in rows:
        found.add({name: row.get(name, "") for name in columns})
    return found


def line(**changes: str) -> tuple[str, str, Decimal | None, Decimal]:
    """Model, kind, quantity and cost of one row."""
    ((key, found),) = statement({**USED, **changes}).lines.items()
    return key.model, key.kind, found.quantity, found.cost


def said(**changes: str) -> str:
    """The model of a row that has no details."""
    rows = statement({**USED, "SkuPriceDetails": "", **changes})
    return next((key.model for key in rows.lines), "")


def refused(row: dict[str, str], **options: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        statement(row, **options)
    return caught.value


def test_rows_are_added_up_by_day_account_model_currency_and_kind() -> None:
    found = statement(USED, USED, {**USED, "BillingCurrency": "EUR"})
    assert found.lines == {
        Key(DAY, "acc-1", "gpt-5", "USD", "output"): Line(Decimal(2000), Decimal(3), 2),
        Key(DAY, "acc-1", "gpt-5", "EUR", "output"): Line(Decimal(1000), Decimal("1.5"), 1),
    }
    assert found.accounts == {"acc-1"}
    assert found.days == (DAY, DAY)


@pytest.mark.parametrize(
    ("start", "end", "day"),
    [
        ("2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z", "2026-11-02"),
        ("2026-11-02T23:00:00.000Z", "2026-11-03T00:00:00.000Z", "2026-11-02"),
        ("2026-11-02T00:00Z", "2026-11-03T00:00Z", "2026-11-02"),
        ("2026-11-03T01:00:00+02:00", "", "2026-11-02"),
        ("2026-11-02 05:00:00", "2026-11-02 06:00:00", "2026-11-02"),
        ("2026-11-02", "2026-11-03", "2026-11-02"),
    ],
)
def test_a_charge_is_of_the_utc_day_on_which_it_begins(start: str, end: str, day: str) -> None:
    (key,) = statement({**USED, "ChargePeriodStart": start, "ChargePeriodEnd": end}).lines
    assert key.day.isoformat() == day


def test_what_is_not_use_of_a_model_on_one_day_is_left_out_and_counted() -> None:
    found = statement(
        {**USED, "ChargeCategory": "Tax"},
        {**USED, "ChargeCategory": ""},
        {**USED, "ChargePeriodEnd": "2026-11-09T00:00:00Z"},
        {**USED, "SkuPriceDetails": "", "ServiceCategory": "Compute"},
        {**USED, "BillingAccountId": "acc-nobody"},
        {**USED, "BillingAccountId": ""},
    )
    assert dict(found.lines) == {}
    assert {why: rows for (why, _), (rows, _) in found.others.items()} == {
        "Tax": 1, "no category": 1, "periods longer than a day": 1, "other services": 1,
        "accounts that the meter does not know": 2,
    }  # fmt: skip
    assert found.others["Tax", "USD"] == (1, Decimal("1.5"))


def test_only_the_days_that_are_asked_for_are_read() -> None:
    rows = [{**USED, "ChargePeriodStart": f"2026-11-0{day}", "ChargePeriodEnd": ""} for day in (1, 2, 3)]
    found = statement(*rows, span=(date(2026, 11, 2), date(2026, 11, 2)))
    assert [key.day for key in found.lines] == [DAY]


def test_the_account_may_be_the_one_under_the_billing_account() -> None:
    (key,) = statement({**USED, "BillingAccountId": "payer", "SubAccountId": "sub-9"}).lines
    assert key.account == "sub-9"
    # Where the meter has calls of no named account, whatever is not known may be theirs.
    (key,) = statement({**USED, "BillingAccountId": "payer"}, names=Names([tariff(account="")])).lines
    assert (key.account, key.model) == ("", "gpt-5")


def test_a_model_is_found_by_any_of_its_names() -> None:
    assert said(SkuMeter="gpt-5-prod Input") == "gpt-5"
    assert said(SkuMeter="GPT 5 output tokens global") == "gpt-5"
    assert said(ResourceId="/subscriptions/1/deployments/gpt-5-prod") == "gpt-5"
    assert said(BillingAccountId="sub-9", ChargeDescription="Claude Opus 4.8 input, US East") == "claude-opus-4-8"
    assert line(SkuPriceDetails='{"ModelId": "GPT-5-prod"}')[0] == "gpt-5"
    # Another model, whose name begins as a known one does.
    assert said(SkuMeter="gpt-5-mini Input") == ""
    assert said(SkuMeter="gpt-5-mini Input, gpt-5 Input") == "gpt-5"
    # A name of one word is no model's where the row is not of a model.
    assert said(SkuMeter="t3.small", ServiceCategory="Compute") == ""
    assert said(SkuMeter="a small one") == "small"
    assert said(SkuMeter="gpt-5-prod Input", ServiceCategory="Other") == "gpt-5"


def test_an_unknown_model_is_shown_by_what_the_row_calls_it() -> None:
    generative = {"ServiceSubcategory": "Generative AI"}
    assert said(**generative, SkuMeter="Nova Pro") == "Nova Pro"
    assert said(**generative, ResourceName="thing") == "thing"
    assert said(**generative, ServiceName="Bedrock") == "Bedrock"
    assert said(**generative) == "not named"
    for details in ('{"x_TokenType": "output"}', '{"ModelId": 5}', "not JSON", "[]"):
        assert said(SkuPriceDetails=details) == ""


def test_names_that_lead_to_one_another_are_one_model() -> None:
    names = Names([tariff("fast", upstream_model="gpt-5"), tariff("gpt-5"), tariff("slow"), tariff("gpt-5", "acc-2")])
    assert names.label("acc-1", "fast") == names.label("acc-1", "GPT 5") == "fast + gpt-5"
    assert names.label("acc-1", "slow") == "slow"
    assert names.label("acc-2", "gpt-5") == "gpt-5"
    assert names.label("acc-2", "fast") == "fast"
    # Two that were apart become one.
    joined = Names([tariff("a", upstream_model="x"), tariff("b", upstream_model="y"), tariff("a", upstream_model="y")])
    assert joined.label("acc-1", "x") == "a + b"
    assert names.in_text("acc-1", "nothing of it", sure=True) is None


@pytest.mark.parametrize(
    ("meter", "kind"),
    [
        ("Input Tokens", "input"),
        ("gpt-5 Inp glbl", "input"),
        ("Prompt tokens", "input"),
        ("gpt 5 cached Inp", "cached_input"),
        ("Prompt caching write", "cache_write"),
        ("CacheWriteInputTokens", "cache_write"),
        ("Outp regional", "output"),
        ("Completion", "output"),
        ("Reasoning tokens", "output"),
        ("Requests", "call"),
        ("Training hours", ""),
    ],
)
def test_the_kind_of_token_is_read_out_of_the_meters_words(meter: str, kind: str) -> None:
    assert line(SkuPriceDetails='{"ModelId": "gpt-5"}', SkuMeter=meter)[1] == kind


@pytest.mark.parametrize(
    ("consumed", "priced", "quantity"),
    [
        (("7", "Tokens"), ("", ""), "7"),
        (("0.5", "1000 Tokens"), ("", ""), "500"),
        (("0.25", "1M tokens"), ("", ""), "250000"),
        (("2", "Thousand Tokens"), ("", ""), "2000"),
        (("2", "1K"), ("", ""), "2000"),
        (("3", "Requests"), ("", ""), "3"),
        (("3", "Hours"), ("1.5", "1 Million Tokens"), "1500000"),
        (("", "Tokens"), ("9", "Tokens"), "9"),
        (("3", "Hours"), ("4", ""), None),
        (("", ""), ("", ""), None),
    ],
)
def test_quantities_are_in_tokens_whatever_the_unit(
    consumed: tuple[str, str], priced: tuple[str, str], quantity: str | None
) -> None:
    units = {"ConsumedQuantity": consumed[0], "ConsumedUnit": consumed[1]}
    found = line(**units, PricingQuantity=priced[0], PricingUnit=priced[1])[2]
    assert found == (None if quantity is None else Decimal(quantity))


def test_a_unit_without_a_word_says_nothing_of_a_row_whose_kind_is_not_known() -> None:
    assert line(SkuPriceDetails='{"ModelId": "gpt-5"}', ConsumedUnit="1K")[2] is None


def test_a_sum_with_an_unknown_part_is_not_known() -> None:
    ((_, found),) = statement(USED, {**USED, "ConsumedUnit": "Hours"}, USED).lines.items()
    assert found == Line(None, Decimal("4.5"), 3)


def test_quantities_may_be_off_by_what_their_file_rounds() -> None:
    thousands = {**USED, "ConsumedUnit": "1K Tokens"}
    found = statement({**thousands, "ConsumedQuantity": "0.31"}, {**thousands, "ConsumedQuantity": "1.2"})
    ((_, both),) = found.lines.items()
    # Hundredths of a thousand: five tokens a row.
    assert found.slack(both) == 10
    exact = statement({**thousands, "ConsumedQuantity": "0.312"})
    assert [exact.slack(one) for one in exact.lines.values()] == [0]


def test_which_cost_is_compared_depends_on_the_columns() -> None:
    assert statement().cost == "ContractedCost"
    assert Statement([name for name in USED if name != "ContractedCost"], NAMES).cost == "EffectiveCost"
    assert statement(cost="billed").cost == "BilledCost"


def test_a_file_without_the_columns_is_refused() -> None:
    for columns, words in (
        ([], "ChargePeriodStart, ChargeCategory, BillingAccountId, BillingCurrency, ContractedCost"),
        ([*USED, "SkuId", "SkuId"], "SkuId is there twice"),
    ):
        with pytest.raises(BadRequest, match=words) as caught:
            Statement(columns, NAMES)
        assert caught.value.code == "focus_columns_missing"
    with pytest.raises(BadRequest, match="ListCost"):
        Statement(list(USED), NAMES, cost="list")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ChargePeriodStart", "yesterday"),
        ("ChargePeriodEnd", "32.11.2026"),
        ("ContractedCost", "1,50"),
        ("ContractedCost", ""),
        ("ContractedCost", "NaN"),
        ("ContractedCost", "1E999999"),
        ("ConsumedQuantity", "many"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_its_column(column: str, value: str) -> None:
    error = refused({**USED, column: value})
    assert error.code == "focus_row_invalid"
    assert error.message.startswith(f'{column}: "{value}" is not ')


def test_more_lines_than_memory_should_hold_are_refused() -> None:
    columns = list(USED)
    found = Statement(columns, NAMES, most=1)
    found.add(USED)
    found.add(USED)
    with pytest.raises(BadRequest, match="more than 1 lines") as caught:
        found.add({**USED, "BillingCurrency": "EUR"})
    assert caught.value.code == "focus_file_too_large"


def test_what_texts_say_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateline.money.billed.RECONCILE_NAMES_KEPT_MAX", 2)
    rows = [{**USED, "SkuPriceDetails": "", "SkuMeter": f"gpt-5 output {at}"} for at in (1, 1, 2, 3, 1)]
    assert [line.rows for line in statement(*rows).lines.values()] == [5]
