"""What a set of contracts comes to on a day: sums, bounds, shares, circles, stakes."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.contracts.build import contract, loaded

from stateline.contracts import parse_at
from stateline.contracts.report import Report, report


def paid(id: str, kind: str, payer: str, payee: str, *more: str) -> str:
    """A clause; `more` are its amount, and further lines of YAML."""
    amount, *rest = more
    lines = [f"  - id: {id}", f"    kind: {kind}", f"    amount: {{{amount}}}"]
    lines += [f"    {name}: {who}" for name, who in (("payer", payer), ("payee", payee)) if who]
    return "\n".join([*lines, *(f"    {line}" for line in rest)]) + "\n"


def usd(value: str, bound: str = "exact") -> str:
    return f'{bound}: "{value}", unit: USD'


def of(*clauses: str, at: str = "2026-03-18") -> Report:
    return report(loaded(contract(*clauses)), parse_at(at), given=at)


def test_what_holds_and_what_ends_when() -> None:
    rows = of(
        "  - {id: open, kind: claim}\n",
        "  - {id: late, kind: claim, effective: {from: 2020-01-01, until: 2030-01-01}}\n",
        "  - {id: soon, kind: claim, effective: {from: 1950-01-01, until: 2027-01-01}}\n",
        "  - {id: over, kind: claim, effective: {until: 2026-03-18}}\n",
        "  - {id: event, kind: claim, effective: {until: {event: agi}}}\n",
    )
    assert [(row.id, row.since, row.until) for row in rows.in_force] == [
        ("c/open", None, None),
        ("c/late", "2020-01-01", "2030-01-01"),
        ("c/soon", "1950-01-01", "2027-01-01"),
        ("c/event", None, None),
    ]
    assert [row.id for row in rows.ending] == ["c/soon", "c/late"]
    assert report(loaded(contract("  - {id: x, kind: claim}\n")), parse_at("2026-03-18")).at.startswith("2026-03-18T")


def test_sums_keep_bounds_and_units_apart() -> None:
    found = of(
        paid("a", "commitment", "o", "z", usd("10")),
        paid("b", "commitment", "o", "z", usd("5", "max")),
        paid("c", "commitment", "o", "y", usd("5", "min")),
        paid("d", "commitment", "o", "y", 'min: "1", about: "2", max: "3", unit: EUR'),
        paid("e", "commitment", "q", "y", 'exact: "0", unit: USD'),
    )
    sums = {(row.payer, row.amount.unit): row.amount for row in found.payers}
    assert set(sums) == {("o", "USD"), ("o", "EUR")}
    dollars = sums["o", "USD"]
    assert (dollars.stated, dollars.least, dollars.most, dollars.clauses) == ("20", "15", None, ("c/a", "c/b", "c/c"))
    euros = sums["o", "EUR"]
    assert (euros.stated, euros.least, euros.most) == ("2", "1", "3")
    assert [(row.payee, row.amount.unit, row.share) for row in found.concentration] == [
        ("z", "USD", "0.75"),
        ("y", "USD", "0.25"),
        ("y", "EUR", "1"),
    ]
    assert [(row.payee, row.amount.stated, row.share) for row in found.backlog] == [
        ("z", "15", "0.75"),
        ("y", "5", "0.25"),
        ("y", "2", "1"),
    ]


@pytest.mark.parametrize(
    ("effective", "years", "per_year"),
    [
        ("{from: 2025-11-03, until: 2032-11-03}", "7", "5.43"),
        ("{from: 2026-01-01, until: 2026-07-02}", "0.5", "76.26"),
        ("{from: 2026-01-01}", None, None),
        ("{until: 2030-01-01}", None, None),
    ],
)
def test_a_commitment_by_the_year(effective: str, years: str | None, per_year: str | None) -> None:
    row = of(paid("a", "commitment", "o", "z", usd("38"), f"effective: {effective}")).commitments[0]
    assert (row.years, row.per_year) == (years, per_year)


def test_a_commitment_is_held_against_the_latest_stated_backlog_and_total() -> None:
    found = of(
        paid("a", "commitment", "o", "z", usd("38")),
        paid("old-backlog", "claim", "", "z", usd("100"), "effective: {from: 2024-01-01}"),
        paid("z-backlog", "claim", "", "z", usd("200"), "effective: {from: 2025-01-01}"),
        paid("x-backlog", "claim", "", "z", 'exact: "1", unit: EUR'),
        paid("o-commitments-total", "claim", "o", "", usd("152", "min")),
    )
    assert found.commitments[0].of_backlog == "0.19"
    assert (found.payers[0].claimed, found.payers[0].of_claimed) == ("152", "0.25")


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("source: [{document: d, status: disputed}, {document: e, status: signed}]", "disputed"),
        ("source: [{document: d, status: ended}]", "ended"),
        ("source: [{document: d, status: in-talks}]", "in-talks"),
        ("source: [{document: d, status: in-talks}, {document: e, status: signed}]", None),
        ("", None),
    ],
)
def test_what_is_not_sure_is_not_counted_and_said(rest: str, why: str | None) -> None:
    found = of(paid("a", "commitment", "o", "z", usd("1"), rest))
    assert len(found.commitments) == (why is None)
    assert [(row.id, why and why in row.why) for row in found.left_out] == ([("c/a", True)] if why else [])
    assert of(paid("a", "funding", "", "z", usd("1"))).left_out[0].why.startswith("it names no payer")


def test_money_that_comes_back() -> None:
    found = of(
        paid("buy", "commitment", "lab", "cloud", usd("30")),
        paid("one", "equity", "cloud", "lab", usd("5")),
        paid("two", "equity", "chips", "lab", usd("10")),
        paid("percent", "equity", "cloud", "lab", 'exact: "10", unit: "%"'),
        paid("none", "equity", "cloud", "other", usd("5")),
    )
    assert [(row.investors, row.returns, row.scope) for row in found.circles] == [
        (("cloud",), "6", None),
        (("cloud", "chips"), "2", "c"),
    ]


def test_a_circle_of_one_is_told_once_and_one_by_way_of_another_name_too() -> None:
    buy = paid("buy", "commitment", "lab", "cloud", usd("30"))
    assert [row.scope for row in of(buy, paid("one", "equity", "cloud", "lab", usd("5"))).circles] == [None]
    assert [row.scope for row in of(buy, paid("one", "equity", "parent", "lab", usd("5"))).circles] == ["c"]


def test_a_stake_and_its_gain() -> None:
    stake = paid("s", "equity", "m", "o", 'about: "27", unit: "%"')
    worth = paid("o-valuation", "claim", "", "o", usd("500"))
    invested = paid("i", "equity", "m", "o", usd("13.8"))
    row = of(stake, worth, invested).stakes[0]
    assert (row.percent, row.value, row.invested, row.gain) == ("27", "135", "13.8", "121.2")
    assert of(stake, worth).stakes == of(stake, invested).stakes == ()
    assert of(stake, invested, worth.replace("500", "0")).stakes == ()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("yz"), st.integers(1, 10**15)), min_size=1, max_size=6)
)
def test_shares_add_up_and_no_money_is_lost(rows: list[tuple[str, str, int]]) -> None:
    found = of(
        *(paid(f"x{n}", "commitment", payer, payee, usd(str(value))) for n, (payer, payee, value) in enumerate(rows))
    )
    whole = sum(value for *_, value in rows)
    for parts in (found.payers, found.concentration, found.backlog, found.commitments):
        assert sum(Decimal(part.amount.stated) for part in parts) == whole
    assert abs(sum(Decimal(row.share) for row in found.backlog) - 1) < Decimal("0.001")
    assert msgspec.json.decode(msgspec.json.encode(found), type=Report) == found
