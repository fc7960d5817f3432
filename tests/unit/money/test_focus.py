"""Usage as FOCUS rows: every cent of every call in one row or another, and rows that the specification allows."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.money.usage import at, call, rates, tariff, usages

from stateline.core.billing import Metered, Tariff
from stateline.core.calls import Usage
from stateline.core.errors import BadRequest
from stateline.money.focus import Applied, Bill, Unpriced, plain
from stateline.money.focus_columns import CONTRACT_COMMITMENT, COST_AND_USAGE, OWN

NEAR, FAR = tariff(), tariff("claude-opus-4-8", account="", currency="EUR", cloud="aws", per_call=Decimal("0.01"))
TARIFFS = {each.id: each for each in (NEAR, FAR)}
USED = Usage(input_tokens=1_000_000, output_tokens=2000, cached_tokens=600_000, reasoning_tokens=500)


def bill(*calls: Metered, tariffs: Mapping[str, Tariff] = TARIFFS) -> Bill:
    found = Bill()
    for each in calls:
        found.add(each, tariffs)
    return found


def write(path: Path, rows: Iterable[Mapping[str, str]], columns: Iterable[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    return path


def toolkit(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "focus_data_toolkit", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def model_of(dataset: str) -> dict[str, Any]:
    import focus_data_toolkit  # pyright: ignore[reportMissingTypeStubs]

    path = Path(focus_data_toolkit.__file__).parent / "model" / "focus_1_4_model.json"
    return json.loads(path.read_text())["datasets"][dataset]["columns"]


@pytest.mark.parametrize(
    ("dataset", "columns", "count"),
    [("Cost and Usage", COST_AND_USAGE, 65), ("Contract Commitment", CONTRACT_COMMITMENT, 30)],
)
def test_the_columns_are_those_of_focus_1_4_in_its_order(dataset: str, columns: tuple[str, ...], count: int) -> None:
    assert list(columns) == sorted(model_of(dataset))
    assert len(columns) == count


def test_a_call_is_a_row_of_each_kind_of_its_tokens() -> None:
    rows = list(bill(call(NEAR, USED)).rows())
    assert [(row["SkuMeter"], row["ConsumedQuantity"], row["ListUnitPrice"], row["BilledCost"]) for row in rows] == [
        # More than 272,000 tokens of input: the higher band, for all of the call.
        ("Cached Input Tokens", "600000", "0.25", "0.15"),
        ("Input Tokens", "400000", "2.5", "1"),
        ("Output Tokens", "1500", "20", "0.03"),
        ("Reasoning Tokens", "500", "20", "0.01"),
    ]
    row = rows[1]
    assert set(row) == {*COST_AND_USAGE, *OWN}
    assert json.loads(row["SkuPriceDetails"]) == {
        "x_ModelDeveloper": "openai", "x_ModelId": "gpt-5", "x_TokenType": "input", "x_ServiceTier": "default",
        "x_InputTokensAbove": 272_000,
    }  # fmt: skip
    assert json.loads(row["Tags"]) == {
        "stateline/tenant": "acme", "stateline/key": "key_1", "stateline/workload": "stateful",
    }  # fmt: skip
    expected = {
        "x_stateline_estimate": "true", "InvoiceId": "", "InvoiceDetailId": "", "BillingAccountId": "acc-1",
        "PricingQuantity": "0.4", "PricingUnit": "1000000 Tokens", "ChargePeriodStart": "2026-11-02T00:00:00Z",
        "ChargePeriodEnd": "2026-11-03T00:00:00Z", "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z", "PricingCategory": "Standard", "ContractApplied": "",
        "x_stateline_calls": "1",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_calls_of_one_day_key_and_tariff_are_added_up_and_others_are_not() -> None:
    small = Usage(input_tokens=10)
    found = bill(
        call(NEAR, small),
        call(NEAR, small),
        call(NEAR, small, at_ms=at(date(2026, 11, 3), 0)),
        call(NEAR, small, principal="key_2"),
        call(NEAR, small, tenant="other"),
        call(NEAR, small, workload="stateless"),
        call(FAR, small),
    )
    counts = [(row["ConsumedQuantity"], row["x_stateline_calls"]) for row in found.rows()]
    # The other tariff has a fee of the call, too.
    assert sorted(counts) == [("1", "1"), *[("10", "1")] * 5, ("20", "2")]
    assert found.calls == 7
    assert len(found) == 7


def test_what_was_set_aside_for_a_lost_call_is_a_row_of_its_own_with_the_reason() -> None:
    found = bill(call(NEAR, amount="0.5", status="worker_lost"), call(NEAR, Usage(output_tokens=1000)))
    used, lost = found.rows()
    assert (lost["BilledCost"], lost["x_stateline_reason"], lost["SkuMeter"]) == (
        "0.5",
        "worker_lost",
        "Reserved Amount",
    )
    assert (lost["PricingQuantity"], lost["PricingUnit"], lost["ConsumedUnit"]) == ("0.5", "USD", "Requests")
    assert "worker_lost" in lost["ChargeDescription"]
    assert (used["BilledCost"], used["x_stateline_reason"]) == ("0.01", "")
    assert found.totals() == {"USD": Decimal("0.51")}


@pytest.mark.parametrize(("usage", "reason"), [(None, "no_usage"), (USED, "settled_otherwise")])
def test_a_charge_that_is_not_by_what_was_used_says_so(usage: Usage | None, reason: str) -> None:
    (row,) = bill(call(NEAR, usage, amount="7")).rows()
    assert (row["BilledCost"], row["x_stateline_reason"]) == ("7", reason)


def test_what_has_no_price_is_told_apart_and_what_used_nothing_is_not_told() -> None:
    found = bill(
        call(None, USED), call(None, USED), call(None, status="timeout"), call(None, status="refused", unbilled=True),
        call(NEAR, amount="0", status="refused"),
    )  # fmt: skip
    assert list(found.rows()) == []
    assert found.unpriced == [Unpriced("gpt-5-se", "gpt-5", 3, 2 * USED.total_tokens)]


def test_more_rows_than_memory_should_hold_are_refused() -> None:
    found = Bill(most=2)
    found.add(call(NEAR, Usage(input_tokens=1, output_tokens=1)), TARIFFS)
    found.add(call(NEAR, Usage(input_tokens=1, output_tokens=1)), TARIFFS)
    with pytest.raises(BadRequest, match="more than 2 rows") as caught:
        found.add(call(NEAR, Usage(cached_tokens=1)), TARIFFS)
    assert caught.value.code == "usage_too_large"


def test_what_a_commitment_has_paid_is_not_billed_again() -> None:
    cost = Decimal("0.01")
    (row,) = bill(call(NEAR, Usage(output_tokens=1000))).rows(
        lambda row: [Applied("c", "c/ptu", None, Decimal(1000), "Tokens", covered=cost, effective=Decimal("0.004"))]
    )
    assert (row["BilledCost"], row["EffectiveCost"], row["ContractedCost"], row["PricingCategory"]) == (
        "0", "0.004", "0.01", "Committed",
    )  # fmt: skip
    assert json.loads(row["ContractApplied"]) == {
        "Elements": [
            {
                "ContractId": "c", "ContractCommitmentId": "c/ptu", "ContractCommitmentAppliedQuantity": 1000,
                "ContractCommitmentAppliedUnit": "Tokens",
            }
        ]
    }  # fmt: skip


def test_use_that_draws_a_minimum_down_is_billed() -> None:
    (row,) = bill(call(NEAR, Usage(output_tokens=1000))).rows(lambda row: [Applied("c", "c/m", Decimal("0.01"))])
    assert (row["BilledCost"], row["EffectiveCost"], row["PricingCategory"]) == ("0.01", "0.01", "Standard")
    assert json.loads(row["ContractApplied"])["Elements"][0]["ContractCommitmentAppliedCost"] == 0.01


def test_a_reservation_may_be_covered_by_a_commitment_too() -> None:
    (row,) = bill(call(NEAR, amount="1")).rows(
        lambda row: [Applied("c", "c/p", Decimal(1), covered=Decimal(1), effective=Decimal(1))]
    )
    assert (row["BilledCost"], row["EffectiveCost"], row["PricingCategory"]) == ("0", "1", "Committed")


def test_no_commitment_leaves_a_row_as_it_is() -> None:
    found = bill(call(NEAR, USED))
    assert list(found.rows()) == list(found.rows(lambda row: ()))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**9), max_value=10**9))
def test_a_number_is_written_exactly_and_without_an_exponent(amount: Decimal) -> None:
    text = plain(amount)
    assert Decimal(text) == amount
    assert "E" not in text
    assert text == text.rstrip("0").rstrip(".") or "." not in text


def used(by: Tariff, usage: Usage, hour: int, key: str) -> Metered:
    return call(by, usage, at_ms=at(hour=hour), principal=key)


def lost(by: Tariff, amount: int, status: str) -> Metered:
    return call(by, amount=amount, status=status)


_by = st.sampled_from([NEAR, FAR])
calls = st.builds(used, _by, usages, st.integers(0, 23), st.sampled_from(["key_1", "key_2", ""])) | st.builds(
    lost, _by, st.integers(0, 10), st.sampled_from(["ok", "timeout", "worker_lost"])
)


@given(st.lists(calls, max_size=12))
def test_rows_add_up_to_the_charges_and_each_cost_is_its_price_times_its_quantity(made: list[Metered]) -> None:
    found = bill(*made)
    charged: dict[str, Decimal] = {}
    for each in made:
        assert each.charge is not None
        charged[each.charge.currency] = charged.get(each.charge.currency, Decimal(0)) + each.charge.amount
    shown: dict[str, Decimal] = {}
    for row in found.rows():
        cost = Decimal(row["BilledCost"])
        shown[row["BillingCurrency"]] = shown.get(row["BillingCurrency"], Decimal(0)) + cost
        assert Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]) == cost
    assert {name: sum_ for name, sum_ in charged.items() if sum_} == {
        name: sum_ for name, sum_ in shown.items() if sum_
    }


@settings(max_examples=3, deadline=None)
@given(st.lists(calls, min_size=20, max_size=60))
def test_rows_pass_a_validator_of_focus_1_4(tmp_path_factory: pytest.TempPathFactory, made: list[Metered]) -> None:
    rows = list(bill(*made, call(NEAR, USED)).rows())
    path = write(tmp_path_factory.mktemp("focus") / "usage.csv", rows, (*COST_AND_USAGE, *OWN))
    conditions = ("--supports", "SupportsUnitPricing", "--supports", "SupportsMultiplePricingCategories")
    code, out = toolkit("validate", str(path), *conditions)
    assert code == 0, out
    code, out = toolkit("validate-bundle", "--cost-and-usage", str(path))
    assert code == 0, out


def test_the_bands_of_a_price_are_rows_of_their_own() -> None:
    found = bill(call(NEAR, Usage(input_tokens=300_000)), call(NEAR, Usage(input_tokens=300)))
    assert [(row["ConsumedQuantity"], row["SkuPriceId"].rpartition("/")[2]) for row in found.rows()] == [
        ("300", "0"), ("300000", "272000"),
    ]  # fmt: skip
    assert rates(272_000, "2").input == Decimal("2.50")
