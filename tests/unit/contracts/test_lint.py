"""What lint finds, rule by rule, and that it finds nothing where nothing is."""

from __future__ import annotations

from decimal import Decimal

import pytest
from tests.unit.contracts.build import clause, contract, loaded

from stateline.contracts import FactsError
from stateline.contracts.differ import can_differ
from stateline.contracts.lint import lint, parse_rate
from stateline.contracts.predicates import compile_predicate
from stateline.core.limits import LINT_FACTS_MAX, LINT_LISTS_MAX


def money(id: str = "x", *, quotes: tuple[str, ...] = (), rest: str = "", kind: str = "equity") -> str:
    """A clause without readings, with one signed source for each quote."""
    lines = [f"  - id: {id}", f"    kind: {kind}", *(f"    {line}" for line in rest.splitlines())]
    if quotes:
        sources = (f"{{document: d{n}, quote: '{quote}', status: signed}}" for n, quote in enumerate(quotes))
        lines.append(f"    source: [{', '.join(sources)}]")
    return "\n".join(lines) + "\n"


def amount(text: str) -> str:
    return f"amount: {{{text}}}"


def rules(*clauses: str, head: str = "", determinations: str | None = None) -> list[tuple[str, str]]:
    found = lint(loaded(contract(*clauses, head=head), determinations=determinations))
    assert all(one.message for one in found)
    return [(one.rule, one.clause) for one in found]


EXACT = amount('exact: "5000000000", unit: USD')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (money(quotes=("$5B", "$5 billion"), rest=EXACT), []),
        (money(quotes=("$5B", ""), rest=EXACT), []),
        (money(quotes=("$5B",), rest="effective: {until: 2030-01-01}\n" + EXACT), []),
        (money(quotes=("$5B", "up to $5B"), rest=EXACT), ["sources-differ"]),
        (money(quotes=("to 2032", "until AGI"), rest=EXACT), ["sources-differ"]),
        (money(quotes=("$5B", "$6B"), rest=EXACT), ["sources-differ", "amount-differs"]),
        (money(quotes=("$4B",), rest=EXACT), ["amount-differs"]),
        (money(quotes=(">$4B",), rest=EXACT), []),
        (money(quotes=("up to $6B",), rest=EXACT), []),
        (money(quotes=("up to $6B",), rest=amount('min: "5000000000", unit: USD')), []),
        (money(quotes=("$7B",), rest=amount('max: "5000000000", unit: USD')), ["amount-differs"]),
        (money(quotes=("$5M",), rest=EXACT), ["amount-differs", "unit-slip"]),
        (money(quotes=("$5T",), rest=EXACT), ["amount-differs", "unit-slip"]),
        (money(quotes=("€5B",), rest=EXACT), ["unit"]),
        (money(quotes=("1450 won per dollar",), kind="claim"), []),
        (money(), ["no-amount"]),
        (money(kind="claim"), []),
        (money(rest=amount('about: "5", unit: USD')), ["no-bound"]),
        (money(rest=amount('about: "5", max: "6", unit: USD')), []),
        (money(rest=amount('about: "5", unit: USD'), kind="claim"), []),
    ],
)
def test_amounts_and_sources(text: str, found: list[str]) -> None:
    assert rules(text) == [(rule, "c/x") for rule in found]


def test_sources_that_differ_on_how_a_clause_stands() -> None:
    sources = "source: [{document: a, status: signed}, {document: b, status: disputed}]"
    assert rules(money(kind="claim", rest=sources)) == [("status-differs", "c/x")]


CONVERTED = money(quotes=("$5B = 0.725 trillion won",), rest=EXACT)


def test_a_conversion_is_held_against_the_given_rate() -> None:
    contracts = loaded(contract(CONVERTED))
    assert lint(contracts) == []
    for pair, value, found in [
        (("USD", "KRW"), Decimal(1450), True),
        (("USD", "KRW"), Decimal(150), False),
        (("KRW", "USD"), 1 / Decimal(1450), True),
        (("KRW", "USD"), 1 / Decimal(150), False),
    ]:
        assert [one.rule for one in lint(contracts, {pair: value})] == ["conversion"] * found
    said = lint(contracts, {("USD", "KRW"): Decimal(1450)})[0]
    assert "145 KRW for a USD" in said.message
    assert "0.1 times" in said.message
    assert said.place == "0.yaml:3"


def test_a_rate_that_a_source_states_is_taken_too() -> None:
    stated = money("rate", quotes=("about 1,450 won per dollar",), kind="claim")
    assert rules(CONVERTED, stated) == [("conversion", "c/x")]


def test_rates_from_outside() -> None:
    assert parse_rate("USD/KRW=1450") == (("USD", "KRW"), Decimal(1450))
    for text in ("", "USD/KRW", "USD/KRW=0", "USD/KRW=x", "USD/WON=5", "DOL/KRW=5", "USD/KRW=-5"):
        with pytest.raises(FactsError, match="is no rate"):
            parse_rate(text)


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [
        ("true", "true", False),
        ('model.vendor == "x"', '"x" == model.vendor', False),
        ('model.vendor == "x"', 'model.vendor == "y"', True),
        ('model.vendor == "x"', 'model.vendor in ["x"]', False),
        ('model.vendor != "x"', '!(model.vendor == "x")', False),
        ('deployment.cloud == "aws"', '!(deployment.cloud != "aws")', False),
        ('"a" in product.shipped_on', '!("a" in product.shipped_on)', True),
        ('"a" in product.shipped_on', '("a" in product.shipped_on)', False),
        ('model.vendor == "x" || true', "true", False),
        ('model.vendor == "x" || false', "false", True),
        ('at < timestamp("2026-01-01T00:00:00Z")', 'at <= timestamp("2026-01-01T00:00:00Z")', True),
        ('at < timestamp("2026-01-01T00:00:00Z")', 'timestamp("2026-01-01T00:00:00Z") > at', False),
        ('at < timestamp("soon")', 'at < timestamp("soon") || false', False),
        ("model.vendor", "!model.vendor", False),
        ('model.name.startsWith("a")', 'model.name.startsWith("b")', None),
        ("size(model.name) == 1", "true", None),
    ],
)
def test_whether_readings_can_differ_is_tried_out(first: str, second: str, differ: bool | None) -> None:
    assert can_differ(compile_predicate(first), compile_predicate(second)) is differ
    assert can_differ(compile_predicate(second), compile_predicate(first)) is differ


