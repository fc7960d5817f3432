"""The CPU that contracts add to a call: ``python -m bench.contracts``.

Two real servers before one fake upstream, alike but for 50 clauses that one of them holds its placements against,
of which 10 speak of the model's vendor, loaded in turns (``bench.paired``).
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import paired
from bench.servers import Adapter, NotRunnable, adapters

CLAUSES, SPEAKING = 50, 10


def write_contracts(folder: Path) -> None:
    """CLAUSES clauses that deny nothing here, two readings each, every predicate its own."""
    for number in range(CLAUSES):
        vendor = "openai" if number < SPEAKING else f"vendor{number}"
        every = (
            f'model.vendor == "{vendor}" && deployment.cloud in ["aws", "google"] && deployment.region != "r{number}"'
        )
        (folder / f"c{number}.yaml").write_text(
            f"contract: c{number}\nclauses:\n  - id: x\n    text: Nothing that is asked for here.\n"
            f"    kind: exclusivity\n    readings:\n      - {{id: all, held_by: [a], deny: '{every}'}}\n"
            f"      - {{id: some, held_by: [b], deny: '{every} && workload.kind == \"stateless\"'}}\n"
        )


def adapter(contracts: Path | None) -> Adapter:
    """The server, with the contracts of a folder or without any."""
    env = {} if contracts is None else {"STATELINE_CONTRACTS__PATH": str(contracts)}
    return replace(
        adapters()["stateline"], models={"openai-responses": "fake-responses"}, config="contracts.toml", env=env
    )


def main() -> int:
    """Measure, print, keep; 0 where it ran, whatever the figures."""
    arguments = paired.arguments_of("bench.contracts", __doc__, "contracts.json")
    title = f"CPU a call, ms: what {CLAUSES} clauses add, {SPEAKING} of them about the vendor"
    try:
        with tempfile.TemporaryDirectory() as name:
            write_contracts(Path(name))
            paired.compare(arguments, title, "contracts add cpu_ms", adapter(None), adapter(Path(name)))
    except NotRunnable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
