"""The meter against a cloud's export: every planted difference is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.money.clouds import Row, bill_of, billed, compared, lines_of, more, scaled, told, unheard
from tests.unit.money.usage import DAY, at, call, tariff, usages

from stateline.core.billing import Metered, Tariff
from stateline.core.calls import Usage

NEAR, MINI = tariff(), tariff("gpt-5-mini")
FAR = tariff("claude-opus-4-8", account="", currency="EUR", cloud="aws", per_call=Decimal("0.01"))
TARIFFS = {each.id: each for each in (NEAR, MINI, FAR)}
USED = Usage(input_tokens=1000, output_tokens=300, cached_tokens=100, reasoning_tokens=100)
DAYS = 3
LATER = DAY + timedelta(days=DAYS)
# On a day of its own, so that the file always names each account and model.
GUARDS = [call(each, USED, at_ms=at(LATER)) for each in TARIFFS.values()]


def used(by: Tariff, usage: Usage, day: int, key: str) -> Metered:
    return call(by, usage, at_ms=at(DAY + timedelta(days=day)), principal=key)


def lost(by: Tariff, amount: int, day: int) -> Metered:
    return call(by, amount=amount, status="worker_lost", at_ms=at(DAY + timedelta(days=day)))


_by, _day = st.sampled_from([NEAR, MINI, FAR]), st.integers(0, DAYS - 1)
calls = st.builds(used, _by, usages, _day, st.sampled_from(["key_1", "key_2"]))
losses = st.builds(lost, _by, st.integers(1, 5), _day)


@settings(deadline=None)
@given(st.lists(calls, max_size=12))
def test_what_the_cloud_bills_as_it_was_metered_agrees(made: list[Metered]) -> None:
    bill = bill_of([*made, *GUARDS], TARIFFS)
    result = compared(bill, TARIFFS, billed(bill))
    assert result.differences == []
    assert result.absent == []
    assert {currency: costs[0] for currency, costs in result.costs.items()} == bill.totals()
    assert all(here == there for here, there in result.costs.values())


@settings(deadline=None)
@given(st.lists(calls, max_size=12), st.integers(2, 8))
def test_a_file_that_rounds_its_rows_agrees(made: list[Metered], decimals: int) -> None:
    bill = bill_of([*made, *GUARDS], TARIFFS)
    rows = billed(bill)
    for row in rows:
        row["ContractedCost"] = str(round(Decimal(row["ContractedCost"]), decimals))
    result = compared(bill, TARIFFS, rows)
    assert result.agrees
    assert {one.what for one in result.differences} <= {"rounding"}


@settings(deadline=None, max_examples=100)
@given(st.lists(calls, min_size=1, max_size=12), st.lists(losses, max_size=2), st.data())
def test_each_planted_difference_is_found_and_no_other(
    made: list[Metered], losses: list[Metered], data: st.DataObject
) -> None:
    unpriced = [call(None, USED, model="unpriced-model", at_ms=at(DAY))] * data.draw(st.integers(0, 2))
    bill = bill_of([*made, *losses, *unpriced, *GUARDS], TARIFFS)
    rows = billed(bill)
    expected: list[tuple[str, str, str, str, str]] = []
    reserved = _reserved(losses)
    for cell, lines in lines_of(rows).items():
        if cell[0] == LATER.isoformat():
            continue
        held = reserved.pop(cell, None)
        if held is not None:
            expected += _estimated(cell, lines, held, data)
        else:
            expected += _planted(cell, lines, rows, data)
    # Nothing but reservations was metered there.
    expected += [("estimated_here", *cell, "") for cell in reserved]
    if data.draw(st.booleans()):
        rows.append(unheard("some-other-model", data.draw(_day), "acc-1"))
        expected.append(("missing_here", rows[-1]["ChargePeriodStart"][:10], "acc-1", "some-other-model", ""))
    if data.draw(st.booleans()):
        rows.append(unheard("unpriced-model", 0, "acc-1"))
        expected.append(
            ("unpriced_here" if unpriced else "missing_here", DAY.isoformat(), "acc-1", "unpriced-model", "")
        )
    assert told(compared(bill, TARIFFS, rows)) == sorted(expected)


def _reserved(losses: list[Metered]) -> dict[tuple[str, str, str], Decimal]:
    found: dict[tuple[str, str, str], Decimal] = {}
    for each in losses:
        assert each.charge is not None
        by = TARIFFS[each.charge.tariff]
        day = (DAY + timedelta(milliseconds=each.at_ms - at(DAY))).isoformat()
        cell = (day, by.billing_account, by.model)
        found[cell] = found.get(cell, Decimal(0)) + each.charge.amount
    return found


def _planted(
    cell: tuple[str, str, str], lines: dict[str, list[Row]], rows: list[Row], data: st.DataObject
) -> list[tuple[str, str, str, str, str]]:
    """At most one difference a line, or one of the whole cell."""
    whole = data.draw(st.sampled_from(["", "", "", "currency", "gone"]))
    if whole == "currency":
        for each in (row for line in lines.values() for row in line):
            each["BillingCurrency"] = "CHF"
        return [("other_currency", *cell, "")]
    plants = {kind: data.draw(st.sampled_from(["", "price", "quantity", "both", "gone"])) for kind in lines}
    if whole == "gone" or set(plants.values()) == {"gone"}:
        for each in [row for line in lines.values() for row in line]:
            rows.remove(each)
        return [("missing_there", *cell, "")]
    found: list[tuple[str, str, str, str, str]] = []
    for kind, line in lines.items():
        match plants[kind]:
            case "price":
                for each in line:
                    scaled(each, 3)
                found.append(("price_differs", *cell, kind))
            case "quantity":
                more(data.draw(st.sampled_from(line)), data.draw(st.integers(1, 1000)))
                found.append(("quantity_differs", *cell, kind))
            case "both":
                more(line[0], data.draw(st.integers(1, 1000)))
                for each in line:
                    scaled(each, 3)
                found += [("quantity_differs", *cell, kind), ("price_differs", *cell, kind)]
            case "gone":
                for each in line:
                    rows.remove(each)
                found.append(("missing_there", *cell, kind))
            case _:
                pass
    return found


def _estimated(
    cell: tuple[str, str, str], lines: dict[str, list[Row]], held: Decimal, data: st.DataObject
) -> list[tuple[str, str, str, str, str]]:
    """The cloud bills something of the lost calls, or nothing, or more than they hold."""
    row = data.draw(st.sampled_from([row for line in lines.values() for row in line]))
    kind = next(kind for kind, line in lines.items() if row in line)
    price = Decimal(row["ContractedUnitPrice"]) / (1 if kind == "call" else 1_000_000)
    found = [("estimated_here", *cell, "")]
    match data.draw(st.sampled_from(["nothing", "some", "all", "too much"])):
        case "some":
            more(row, max(1, int(held / price / 3)))
        case "all":
            if held % price == 0:
                more(row, int(held / price))
                return []
        case "too much":
            more(row, int(held / price) + 1000)
            found.append(("quantity_differs", *cell, kind))
        case _:
            pass
    return found


# -- by example ------------------------------------------------------------------------------------------


def one(
    change: Callable[[list[Row]], list[Row] | None], made: list[Metered] | None = None, **options: Any
) -> list[tuple[str, str, str]]:
    """What differs in a file of one call's rows, which ``change`` changes."""
    bill = bill_of(made or [call(NEAR, USED)], TARIFFS)
    given = billed(bill)
    changed = change(given)
    result = compared(bill, TARIFFS, given if changed is None else changed, **options)
    return [(each.what, each.kind, each.words) for each in result.differences]


