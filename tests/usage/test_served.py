"""Usage of a server that runs: what clients were told that calls cost is what the export says."""

from __future__ import annotations

import time
from collections.abc import Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import MODEL, Served
from tests.api.test_budgets import COST, budgets, give
from tests.unit.money.test_focus import toolkit
from tests.usage.histories import configure
from tests.usage.test_export import rows_of, run, sums

from stateline.core.calls import Usage
from stateline.testing import Answer


@pytest.fixture
def paid(tmp_path: Path) -> Generator[Served]:
    server = Served(tmp_path / "stateline.db").start()
    server.script({MODEL: Answer(text="an answer", usage=Usage(input_tokens=1_000, output_tokens=100))})
    give(server, "100")
    yield server
    server.stop()


def settled(server: Served, spent: Decimal) -> None:
    """Wait until so much is spent: the end of a call that is kept in no session is written soon, and not at once."""
    until = time.monotonic() + 20
    while Decimal(budgets(server)[0]["spent"]) != spent:
        assert time.monotonic() < until, budgets(server)


def test_every_call_of_a_server_is_exported_while_it_runs(paid: Served, tmp_path: Path) -> None:
    with paid.openai() as client:
        first = client.responses.create(model=MODEL, input="one")
        client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        # A fork: the first response's call is its parent's alone.
        client.responses.create(model=MODEL, input="three", previous_response_id=first.id)
        client.responses.create(model=MODEL, input="four", store=False)
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "five"}])
    settled(paid, 5 * Decimal(COST))
    config = configure(tmp_path, f"sqlite:///{tmp_path}/stateline.db")
    file = tmp_path / "usage.csv"
    run("export", "--config", config, "-o", str(file))
    rows = rows_of(file.read_text())
    assert sums(rows, "BilledCost") == 5 * Decimal(COST)
    assert {row["x_stateline_reason"] for row in rows} == {""}
    calls: dict[str, int] = {}
    for row in rows:
        if row["SkuMeter"] == "Input Tokens":
            workload = "stateless" if "stateless" in row["Tags"] else "stateful"
            calls[workload] = calls.get(workload, 0) + int(row["x_stateline_calls"])
    assert calls == {"stateful": 3, "stateless": 2}
    # The cloud's own words of the same calls.
    assert toolkit("validate", str(file), "--supports", "SupportsUnitPricing")[0] == 0
    assert run("reconcile", str(file), "--config", config).endswith("both agree\n")


def test_a_lost_call_is_a_row_with_its_reason(paid: Served, tmp_path: Path) -> None:
    paid.script({MODEL: Answer(text="an answer", usage=None)})
    with paid.openai() as client:
        response: Any = client.responses.create(model=MODEL, input="one", max_output_tokens=50).to_dict()
    (cost,) = response["stateline"]["cost"]
    assert cost["estimated"] is True
    config = configure(tmp_path, f"sqlite:///{tmp_path}/stateline.db")
    (row,) = rows_of(run("export", "--config", config))
    assert (row["BilledCost"], row["x_stateline_reason"]) == (cost["amount"], "no_usage")
