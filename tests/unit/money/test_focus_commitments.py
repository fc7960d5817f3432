"""Commitments as FOCUS rows: what the clause says, what its `focus` adds, and what is missing by its name."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.money.test_focus import bill, toolkit, write
from tests.unit.money.usage import call, tariff

from stateline.core.calls import Usage
from stateline.core.errors import BadRequest
from stateline.money.focus import Applied
from stateline.money.focus_columns import CONTRACT_COMMITMENT, COST_AND_USAGE, OWN
from stateline.money.focus_commitments import Promised, commitment_rows

AT = date(2026, 11, 2)
FOCUS: dict[str, Any] = {
    "ContractCommitmentBenefitCategory": "Discount",
    "ContractCommitmentCreated": date(2025, 11, 3),
    "ContractCommitmentLastUpdated": "2025-11-03T10:00:00Z",
    "ContractCommitmentModel": "Discontinuous",
    "ContractCommitmentOfferCategory": "Negotiated",
    "ContractCommitmentPaymentInterval": "Annual",
    "ContractCommitmentPaymentModel": "No Upfront",
    "ContractCommitmentType": "Minimum spend",
}


def promised(focus: dict[str, Any] | None = None, **changes: Any) -> Promised:
    return Promised(
        contract="openai-aws", clause="aws-38b", text="$38bn over seven years.", payee="aws",
        amount=Decimal(38_000_000_000), unit="USD", currency=True, since=date(2025, 11, 3), until=date(2032, 11, 3),
        interval="annual", scheduled=False, applicability={}, focus={**FOCUS, **(focus or {})},
    )._replace(**changes)  # fmt: skip


def row(one: Promised, at: date = AT) -> dict[str, str]:
    (found,) = commitment_rows([one], at)
    return found


def refused(one: Promised) -> tuple[str, str]:
    with pytest.raises(BadRequest) as caught:
        list(commitment_rows([one], AT))
    return caught.value.code, caught.value.message


def test_a_commitment_is_a_row_with_what_its_clause_says() -> None:
    found = row(promised())
    assert list(found) == list(CONTRACT_COMMITMENT)
    expected = {
        "ContractId": "openai-aws", "ContractCommitmentId": "openai-aws/aws-38b", "BillingCurrency": "USD",
        "ContractCommitmentCategory": "Spend", "ContractCommitmentCost": "38000000000",
        "PricingCurrencyContractCommitmentCost": "38000000000", "ContractCommitmentDurationType": "7 Years",
        "ContractCommitmentFulfillmentInterval": "Annual", "ContractCommitmentLifecycleStatus": "Active",
        "ContractCommitmentPeriodStart": "2025-11-03T00:00:00Z", "ContractPeriodEnd": "2032-11-03T00:00:00Z",
        "ContractCommitmentCreated": "2025-11-03T00:00:00Z", "ContractCommitmentLastUpdated": "2025-11-03T10:00:00Z",
        "InvoiceIssuerName": "aws", "ServiceProviderName": "aws", "ContractCommitmentQuantity": "",
        "ContractCommitmentPaymentUpfrontPercentage": "0",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert json.loads(found["ContractCommitmentApplicability"]) == {"IsGlobalScope": True}


def test_capacity_is_a_quantity_and_needs_a_currency_of_its_price() -> None:
    capacity = promised(amount=Decimal("4.5"), unit="GW", currency=False)
    assert refused(capacity) == (
        "focus_column_missing",
        "commitment openai-aws/aws-38b has no PricingCurrency; its clause names them under commitment.focus",
    )
    found = row(promised({"PricingCurrency": "USD"}, amount=Decimal("4.5"), unit="GW", currency=False))
    assert (found["ContractCommitmentCategory"], found["ContractCommitmentQuantity"], found["ContractCommitmentUnit"]) \
        == ("Usage", "4.5", "GW")  # fmt: skip
    assert (found["ContractCommitmentCost"], found["BillingCurrency"]) == ("", "")
    assert row(promised({"PricingCurrency": "USD"}, amount=None, currency=False))["ContractCommitmentUnit"] == ""
    assert row(promised(amount=None))["ContractCommitmentCost"] == ""


def test_all_that_is_missing_is_named() -> None:
    code, message = refused(promised(focus={"ContractCommitmentModel": None, "ContractCommitmentType": ""}, until=None))
    assert code == "focus_column_missing"
    for name in ("Model", "Type", "DurationType", "PeriodEnd"):
        assert f"ContractCommitment{name}" in message
    assert "ContractPeriodEnd" in message
    assert "ContractPeriodStart" in refused(promised(since=None))[1]
    assert "DurationType" in refused(promised(until=date(2025, 11, 3)))[1]


@pytest.mark.parametrize(
    ("since", "until", "length"),
    [
        (date(2025, 1, 1), date(2026, 1, 1), "1 Year"),
        (date(2025, 1, 1), date(2025, 2, 1), "1 Month"),
        (date(2025, 1, 15), date(2026, 7, 15), "18 Months"),
        (date(2025, 1, 1), date(2025, 1, 2), "1 Day"),
        (date(2025, 1, 1), date(2025, 3, 31), "89 Days"),
    ],
)
def test_its_length_is_in_whole_years_months_or_days(since: date, until: date, length: str) -> None:
    assert row(promised(since=since, until=until))["ContractCommitmentDurationType"] == length


@pytest.mark.parametrize(
    ("at", "status"),
    [(date(2025, 11, 2), "Pending"), (date(2025, 11, 3), "Active"), (date(2032, 11, 2), "Active"),
     (date(2032, 11, 3), "Expired")],
)  # fmt: skip
def test_its_status_is_that_of_the_day(at: date, status: str) -> None:
    assert row(promised(), at)["ContractCommitmentLifecycleStatus"] == status


def test_what_focus_says_goes_before_what_the_clause_says() -> None:
    scope = {"InclusionOperator": "And", "Inclusions": [{"Dimension": "RegionId", "Operator": "In", "Values": ["x"]}]}
    found = row(
        promised(
            {
                "ContractCommitmentApplicability": scope, "ContractCommitmentLifecycleStatus": "Exhausted",
                "InvoiceIssuerName": "Amazon Web Services", "ContractCommitmentCost": 1.50,
                "ContractPeriodStart": datetime(2024, 1, 1, 12, tzinfo=UTC), "ContractPeriodEnd": "2033-01-01",
                "ContractCommitmentDiscountPercentage": "0.1", "ContractCommitmentPaymentModel": "Partial Upfront",
                "ContractCommitmentPaymentUpfrontPercentage": "0.25",
            },
            scheduled=True,
        )
    )  # fmt: skip
    assert json.loads(found["ContractCommitmentApplicability"]) == scope
    expected = {
        "ContractCommitmentLifecycleStatus": "Exhausted", "InvoiceIssuerName": "Amazon Web Services",
        "ContractCommitmentCost": "1.5", "ContractPeriodStart": "2024-01-01T12:00:00Z",
        "ContractPeriodEnd": "2033-01-01T00:00:00Z", "ContractCommitmentFulfillmentInterval": "Custom",
        "ContractCommitmentPaymentUpfrontPercentage": "0.25",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    scope_of_clause = row(promised(applicability=scope))["ContractCommitmentApplicability"]
    assert json.loads(scope_of_clause) == scope


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ContractCommitmentMode", "x", "do you mean ContractCommitmentModel?"),
        ("Zzz", "x", "no such column"),
        ("ContractCommitmentModel", "Sometimes", "Continuous, Discontinuous"),
        ("ContractCommitmentType", 7, "is no text"),
        ("ContractCommitmentApplicability", "all", "inclusions and exclusions"),
        ("ContractCommitmentCost", "much", "is no number"),
        ("ContractCommitmentDiscountPercentage", 10, "number from 0 to 1"),
        ("ContractCommitmentCreated", "some day", "is no date"),
        ("ContractCommitmentCreated", "2025-13-01", "is no date"),
        ("ContractCommitmentCreated", "2025-01-01T00:00:00+02:00", "not in UTC"),
        ("ContractCommitmentCreated", "2026-01-01", "is before ContractCommitmentCreated"),
        ("ContractPeriodEnd", "2020-01-01", "is before ContractPeriodStart"),
        ("ContractCommitmentPaymentUpfrontPercentage", "0.5", "does not go with No Upfront"),
    ],
)
def test_a_wrong_column_or_value_is_named_with_its_commitment(name: str, value: Any, words: str) -> None:
    code, message = refused(promised({name: value}))
    assert code == "focus_column_invalid"
    assert "openai-aws/aws-38b" in message
    assert words in message


def test_a_part_paid_upfront_is_neither_nothing_nor_all() -> None:
    partly = {"ContractCommitmentPaymentModel": "Partial Upfront"}
    assert refused(promised(partly))[0] == "focus_column_missing"
    for share in ("0", "1"):
        assert refused(promised({**partly, "ContractCommitmentPaymentUpfrontPercentage": share}))[0] == (
            "focus_column_invalid"
        )


def test_commitments_and_the_use_that_draws_them_down_pass_a_validator_of_focus_1_4(tmp_path: Path) -> None:
    promises = [
        promised(),
        promised({"PricingCurrency": "USD"}, clause="ptu", amount=Decimal(4), unit="GW", currency=False),
    ]
    commitments = write(tmp_path / "commitments.csv", commitment_rows(promises, AT), CONTRACT_COMMITMENT)
    by = tariff()
    cost = Decimal("0.01")
    applied = [
        Applied("openai-aws", "openai-aws/aws-38b", cost),
        Applied("openai-aws", "openai-aws/ptu", None, Decimal(1000), "Tokens", covered=cost, effective=Decimal(0)),
    ]
    rows = bill(call(by, Usage(output_tokens=1000)), tariffs={by.id: by}).rows(lambda row: applied)
    usage = write(tmp_path / "usage.csv", rows, (*COST_AND_USAGE, *OWN))
    for arguments in (
        ("validate", str(commitments), "--dataset", "contract-commitment"),
        ("validate", str(usage), "--supports", "SupportsUnitPricing"),
        ("validate-bundle", "--cost-and-usage", str(usage), "--contract-commitment", str(commitments)),
    ):
        code, out = toolkit(*arguments)
        assert code == 0, out
    # It would say so: a commitment that the other dataset does not have.
    alone = write(tmp_path / "alone.csv", commitment_rows(promises[:1], AT), CONTRACT_COMMITMENT)
    code, out = toolkit("validate-bundle", "--cost-and-usage", str(usage), "--contract-commitment", str(alone))
    assert code == 1
    assert "openai-aws/ptu" in out
