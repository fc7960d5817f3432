"""The columns of FOCUS 1.4's datasets, in the order of the specification (https://focus.finops.org)."""

from __future__ import annotations

VERSION = "1.4"

COST_AND_USAGE: tuple[str, ...] = tuple(
    """AllocatedMethodDetails AllocatedMethodId AllocatedResourceId AllocatedResourceName AllocatedTags
    AvailabilityZone BilledCost BillingAccountId BillingAccountName BillingAccountType BillingCurrency
    BillingPeriodEnd BillingPeriodStart CapacityReservationId CapacityReservationStatus ChargeCategory ChargeClass
    ChargeDescription ChargeFrequency ChargePeriodEnd ChargePeriodStart CommitmentDiscountCategory
    CommitmentDiscountId CommitmentDiscountName CommitmentDiscountQuantity CommitmentDiscountStatus
    CommitmentDiscountType CommitmentDiscountUnit CommitmentProgramEligibilityDetails ConsumedQuantity ConsumedUnit
    ContractApplied ContractedCost ContractedUnitPrice EffectiveCost HostProviderName InvoiceDetailId InvoiceId
    InvoiceIssuerName ListCost ListUnitPrice PricingCategory PricingCurrency PricingCurrencyContractedUnitPrice
    PricingCurrencyEffectiveCost PricingCurrencyListUnitPrice PricingQuantity PricingUnit RegionId RegionName
    ResourceId ResourceName ResourceType ServiceCategory ServiceName ServiceProviderName ServiceSubcategory SkuId
    SkuMeter SkuPriceDetails SkuPriceId SubAccountId SubAccountName SubAccountType Tags""".split()  # noqa: SIM905 - as a list it is a page long
)
"""Of the dataset Cost and Usage: all 65."""

OWN: tuple[str, ...] = ("x_stateline_estimate", "x_stateline_reason", "x_stateline_model", "x_stateline_calls")
"""Behind those of Cost and Usage.

``x_stateline_estimate`` is true in each row: no invoice says it. ``x_stateline_reason`` says why the row is what was
set aside for calls and not what they used. ``x_stateline_calls`` are those that a row has a part of: a call is in a
row of each kind of its tokens.
"""

CONTRACT_COMMITMENT: tuple[str, ...] = tuple(
    """BillingCurrency ContractCommitmentApplicability ContractCommitmentBenefitCategory ContractCommitmentCategory
    ContractCommitmentCost ContractCommitmentCreated ContractCommitmentDescription
    ContractCommitmentDiscountPercentage ContractCommitmentDurationType ContractCommitmentFulfillmentInterval
    ContractCommitmentId ContractCommitmentLastUpdated ContractCommitmentLifecycleStatus ContractCommitmentModel
    ContractCommitmentOfferCategory ContractCommitmentPaymentInterval ContractCommitmentPaymentModel
    ContractCommitmentPaymentUpfrontPercentage ContractCommitmentPeriodEnd ContractCommitmentPeriodStart
    ContractCommitmentQuantity ContractCommitmentType ContractCommitmentUnit ContractId ContractPeriodEnd
    ContractPeriodStart InvoiceIssuerName PricingCurrency PricingCurrencyContractCommitmentCost
    ServiceProviderName""".split()  # noqa: SIM905 - as a list it is a page long
)
"""Of the dataset Contract Commitment: all 30."""

CHOICES: dict[str, tuple[str, ...]] = {
    "ContractCommitmentBenefitCategory": ("Discount", "Entitlement", "Availability", "Other"),
    "ContractCommitmentCategory": ("Spend", "Usage"),
    "ContractCommitmentFulfillmentInterval": (
        "Hourly", "Daily", "Weekly", "Monthly", "Quarterly", "Semi-Annual", "Annual", "Full Period", "Transactional",
        "Custom",
    ),
    "ContractCommitmentLifecycleStatus": (
        "Proposed", "Pending", "Active", "Exhausted", "Expired", "Canceled", "Superseded",
    ),
    "ContractCommitmentModel": ("Continuous", "Discontinuous"),
    "ContractCommitmentOfferCategory": ("Negotiated", "Public"),
    "ContractCommitmentPaymentInterval": ("One-Time", "Monthly", "Quarterly", "Semi-Annual", "Annual", "Custom"),
    "ContractCommitmentPaymentModel": ("No Upfront", "Partial Upfront", "All Upfront"),
}  # fmt: skip
"""The values that a column of Contract Commitment may have, where the specification lists them."""
NUMBERS = ("ContractCommitmentCost", "ContractCommitmentQuantity", "PricingCurrencyContractCommitmentCost")
FRACTIONS = ("ContractCommitmentDiscountPercentage", "ContractCommitmentPaymentUpfrontPercentage")
TIMES: tuple[str, ...] = tuple(
    name for name in CONTRACT_COMMITMENT if name.endswith(("Start", "End", "Created", "LastUpdated"))
)
NULLABLE = frozenset(
    {
        "BillingCurrency", "ContractCommitmentCost", "ContractCommitmentDescription",
        "ContractCommitmentDiscountPercentage", "ContractCommitmentQuantity", "ContractCommitmentUnit",
        "PricingCurrencyContractCommitmentCost",
    }
)  # fmt: skip
"""Columns of Contract Commitment that may be empty."""