def test_a_difference_says_what_each_side_has() -> None:
    assert one(lambda rows: scaled(rows[0], 2)) == [("price_differs", "cached_input", "0.125 here, 0.25 there")]
    assert one(lambda rows: more(rows[1], 7)) == [("quantity_differs", "input", "7 more there")]
    assert one(lambda rows: rows[:1]) == [
        ("missing_there", kind, "the cloud bills nothing of this kind") for kind in ("input", "output")
    ]


def test_more_tokens_at_another_price_are_two_differences() -> None:
    def change(rows: list[Row]) -> None:
        more(rows[1], 7)
        scaled(rows[1], 2)

    assert [what for what, *_ in one(change)] == ["quantity_differs", "price_differs"]


def test_fewer_tokens_are_told_as_such() -> None:
    assert one(lambda rows: more(rows[1], -7)) == [("quantity_differs", "input", "7 fewer there")]


def test_a_kind_that_was_not_metered_is_missing_here() -> None:
    def change(rows: list[Row]) -> list[Row]:
        odd = dict(rows[0], SkuPriceDetails='{"x_ModelId": "gpt-5", "x_TokenType": "CacheWrite"}')
        return [*rows, odd]

    assert one(change) == [("missing_here", "cache_write", "the meter has nothing of this kind")]


