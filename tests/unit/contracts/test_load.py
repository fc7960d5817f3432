"""From files to contracts: one clear error with the place, or all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.contracts.build import clause, contract, document, in_force, loaded

from stateline.contract_files import load_folder, parse
from stateline.contracts import ContractError, Document, load
from stateline.core import limits

FULL = """\
contract: full
parties: [openai, aws]
posture: openai
mode: observe
clauses:
  - id: buy
    text: OpenAI buys.
    kind: commitment
    payer: openai
    payee: aws
    parties: [openai]
    effective: {from: 2025-11-03, until: {event: agi}}
    source: [{document: d, quote: q, status: in-talks}]
    amount: {min: "1.5", about: "2", max: 3, unit: USD}
    commitment:
      model: prepaid
      schedule: [{until: 2026-01-01, amount: "1"}, {until: 2027-01-01, amount: "2"}]
      applicability: {}
      focus: {}
  - id: gate
    kind: residency
    effective: {from: {event: merger}}
    readings: [{id: r, held_by: [openai], deny: "true"}]
"""


def test_every_key_of_the_format_is_read() -> None:
    contracts = loaded(FULL)
    one = contracts.contracts[0]
    assert (one.posture, one.mode, len(one.clauses), len(contracts.gates)) == ("openai", "observe", 2, 1)
    assert one.clauses[0].commitment is not None
    assert one.clauses[0].commitment.interval == "full"
    assert not contracts.timed
    assert loaded(contract(clause("x", "at == at"))).timed


GATE = clause("x", "true")


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        (contract(GATE, head="partys: [a]\n"), "1.yaml:2: partys", 'did you mean "parties"'),
        (contract(clause("x", "true", rest="textt: x")), "1.yaml:5: clauses[0].textt", 'did you mean "text"'),
        (contract(clause("x", "true", rest="effective: {form: 2026-01-01}")), "1.yaml:5", 'did you mean "from"'),
        (contract(clause("x", "true", rest="effective: {until: {evnt: x}}")), "1.yaml:5", 'did you mean "event"'),
        (contract("  - {id: x}\n"), "1.yaml:3: clauses[0]", "missing key `kind`"),
        (contract("  - {id: x, kind: odd}\n"), "1.yaml:3: clauses[0].kind", "odd"),
        ("[]", "1.yaml:1", "expected a table"),
        ("", "1.yaml:", "expected a table"),
        (contract(GATE, name='"a b"'), "1.yaml:1: contract", "no name"),
        (contract(GATE, head='posture: ""\n'), "1.yaml:2: posture", "no name"),
        (contract(GATE, GATE), "1.yaml:7: clauses[1].id", "already"),
        (contract(clause("x", "true", rest="effective: {from: 2026-01-02, until: 2026-01-01}")), "1.yaml:5", "ends on"),
        (contract(clause("x", "true", rest="effective: {from: 2026-01-01T10:00:00Z}")), "1.yaml:5", "from"),
        (contract(clause("x", "true", rest='amount: {exact: "5"}')), "1.yaml:5", "missing key `unit`"),
        (contract(clause("x", "true", rest='amount: {exact: "5", unit: EURO}')), "1.yaml:5", "no ISO 4217"),
        (contract(clause("x", "true", rest="amount: {exact: 5.5, unit: EUR}")), "1.yaml:5", "float"),
        (contract(clause("x", "true", rest='amount: {exact: "1e9", unit: EUR}')), "1.yaml:5", "no amount"),
        (contract(clause("x", "true", rest="amount: {unit: EUR}")), "1.yaml:5", "has exact"),
        (
            contract(clause("x", "true", rest='amount: {exact: "1", max: "2", unit: EUR}')),
            "1.yaml:5",
            "no other bounds",
        ),
        (contract(clause("x", "true", rest='amount: {min: "3", max: "2", unit: EUR}')), "1.yaml:5", "out of order"),
        (contract(clause("x", "true", rest="commitment: {model: option}")), "1.yaml:5", "no commitment"),
        (
            contract(
                "  - id: x\n    kind: commitment\n    commitment: {model: option, schedule: "
                '[{until: 2026-01-01, amount: "1"}, {until: 2026-01-01, amount: "1"}]}\n'
            ),
            "1.yaml:5",
            "go forward",
        ),
        (contract("  - {id: x, kind: claim, readings: [{id: r, held_by: [], deny: 'true'}]}\n"), "1.yaml:3", "held by"),
        (contract("  - {id: x, kind: claim, readings: [{id: r, held_by: [a]}]}\n"), "1.yaml:3", "key deny"),
        (
            contract("  - {id: x, kind: claim, readings: [{id: r, held_by: [a], deny: 'true', allow: 'true'}]}\n"),
            "1.yaml:3",
            "no allow",
        ),
        (
            contract(
                "  - id: x\n    kind: claim\n    readings:\n      - {id: r, held_by: [a], deny: 'true'}\n"
                "      - {id: r, held_by: [b], deny: 'true'}\n"
            ),
            "1.yaml:7: clauses[0].readings[1].id",
            "already",
        ),
        (contract(GATE, clause("y", "true", rest="exception_to: x")), "1.yaml:11", "key allow"),
        (contract(GATE, "  - {id: y, kind: claim, exception_to: x}\n"), "1.yaml:7", "has readings"),
        (contract(clause("x", "true", rest="supersedes: [z]")), "1.yaml:5", "no other clause"),
        (contract(clause("x", "true", rest="supersedes: [x]")), "1.yaml:5", "no other clause"),
        (
            contract(clause("x", "true", rest="supersedes: [y]"), clause("y", "true", rest="supersedes: [x]")),
            "1.yaml:5: clauses[0].supersedes",
            "supersedes itself",
        ),
        (
            contract(
                GATE,
                "  - {id: y, kind: claim, exception_to: x, readings: [{id: r, held_by: [a], allow: 'true'}]}\n",
                "  - {id: z, kind: claim, exception_to: y, readings: [{id: r, held_by: [a], allow: 'true'}]}\n",
            ),
            "1.yaml:8",
            "an exception itself",
        ),
        (contract(clause("x", 'false && model.vender == "x"')), "1.yaml:6: clauses[0].readings[0].deny", "vendor"),
        (contract(clause("x", "true", holder="no")), "1.yaml:6", "string"),
        (contract(GATE, name="first"), "1.yaml:1: contract", "the contract of 0.yaml already"),
    ],
)
def test_bad_input_names_its_place(text: str, place: str, word: str) -> None:
    with pytest.raises(ContractError) as caught:
        loaded(contract(clause("z", "true"), name="first"), text)
    assert str(caught.value).startswith(place)
    assert word in str(caught.value)


def test_a_value_without_lines_is_refused_all_the_same() -> None:
    with pytest.raises(ContractError) as caught:
        load([Document("plain", {"contract": "c", "clauses": [{"id": "x", "kind": "odd"}]})])
    assert (caught.value.line, caught.value.key) == (None, "clauses[0].kind")


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("contract: [", 1, "not valid YAML"),
        ("contract: c\ncontract: d", 2, "written twice"),
        ("a: &a [x]\n? [b]\n: c", 2, "plain word"),
        ("a: !!python/object:os.system x", 1, "not valid YAML"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: 2026-99-99", None, "not valid YAML"),
        ("a: \x00", None, "not valid YAML"),
        ("a: " + "[" * 40 + "]" * 40, 1, "deep"),
        ("a: " + "[" * 4000 + "]" * 4000, None, "deep"),
        ("a: &a [*a]", 1, "deep"),
    ],
)
def test_yaml_that_is_none_names_its_line(text: str, line: int | None, word: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse("one.yaml", text)
    assert (caught.value.code, caught.value.line) == ("contract_syntax", line)
    assert word in str(caught.value)


def test_aliases_cannot_grow_without_end() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(ContractError, match="values"):
        parse("one.yaml", "\n".join(rows))


def test_events_end_clauses_once_they_are_determined() -> None:
    text = contract(
        clause("ends", "true", rest="effective: {until: {event: agi}}"),
        clause("begins", "true", rest="effective: {from: {event: agi}}"),
    )
    assert in_force(loaded(text), "2026-03-18") == ["c/ends"]
    determined = loaded(text, determinations="[{event: agi, on: 2026-03-18, by: panel, source: letter}]")
    assert in_force(determined, "2026-03-17T23:59:59.999999Z") == ["c/ends"]
    assert in_force(determined, "2026-03-18") == ["c/begins"]
    assert in_force(loaded(text, determinations=""), "2026-03-18") == ["c/ends"]


def test_one_event_has_one_day() -> None:
    rows = "- {event: agi, on: 2026-03-18, by: panel}\n- {event: agi, on: 2026-03-19, by: other}"
    with pytest.raises(ContractError, match=r"determinations.yaml:2: \[1\].on"):
        loaded(contract(GATE), determinations=rows)
    loaded(contract(GATE), determinations=rows.replace("19", "18"))
    with pytest.raises(ContractError, match="did you mean"):
        loaded(contract(GATE), determinations="- {evnt: agi, on: 2026-03-18, by: panel}")


def test_a_clause_ends_when_its_successor_starts_or_by_itself_before() -> None:
    text = contract(
        clause("old", "true", rest="effective: {from: 2020-01-01, until: 2027-01-01}"),
        clause("short", "true", rest="effective: {until: 2025-01-01}"),
        clause("new", "true", rest="effective: {from: 2026-01-01}\nsupersedes: [old, short, c/old]"),
    )
    contracts = loaded(text)
    assert in_force(contracts, "2024-12-31") == ["c/old", "c/short"]
    assert in_force(contracts, "2025-12-31T23:59:59Z") == ["c/old"]
    assert in_force(contracts, "2026-01-01") == ["c/new"]


def test_the_first_of_several_successors_ends_a_clause() -> None:
    text = contract(
        clause("old", "true"),
        clause("late", "true", rest="effective: {from: 2026-06-01}\nsupersedes: [old]"),
        clause("early", "true", rest="effective: {from: 2026-05-01}\nsupersedes: [old]"),
    )
    assert in_force(loaded(text), "2026-04-30") == ["c/old"]
    assert in_force(loaded(text), "2026-05-01") == ["c/early"]


def test_a_clause_superseded_before_it_starts_never_holds_and_ends_no_other() -> None:
    text = contract(
        clause("first", "true"),
        clause("second", "true", rest="effective: {from: 2026-06-01}\nsupersedes: [first]"),
        clause("third", "true", rest="effective: {from: 2026-05-01}\nsupersedes: [second]"),
    )
    assert in_force(loaded(text), "2026-04-30") == ["c/first"]
    assert in_force(loaded(text), "2026-07-01") == ["c/first", "c/third"]


# -- folders -------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.yaml", "a.yml", "sub/c.yaml"):
        (tmp_path / name).write_text(contract(GATE, name=Path(name).stem))
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "notes.txt").write_text("[")
    (tmp_path / "determinations.yaml").write_text("[]")
    assert in_force(load_folder(tmp_path), "2026-03-18") == ["a/x", "b/x", "c/x"]


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContractError, match="no such folder"):
        load_folder(tmp_path / "none")
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    with pytest.raises(ContractError, match="not UTF-8"):
        load_folder(tmp_path)
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(ContractError, match="cannot be read"):
        load_folder(tmp_path)
    (tmp_path / "a.yaml").rmdir()
    monkeypatch.setattr("stateline.contract_files.CONTRACT_FILE_BYTES_MAX", 10)
    (tmp_path / "a.yaml").write_text("a: bcdefghijk")
    with pytest.raises(ContractError, match="larger than 10 bytes"):
        load_folder(tmp_path)
    for number in range(limits.CONTRACT_FILES_MAX):
        (tmp_path / f"{number}.yaml").touch()
    with pytest.raises(ContractError, match="files"):
        load_folder(tmp_path)


def test_a_document_is_named_in_its_errors() -> None:
    assert document("a: 1", "x.yaml").file == "x.yaml"
