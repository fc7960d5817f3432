"""What the documentation shows, run: against the real server, with a scripted model behind it.

A fenced block is run where its language is followed by `run`, as in ```` ```python run ````:

- `console`: each block by itself, in a shell that ends at the first failure;
- `python`: the blocks of a page are one program, in their order;
- `toml`: loaded as a configuration.

They name the server's usual address and the local model; both are replaced by what the test has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.crash.harness import Server, running_server, upstream_process

from stateline.config import LOCAL_MODEL, load
from stateline.testing import Answer, Gate, ScriptedUpstream

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TIMEOUT_S = 60
_FENCE = re.compile(r"^```(\w+) run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in _FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@contextlib.asynccontextmanager
async def serving(folder: Path, base_url: str) -> AsyncGenerator[Server]:
    """A server that knows the local model's name, with a scripted upstream behind it."""
    settings = f"""
[[deployments]]
name = "documented"
model = "{LOCAL_MODEL}"
cloud = "openai-compatible"
base_url = "{base_url}"
upstream_model = "scripted"
auth = "none"
"""
    async with running_server(folder, base_url, settings=settings) as server:
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[Server]:
    async with upstream_process("auto") as base_url, serving(tmp_path, base_url) as server:
        yield server


async def run(server: Server, *command: str) -> str:
    """What a command writes, run in the server's folder, with this project's programs on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=server.folder,
        env={**os.environ, "PATH": path},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0, f"{command[-1]}\n{out.decode()}"
    return out.decode()


def here(code: str, server: Server) -> str:
    return code.replace("http://127.0.0.1:8700", server.root)


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
async def test_python_on_the_page_runs(page: Path, server: Server) -> None:
    program = "\n".join(blocks(page, "python"))
    await run(server, sys.executable, "-W", "error", "-c", here(program, server))


async def test_the_client_on_the_durability_page_outlives_the_server(tmp_path: Path) -> None:
    """The same program, with the server killed in the middle of its answer."""
    program = blocks(ROOT / "docs" / "durability.md", "python")[0]
    gate = Gate()
    answers = (Answer(text="a first attempt that never ends", gate=gate), Answer(text="a second attempt"))
    async with ScriptedUpstream(answers) as base_url, serving(tmp_path, base_url) as server:
        running = asyncio.create_task(run(server, sys.executable, "-c", here(program, server)))
        gate.step(3)
        async with asyncio.timeout(TIMEOUT_S):
            await gate.held()
        await server.kill()
        await server.start()
        assert await running == "a second attempt\n"


@pytest.mark.parametrize("page", pages_with("console"), ids=name_of)
async def test_commands_on_the_page_run(page: Path, server: Server) -> None:
    for block in blocks(page, "console"):
        await run(server, "bash", "-eu", "-c", here(block.replace("curl ", "curl -sS --fail-with-body "), server))


@pytest.mark.parametrize("page", pages_with("toml"), ids=name_of)
def test_configuration_on_the_page_is_valid(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        file = tmp_path / "stateline.toml"
        file.write_text(block)
        load(file, {})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_on_the_page_lead_somewhere(page: Path) -> None:
    text = _ANY_FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if heading:
            assert heading in headings(target), f"{name_of(page)} links to {link}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _ANY_FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
