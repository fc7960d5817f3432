"""What must hold of the money in a database at rest: balances against what the log says that calls cost."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from stateline.core import events as e
from stateline.core.billing import Charge, Reserved
from stateline.core.blobs import MARK

PRICE = 'price = {currency = "USD", input_per_mtok = "1.25", output_per_mtok = "10.00"}'
"""A line of a deployment."""
BUDGETS = """
[[budgets]]
tenant = "default"
usd_per_month = 1000000

[[budgets]]
model = "scripted"
usd_per_month = "0.01"
mode = "warn"
"""

Balances = dict[str, tuple[Decimal, Decimal]]
"""By name: held and spent."""


def read(database: Path) -> tuple[list[tuple[int, e.Body]], Balances]:
    """The events of a database file with their sessions' numbers, and its balances."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        bodies = db.execute("SELECT session, body FROM events ORDER BY n").fetchall()
        balances = db.execute("SELECT name, held, spent FROM balances").fetchall()
    return (
        [(session, e.decode_body(raw.removeprefix(MARK))) for session, raw in bodies],
        {name: (Decimal(held), Decimal(spent)) for name, held, spent in balances},
    )


def wrong(bodies: Iterable[tuple[int, e.Body]], balances: Balances) -> list[str]:
    """Calls that were not settled, and balances that are not what calls cost."""
    open_: dict[object, Reserved] = {}
    spent: dict[str, Decimal] = defaultdict(Decimal)
    found: list[str] = []

    def end(key: object, charge: Charge | None) -> None:
        reserved = open_.pop(key, None)
        if reserved is None or charge is None:
            if reserved is not None or charge is not None:
                found.append(f"call {key} reserved {reserved} and cost {charge}")
            return
        if not 0 <= charge.amount <= reserved.amount:
            found.append(f"call {key} cost {charge.amount} of {reserved.amount}")
        for each in reserved.held:
            spent[each.budget] += charge.amount * each.rate

    for session, body in bodies:
        if isinstance(body, e.ModelCallStarted) and body.reserved is not None:
            open_[session, body.turn, body.step] = body.reserved
        elif isinstance(body, e.ModelCallFinished | e.ModelCallFailed):
            end((session, body.turn, body.step), body.charge)
        elif isinstance(body, e.StatelessCalls):
            open_ |= {each.id: each.reserved for each in body.started if each.reserved is not None}
            for each in body.ended:
                end(each.id, each.charge)
    found += [f"call {key} was never settled" for key in open_]
    for name in spent.keys() | balances.keys():
        held, stands = balances.get(name, (Decimal(0), Decimal(0)))
        if held or stands != spent[name]:
            found.append(f"{name}: {held} is held, {stands} spent; calls cost {spent[name]}")
    return found
