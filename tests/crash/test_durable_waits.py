"""What a plain response waits for, as strace sees the real server: two syncs, and then the answer."""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
from pathlib import Path

import pytest
from tests.crash.harness import running_server, until

from stateline.testing import Answer, ScriptedUpstream

RESPONSES = 20
LINE = re.compile(r"^\d+ +(?:<\.\.\. )?(fdatasync|write)\b(.*)$")


async def test_a_plain_response_costs_two_durable_waits_and_is_answered_after_the_second(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "strace"
    async with (
        ScriptedUpstream(Answer(text="hello")) as url,
        running_server(tmp_path, url) as server,
        server.client() as client,
    ):
        assert server.process is not None
        await client.responses.create(model="scripted", input="warm up")
        traced = await asyncio.create_subprocess_exec(
            *(strace, "-f", "-p", str(server.process.pid), "-e", "trace=fdatasync,write", "-s", "16", "-o", str(log)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert traced.stderr is not None
        said = (await traced.stderr.readline()).decode()
        if "attached" not in said:
            pytest.skip(f"this machine does not let strace attach: {said}")
        for number in range(RESPONSES):
            response = await client.responses.create(model="scripted", input=f"say {number}")
            assert response.output_text == "hello"
        traced.terminate()
        await traced.wait()
        await until(log.exists)
    waits: list[int] = []
    syncs = 0
    for line in log.read_text().splitlines():
        if (found := LINE.match(line)) is None:
            continue
        if found[1] == "fdatasync" and found[2].rstrip().endswith("= 0"):
            syncs += 1
        elif '"HTTP/1.1 200' in line:
            waits.append(syncs)
            syncs = 0
    assert len(waits) == RESPONSES
    # The lease of the node is renewed now and then, which is a commit of its own.
    assert min(waits) == statistics.median(waits) == 2
    assert sum(waits) <= 2 * RESPONSES + 3