def test_rows_that_name_no_kind_are_compared_as_a_whole() -> None:
    def nameless(rows: list[Row]) -> list[Row]:
        for row in rows:
            row.update(SkuMeter="gpt-5", SkuId="", ChargeDescription="", SkuPriceDetails="")
        return rows

    assert one(nameless) == []
    assert one(lambda rows: [*nameless(rows[:-1])])[0][:2] == ("quantity_differs", "")
    assert one(lambda rows: scaled(nameless(rows)[0], 9))[0][:2] == ("price_differs", "")


def test_a_unit_that_is_not_known_leaves_the_cost_to_compare() -> None:
    def hours(rows: list[Row]) -> list[Row]:
        for row in rows:
            row.update(ConsumedUnit="Hours", PricingUnit="Hours")
        return rows

    assert one(hours) == []
    assert one(lambda rows: scaled(hours(rows)[0], 9)) == [
        ("cost_differs", "", "the unit of what was used there is not known")
    ]

    def rounded(rows: list[Row]) -> None:
        for row in hours(rows):
            row["ContractedCost"] = str(round(Decimal(row["ContractedCost"]), 4))

    assert [what for what, *_ in one(rounded)] == ["rounding"]


def test_a_tolerance_is_added_to_what_the_file_rounds() -> None:
    def cent(rows: list[Row]) -> None:
        rows[0]["ContractedCost"] = plain_sum(rows[0]["ContractedCost"], "0.01")

    assert [what for what, *_ in one(cent)] == ["price_differs"]
    assert [what for what, *_ in one(cent, tolerance=Decimal("0.01"))] == ["rounding"]


def plain_sum(one: str, other: str) -> str:
    return str(Decimal(one) + Decimal(other))


def test_tokens_are_compared_across_currencies() -> None:
    def change(rows: list[Row]) -> None:
        for row in rows:
            row["BillingCurrency"] = "CHF"
        more(rows[0], 5)

    assert one(change) == [
        ("other_currency", "", "USD here, CHF there"), ("quantity_differs", "", "5 more there"),
    ]  # fmt: skip

    def fewer(rows: list[Row]) -> None:
        change(rows)
        more(rows[0], -12)

    assert one(fewer)[1] == ("quantity_differs", "", "7 fewer there")
    # What was reserved was not metered, so tokens tell nothing.
    assert [what for what, *_ in one(change, [call(NEAR, USED), call(NEAR, amount=1)])] == ["other_currency"]


def test_what_lost_calls_hold_explains_a_kind_that_was_not_metered() -> None:
    def change(rows: list[Row]) -> list[Row]:
        return [row for row in rows if row["SkuMeter"] == "Input Tokens"]

    some = Usage(input_tokens=1000)
    assert one(change, [call(NEAR, some), call(NEAR, amount=1, status="timeout")]) == [
        ("estimated_here", "", "1 calls whose usage is not known (timeout) cost 1 at most; 0 of it is billed there")
    ]
    # The same day has nothing but lost calls here, and a bill there.
    made = [call(NEAR, amount=1), call(NEAR, some, at_ms=at(LATER))]
    bill = bill_of(made, TARIFFS)
    rows = [*billed(bill), unheard("gpt-5", 0, "acc-1", "0.4")]
    assert told(compared(bill, TARIFFS, rows)) == [("estimated_here", DAY.isoformat(), "acc-1", "gpt-5", "")]


def test_a_price_of_nothing_and_a_call_that_used_nothing_are_shown() -> None:
    def change(rows: list[Row]) -> list[Row]:
        return [dict(rows[0], ConsumedQuantity="0")]

    assert [what for what, *_ in one(change, [call(NEAR, Usage(input_tokens=10))])] == [
        "quantity_differs", "price_differs",
    ]  # fmt: skip


def test_accounts_and_models_that_the_file_never_names_are_not_compared() -> None:
    bill = bill_of([call(NEAR, USED), call(FAR, USED)], TARIFFS)
    rows = [row for row in billed(bill) if row["BillingAccountId"] == "acc-1"]
    result = compared(bill, TARIFFS, rows)
    assert result.agrees
    assert result.absent == [("", "claude-opus-4-8")]
    assert result.compared == 1
    far = [row for row in billed(bill) if row["BillingAccountId"] != "acc-1"]
    assert compared(bill, TARIFFS, far).absent == [("acc-1", "gpt-5")]


def test_a_day_without_any_row_is_missing_there() -> None:
    bill = bill_of([call(NEAR, USED), call(NEAR, USED, at_ms=at(LATER))], TARIFFS)
    rows = [row for row in billed(bill) if row["ChargePeriodStart"][:10] == LATER.isoformat()]
    assert told(compared(bill, TARIFFS, rows)) == [("missing_there", date.isoformat(DAY), "acc-1", "gpt-5", "")]
