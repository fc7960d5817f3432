"""Contracts for tests, written as YAML as an operator writes them."""

from __future__ import annotations

from typing import Any

from stateline.contract_files import parse
from stateline.contracts import Contracts, Document, Verdict, load, parse_at

STATEFUL_ON_AWS: dict[str, dict[str, Any]] = {
    "model": {"vendor": "openai"},
    "deployment": {"cloud": "aws"},
    "workload": {"kind": "stateful"},
}
EVERY = """model.vendor == "openai" && deployment.cloud in ["aws", "google"]"""
STATELESS = f"""{EVERY} && workload.kind == "stateless\""""


def document(text: str, name: str = "one.yaml") -> Document:
    return parse(name, text)


def loaded(*texts: str, determinations: str | None = None) -> Contracts:
    files = [document(text, f"{index}.yaml") for index, text in enumerate(texts)]
    return load(files, None if determinations is None else document(determinations, "determinations.yaml"))


def clause(name: str, deny: str, *, holder: str = "a", rest: str = "") -> str:
    """One clause with one reading; `rest` are further lines of YAML."""
    lines = [f"  - id: {name}", "    kind: exclusivity"]
    lines += [f"    {line}" for line in rest.splitlines()]
    lines += ["    readings:", f"      - {{id: r, held_by: [{holder}], deny: '{deny}'}}"]
    return "\n".join(lines) + "\n"


def contract(*clauses: str, name: str = "c", head: str = "") -> str:
    return f"contract: {name}\n{head}clauses:\n{''.join(clauses)}"


def ask(contracts: Contracts, at: str = "2026-03-18", posture: str = "strict", **facts: dict[str, Any]) -> Verdict:
    return contracts.evaluate(facts or STATEFUL_ON_AWS, parse_at(at), posture, given=at)


def in_force(contracts: Contracts, at: str) -> list[str]:
    return [one.id for one in ask(contracts, at).clauses]
