"""The bench's own arithmetic: what it reads from /proc, how it divides, what it accepts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from bench import formats, proctree, soak
from bench.bounds import check
from bench.decoders import TOKENS, streams
from bench.load import KINDS, Load, drive, request_bytes
from bench.reference_log import ReferenceLog
from bench.servers import CONFIGS
from bench.stats import median, median_ratio, percentile
from bench.upstream import Answers, Upstream
from bench.upstream_bodies import WORD

from stateline.core.calls import Finish, TextDelta
from stateline.models.formats import FORMATS, wire_of

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

# A parent whose child burns a known amount of CPU, is reaped, and then says so.
BURN = "import time\nwhile time.process_time() < 0.4: pass"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
print("reaped", flush=True)
sys.stdin.read()
"""


def test_percentile_interpolates_between_ranks() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 2.5
    assert percentile([5.0], 0.99) == 5.0
    assert percentile([1, 2, 3], 0.0) == 1
    assert percentile([1, 2, 3], 1.0) == 3
    assert median([3, 1, 2]) == 2


@pytest.mark.parametrize(("values", "q"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_percentile_refuses_what_has_no_answer(values: list[float], q: float) -> None:
    with pytest.raises(ValueError, match=r"no values|within 0"):
        percentile(values, q)


def test_ratio_is_taken_within_each_round() -> None:
    # The disk was ten times slower in the second round; the ratio is the same in all.
    assert median_ratio([70, 7, 71], [100, 10, 100]) == 0.7
    with pytest.raises(ValueError, match="each round"):
        median_ratio([1.0], [1.0, 2.0])


def test_stat_line_with_parentheses_in_the_command() -> None:
    line = "7 (a (b) c) S 3 7 2 0 -1 4194560 1 2 3 4 50 60 700 800 20 0 1 0 9 1 1"
    stat = proctree.parse_stat(line)
    assert (stat.pid, stat.parent, stat.session) == (7, 3, 2)
    assert (stat.ticks, stat.ticks_children) == (110, 1500)


@LINUX
def test_cpu_of_a_dead_child_is_counted() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == b"reaped\n"
        # The child burns 0.4 s; the kernel tells user and system time in whole ticks, each cut off.
        assert proctree.cpu_s(parent.pid) >= 0.4 - 2 / os.sysconf("SC_CLK_TCK")
        assert proctree.resident_mb(parent.pid) > 1
        parent.stdin.close()
    with pytest.raises(ProcessLookupError):
        proctree.cpu_s(parent.pid)


def test_a_bound_holds_or_misses_and_other_figures_have_none() -> None:
    low, high = check("start_s", 1.4), check("start_s", 1.6)
    assert low is not None
    assert low.held
    assert high is not None
    assert not high.held
    ratio = check("store/reference at 32", 0.71)
    assert ratio is not None
    assert ratio.held
    assert check("something else", 1.0) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [1, 7])
async def test_client_reads_whole_answers_of_the_fake_upstream(kind: str, group: int) -> None:
    counts: dict[str, int] = {}
    answers = Answers(tokens=20, group=group)
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(answers, 0.0, counts), "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    load = Load(port, kind, "fake", concurrency=3, requests=12, duration_s=30, tokens=20)
    outcome = await drive(load)
    server.close()
    assert (outcome.answered, outcome.failed, outcome.first_failure) == (12, 0, "")
    assert counts == {kind.replace("-", "_"): 12}


@pytest.mark.parametrize(("pair", "reads"), streams().items(), ids=str)
@pytest.mark.parametrize("together", [True, False])
def test_the_fake_upstream_speaks_each_format_as_its_decoder_reads_it(
    pair: tuple[str, str], reads: list[bytes], together: bool
) -> None:
    wire = wire_of(*pair)
    assert wire is not None
    decoder = wire.stream_decoder()
    deltas = [delta for data in ([b"".join(reads)] if together else reads) for delta in decoder.feed(data)]
    deltas += [] if decoder.done else decoder.eof()
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == WORD * TOKENS
    assert isinstance(deltas[-1], Finish)
    assert deltas[-1].usage is not None
    assert (deltas[-1].reason, deltas[-1].usage.output_tokens) == ("stop", TOKENS)


def test_the_bench_of_formats_has_a_model_for_each_that_there_is() -> None:
    settings = tomllib.loads((CONFIGS / "formats.toml").read_text().replace("$port", "1"))
    named = {each["model"]: (each["format"], each["cloud"]) for each in settings["deployments"]}
    assert named.keys() == set(formats.MODELS.values())
    assert formats.MODELS.keys() == formats.ASKED.keys()
    assert {wire_format for wire_format, _ in named.values()} == FORMATS.keys()
    for label, model in formats.MODELS.items():
        assert label.split(" ")[0] == named[model][0]


async def test_client_counts_a_short_answer_as_failed() -> None:
    answers = Answers(tokens=5, group=5)
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(answers, 0.0, {}), "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    load = Load(port, "chat-json", "fake", concurrency=1, requests=2, duration_s=30, tokens=20)
    outcome = await drive(load)
    server.close()
    assert (outcome.answered, outcome.failed) == (0, 2)
    assert "5 words of 20" in outcome.first_failure


def test_every_request_of_a_load_differs() -> None:
    load = Load(1, "response-json", "fake", concurrency=1, requests=2, duration_s=1)
    assert request_bytes(load, 1) != request_bytes(load, 2)


async def test_reference_log_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    log = ReferenceLog(tmp_path / "log.db")
    await asyncio.gather(*(log.append(worker, 1, b"record") for worker in range(20)))
    await log.append(3, 2, b"record")
    await log.close()
    assert log.records == 21
    assert 2 <= log.commits <= 21


async def test_the_soak_runs_in_small_over_the_store_as_it_is_now(tmp_path: Path) -> None:
    small = soak.Soak(turns=40, sessions=4, concurrency=2)
    await soak.soak(small, tmp_path)
    assert small.done == 40
    assert len(small.resident_mb) == len(small.append_p99_ms) == soak.PARTS
