"""`python -m bench.shared`: nodes over one PostgreSQL, which it starts itself; tables, bounds, and JSON.

Rows: `loop` (the store against a bare fenced group-commit loop), `nodes` (CPU a turn of two nodes
against one), `renewed` (appends while 10,000 owned sessions are renewed), `readers` (database queries a
second by the number of readers), `streams` (1,000 open streams beside 500 turns a second) and `budget`
(appends of 64 callers on two nodes that all move one balance, against the same that move none). The
exit code says only whether the bench ran: figures depend on the machine, so a bound never fails it.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from bench import report
from bench.bounds import Check, check
from bench.shared.rows import QUICK, ROWS, Database, Effort
from stateline.testing.postgres_server import NoPostgres, postgres_server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.shared", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=tuple(ROWS), help="one row; repeatable")
    parser.add_argument("--quick", action="store_true", help="a shorter look, no result kept")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> int:
    """Measure the rows asked for; 0 when they ran, whatever the figures, 2 where no PostgreSQL can be started."""
    arguments = _arguments()
    sections: dict[str, object] = {}
    checks: list[Check] = []
    try:
        with postgres_server() as server:
            database = Database(server)
            for name in arguments.only or ROWS:
                began_s = time.perf_counter()
                found = ROWS[name](database, QUICK if arguments.quick else Effort())
                seconds = round(time.perf_counter() - began_s, 1)
                print(f"{name}: {seconds} s", file=sys.stderr, flush=True)
                report.table(found.title, found.columns, found.rows)
                sections[name] = found.kept | {"took_s": seconds}
                checks += [c for figure, value in found.promises.items() if (c := check(figure, value)) is not None]
    except NoPostgres as error:
        print(f"no PostgreSQL can be started here: {error}", file=sys.stderr)
        return 2
    report.checks(checks)
    target: Path | None = arguments.json
    if target is None and not arguments.quick and not arguments.only:
        target = report.RESULTS / "shared.json"
    if target is not None:
        report.write(target, {**sections, "promised": [asdict(c) for c in checks]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