def test_too_many_facts_are_not_tried() -> None:
    fields = ("name", "region", "data_zone", "accelerator", "service_tier")
    many = " && ".join(f'deployment.{field} in ["a", "b", "c", "d", "e", "f"]' for field in fields)
    assert 8 ** len(fields) > LINT_FACTS_MAX
    assert can_differ(compile_predicate(many), compile_predicate(f"{many} && true")) is None


def test_lists_of_too_many_strings_are_not_tried() -> None:
    for count, differ in [(LINT_LISTS_MAX, False), (LINT_LISTS_MAX + 1, None)]:
        every = " || ".join(f'"t{number}" in product.shipped_on' for number in range(count))
        assert can_differ(compile_predicate(every), compile_predicate(f"({every})")) is differ


def test_readings_that_can_never_differ_are_found() -> None:
    two = clause("x", 'model.vendor == "v"') + "      - {id: s, held_by: [b], deny: '\"v\" == model.vendor'}\n"
    other = clause("y", 'model.vendor == "v"') + "      - {id: s, held_by: [b], deny: '\"w\" == model.vendor'}\n"
    assert rules(two, other, head="")[0] == ("readings-agree", "c/x")
    assert ("readings-agree", "c/y") not in rules(two, other)


FIRST = clause("x", "true")


@pytest.mark.parametrize(
    ("second", "overlap"),
    [
        (clause("y", "true"), True),
        (money("y", kind="permission"), True),
        (money("y", kind="distribution"), True),
        (money("y", kind="dispute"), False),
        (clause("y", "true", rest="supersedes: [x]"), False),
        ("  - {id: y, kind: permission, exception_to: x, readings: [{id: e, held_by: [a], allow: 'true'}]}\n", False),
    ],
)
def test_clauses_that_overlap(second: str, overlap: bool) -> None:
    found = lint(loaded(contract(FIRST, second)))
    assert [(one.rule, one.others) for one in found if one.rule == "overlap"] == [("overlap", ("c/y",))] * overlap


def test_clauses_of_two_contracts_do_not_overlap() -> None:
    assert lint(loaded(contract(FIRST), contract(FIRST, name="d"))) == []


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ('exact: "5", unit: USD', 'exact: "6", unit: USD', True),
        ('exact: "5", unit: USD', 'exact: "5", unit: USD', False),
        ('exact: "5", unit: USD', 'exact: "6", unit: EUR', False),
    ],
)
def test_one_payment_told_twice(first: str, second: str, overlap: bool) -> None:
    paid = "payer: a\npayee: b\n"
    clauses = [money("x", rest=paid + amount(first)), money("y", rest=paid + amount(second))]
    assert rules(*clauses) == [("overlap", "c/x")] * overlap
    assert rules(clauses[0], clauses[1].replace("payer: a", "payer: z")) == []
    assert ("overlap", "c/x") not in rules(clauses[0], money("y", rest=paid))
    assert ("overlap", "c/x") not in rules(money("x", rest=paid), clauses[1])


@pytest.mark.parametrize(
    ("clauses", "head", "determinations", "found"),
    [
        ([FIRST], "posture: nobody\n", None, "c"),
        ([FIRST], "posture: a\n", None, None),
        ([FIRST], "posture: strict\n", None, None),
        (
            [
                clause("x", "true", rest="effective: {from: 2026-06-01}"),
                money("y", kind="claim", rest="effective: {from: 2026-01-01}\nsupersedes: [x]"),
            ],
            "",
            None,
            "c/x",
        ),
        ([clause("x", "true", rest="effective: {until: {event: agi}}")], "", None, "c/x"),
        (
            [clause("x", "true", rest="effective: {until: {event: agi}}")],
            "",
            "[{event: agi, on: 2026-01-01, by: x}]",
            None,
        ),
        ([FIRST], "", "[{event: agi, on: 2026-01-01, by: x}]", "agi"),
        ([money("x", kind="claim", rest="payer: q\nparties: [p]")], "", None, None),
        ([money("x", rest=f"payer: q\nparties: [p]\n{EXACT}")], "", None, "c/x"),
        ([money("x", rest=f"payer: p\nparties: [p]\n{EXACT}")], "", None, None),
        ([money("x", rest=f"payer: q\n{EXACT}")], "", None, None),
        (
            [
                clause("x", "true", rest="effective: {until: 2026-01-01}"),
                "  - id: y\n    kind: permission\n    exception_to: c/x\n    effective: {from: 2026-01-01}\n"
                "    readings: [{id: e, held_by: [a], allow: 'true'}]\n",
            ],
            "",
            None,
            "c/y",
        ),
        (
            [
                FIRST,
                "  - {id: y, kind: permission, exception_to: x, readings: [{id: e, held_by: [a], allow: 'true'}]}\n",
            ],
            "",
            None,
            None,
        ),
    ],
)
def test_what_dangles(clauses: list[str], head: str, determinations: str | None, found: str | None) -> None:
    expected = [] if found is None else [("dangling", found)]
    assert rules(*clauses, head=head, determinations=determinations) == expected
