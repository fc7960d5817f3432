"""The MCP conformance suite for clients, over our adapter: one scenario of each kind here, all of them with
`make mcp-conformance`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.mcp_conformance import RESULT, Unavailable, install, run, scenarios

pytestmark = pytest.mark.timeout(400)
"""The first time, the suite is installed."""


@pytest.fixture(scope="module")
def suite() -> Iterator[list[str]]:
    try:
        yield install()
    except Unavailable as reason:
        pytest.skip(f"the MCP conformance suite is not here: {reason}")


@pytest.mark.parametrize(
    "scenario",
    ["tools_call", "sse-retry", "auth/client-credentials-basic"],
)
def test_a_scenario_of_the_suite_passes(suite: list[str], scenario: str) -> None:
    row = run(suite, scenario)
    assert row["ok"], row


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_scenario_passes(suite: list[str]) -> None:
    found = {scenario: run(suite, scenario) for scenario in scenarios(suite)}
    assert [row for row in found.values() if not row["ok"]] == []


def test_the_recorded_run_has_no_failure() -> None:
    recorded = json.loads(Path(RESULT).read_text())
    assert len(recorded["scenarios"]) >= 26
    assert [row["scenario"] for row in recorded["scenarios"] if not row["ok"]] == []
