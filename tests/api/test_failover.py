"""Many streams of the official SDK over three upstreams of three formats, one of which breaks.

What is measured of it is in ``make failover``; here is what must hold of every answer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.failover import FAULTS, Fault, round_of

STREAMS = 40


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_client_gets_a_whole_answer_while_an_upstream_breaks(fault: Fault, tmp_path: Path) -> None:
    found = await round_of(fault, STREAMS, tmp_path, delay_ms=50.0)
    # Who was at the upstream that broke went on elsewhere; the others did not notice.
    assert 0 < found.moved < STREAMS
