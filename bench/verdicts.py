"""The CPU of a verdict over 50 clauses, uncached: ``python -m bench.verdicts``.

A clause is asked only where the fact that all its readings compare is the one that they name, so what a
verdict costs goes with how many of the clauses speak of the placement's own vendor. A predicate is asked once
a placement, so the rows with predicates of their own are the dear ones; the last ones are the CEL binding's.
"""

from __future__ import annotations

from statistics import median
from time import thread_time_ns
from typing import Any

from stateline.contract_files import parse
from stateline.contracts import Contracts, Document, load, parse_at

CLAUSES = 50
VERDICTS = 3000
FACTS: dict[str, dict[str, Any]] = {
    "model": {"vendor": "openai"},
    "deployment": {"cloud": "aws", "region": "us-east-1"},
    "workload": {"kind": "stateful"},
}


def contracts(speaking: int, readings: int, own: str = "") -> Contracts:
    """CLAUSES clauses, each a contract, of which ``speaking`` are about the placement's vendor.

    ``own`` is a further condition, with the clause's number in place of NUMBER.
    """
    documents: list[Document] = []
    for number in range(CLAUSES):
        vendor = "openai" if number < speaking else f"vendor{number}"
        every = f'model.vendor == "{vendor}" && deployment.cloud in ["aws", "google"]'
        every += own.replace("NUMBER", str(number))
        denies = [every, every + ' && workload.kind == "stateless"'][:readings]
        lines = [f"      - {{id: r{at}, held_by: [h{at}], deny: '{deny}'}}" for at, deny in enumerate(denies)]
        head = f"contract: c{number}\nclauses:\n  - id: x\n    kind: exclusivity\n    readings:\n"
        documents.append(parse(f"c{number}.yaml", head + "\n".join(lines) + "\n"))
    return load(documents, None)


def p50_us(loaded: Contracts) -> float:
    at = parse_at("2026-03-18")
    took: list[int] = []
    for _ in range(VERDICTS):
        begun = thread_time_ns()
        loaded.evaluate(FACTS, at)
        took.append(thread_time_ns() - begun)
    return median(took) / 1000


def main() -> None:
    direct = ' && deployment.region != "rNUMBER"'
    starts = ' && !deployment.region.startsWith("rNUMBER")'
    binding = ' && !deployment.region.matches("^rNUMBER")'
    rows = [
        ("alike", ""),
        ("their own", direct),
        ("their own, with startsWith", starts),
        ("their own, by the binding", binding),
    ]
    for kind, own in rows:
        for speaking, readings in ((1, 2), (10, 2), (CLAUSES, 1), (CLAUSES, 2)):
            cost = p50_us(contracts(speaking, readings, own))
            what = f"{speaking:3} of {CLAUSES} clauses about this vendor, {readings} readings each, predicates {kind}"
            print(f"{what}: p50 {cost:6.1f} us")


if __name__ == "__main__":
    main()
