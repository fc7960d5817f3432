"""The sandbox as a tool host: its tools, its workspaces, and what becomes of runs that are cut off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.tools.box import call, needs_sandbox, none_with, python, sandbox, shell, until

from stateline.core.limits_tools import SANDBOX_CODE_BYTES_MAX, SANDBOX_RESULTS_KEPT
from stateline.core.tools import ToolError
from stateline.tools import sandbox as module
from stateline.tools.sandbox import Sandbox, Unavailable


@pytest.fixture
async def box(tmp_path: Path) -> AsyncGenerator[Sandbox]:
    async with sandbox(tmp_path, wall_s=20) as made:
        yield made


def files(folder: Path) -> list[Path]:
    return sorted((folder / "workspaces").iterdir())


@needs_sandbox
async def test_its_tools_are_idempotent_and_run(box: Sandbox) -> None:
    assert [(tool.name, tool.effect) for tool in await box.tools()] == [
        ("run_python", "idempotent"),
        ("run_shell", "idempotent"),
    ]
    assert (await python(box, "print('é' * 3)")).output == "ééé\n"
    assert (await shell(box, "echo out; echo err >&2")).output == "out\nerr\n"
    assert (await shell(box, ":")).output == "[no output]\n"
    assert not (await shell(box, ":")).failed


@needs_sandbox
async def test_the_workspace_outlives_the_server_and_is_the_sessions_own(box: Sandbox, tmp_path: Path) -> None:
    await shell(box, "mkdir -p a/b; echo text > a/b/c; ln -s a/b/c link; ln a/b/c hard; chmod 755 a/b/c; chmod 0 a/b")
    async with sandbox(tmp_path) as again:
        result = await shell(again, "cat link; stat -c %h,%a hard; pwd; ls")
        assert result.output == "text\n2,755\n/workspace\na\nhard\nlink\n"
        assert (await shell(again, "ls", session="two")).output == "[no output]\n"


@needs_sandbox
async def test_modules_of_the_workspace_are_imported(box: Sandbox) -> None:
    await shell(box, "echo 'x = 5' > helper.py")
    assert (await python(box, "import helper; print(helper.x)")).output == "5\n"


@needs_sandbox
async def test_a_call_that_was_answered_is_not_run_again(box: Sandbox, tmp_path: Path) -> None:
    again = call("run_shell", "echo x >> log; cat log", key="s/1/2")
    assert await box.look_up(again) is None
    first = await box.call(again)
    assert first.output == "x\n"
    assert await box.call(again) == first
    assert await box.look_up(again) == first
    async with sandbox(tmp_path) as restarted:
        assert await restarted.call(again) == first
    for _ in range(SANDBOX_RESULTS_KEPT):
        await shell(box, "true")
    assert await box.look_up(again) is None


@needs_sandbox
async def test_runs_of_one_session_go_one_after_the_other(box: Sandbox) -> None:
    code = "n = int(open('n').read()) if __import__('os').path.exists('n') else 0; open('n', 'w').write(str(n + 1))"
    await asyncio.gather(*(python(box, code) for _ in range(5)))
    assert (await shell(box, "cat n")).output == "5\n"


@needs_sandbox
async def test_a_call_that_waits_too_long_for_its_turn_is_told(tmp_path: Path) -> None:
    async with sandbox(tmp_path, runs_max=1) as box:
        long = asyncio.create_task(shell(box, "echo up; sleep 98763"))
        await until("98763")
        with pytest.raises(ToolError) as raised:
            await shell(box, "true", session="two", timeout_s=0.1)
        assert (raised.value.code, raised.value.sent, raised.value.retryable) == ("sandbox_busy", False, True)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        assert not (await shell(box, "true", session="two")).failed


@needs_sandbox
async def test_a_call_has_no_more_time_than_its_own(box: Sandbox) -> None:
    result = await shell(box, "sleep 60", timeout_s=0.5)
    assert result.failed
    assert "ran longer than 0.5 seconds" in str(result.output)


@needs_sandbox
async def test_cancelling_kills_everything_and_changes_nothing(box: Sandbox, tmp_path: Path) -> None:
    await shell(box, "echo before > file")
    running = asyncio.create_task(shell(box, "echo after > file; setsid sleep 98764 & sleep 98764"))
    await until("98764", 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await none_with("98764")
    assert len(files(tmp_path)) == 1
    assert (await shell(box, "cat file")).output == "before\n"


@needs_sandbox
async def test_a_server_that_is_killed_takes_its_runs_with_it(tmp_path: Path) -> None:
    code = (
        "import uvloop\nfrom pathlib import Path\nfrom tests.tools.box import sandbox, shell\n"
        f"async def main():\n    async with sandbox(Path({str(tmp_path)!r})) as box:\n"
        "        await shell(box, 'echo half > file')\n"
        "        await shell(box, 'echo after > file; setsid sleep 98765 & sleep 98765')\nuvloop.run(main())"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, start_new_session=True)
    try:
        await until("sleep\0" + "98765", 2)
    finally:
        os.kill(server.pid, signal.SIGKILL)
        await server.wait()
    await none_with("sleep\0" + "98765")
    async with sandbox(tmp_path) as box:
        assert (await shell(box, "cat file")).output == "half\n"


@needs_sandbox
async def test_forgetting_erases_the_workspace_and_ends_what_runs(box: Sandbox, tmp_path: Path) -> None:
    first = call("run_shell", "echo secret-of-theirs > file", key="a")
    await box.call(first)
    await shell(box, "echo other > file", session="two")
    assert len(files(tmp_path)) == 2
    running = asyncio.create_task(shell(box, "sleep 98766"))
    await until("98766")
    await box.forget("one")
    with pytest.raises(ToolError) as raised:
        await running
    assert (raised.value.code, raised.value.sent) == ("sandbox_ended", True)
    assert len(files(tmp_path)) == 1
    assert b"secret-of-theirs" not in b"".join(path.read_bytes() for path in files(tmp_path))
    assert await box.look_up(first) is None
    await box.forget("one")
    assert (await shell(box, "ls")).output == "[no output]\n"
    assert (await shell(box, "cat file", session="two")).output == "other\n"


@needs_sandbox
async def test_a_link_out_of_the_workspace_leads_nowhere(box: Sandbox, tmp_path: Path) -> None:
    """Neither inside nor for the server, which has one file a session and never unpacks it."""
    target = tmp_path / "of-the-host.txt"
    target.write_text("the host's")
    result = await shell(box, f"ln -s {target} a; ln -s / root; ln -s ../../../.. up; cat a")
    assert result.failed
    assert "No such file or directory" in str(result.output)
    assert "the host's" not in str((await shell(box, "cat a root/etc/shadow up/etc/hosts; true")).output)
    result = await python(box, f"open({str(target)!r}, 'w').write('overwritten')")
    assert result.failed
    assert all(path.is_file() and not path.is_symlink() for path in files(tmp_path))
    assert b"the host's" not in files(tmp_path)[0].read_bytes()
    await box.forget("one")
    assert target.read_text() == "the host's"
    assert files(tmp_path) == []


@needs_sandbox
async def test_a_link_in_the_place_of_a_workspace_is_not_followed(box: Sandbox, tmp_path: Path) -> None:
    await shell(box, "echo x > file")
    [file] = files(tmp_path)
    moved = file.rename(tmp_path / "elsewhere")
    file.symlink_to(moved)
    with pytest.raises(ToolError) as raised:
        await shell(box, "cat file")
    assert raised.value.code == "sandbox_workspace"
    await box.forget("one")
    assert moved.exists()


@needs_sandbox
@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\0\x02{}", b"\xff\xff\xff\xff{"])
async def test_a_broken_workspace_is_told_and_not_overwritten(box: Sandbox, tmp_path: Path, content: bytes) -> None:
    await shell(box, "echo x > file")
    [file] = files(tmp_path)
    file.write_bytes(content)
    with pytest.raises(ToolError) as raised:
        await shell(box, "cat file")
    assert (raised.value.code, raised.value.sent) == ("sandbox_workspace", False)
    assert file.read_bytes() == content


@needs_sandbox
async def test_another_tenants_workspace_is_not_opened(box: Sandbox) -> None:
    await shell(box, "echo x > file")
    other = call("run_shell", "cat file")
    with pytest.raises(ToolError) as raised:
        await box.call(type(other)(tool="run_shell", arguments=other.arguments, key="k", tenant="b", session="one"))
    assert raised.value.code == "sandbox_workspace"


@needs_sandbox
async def test_a_workspace_cut_short_changes_nothing(box: Sandbox, tmp_path: Path) -> None:
    await shell(box, "head -c 3000000 /dev/urandom > file")
    [file] = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1_000_000])
    with pytest.raises(ToolError) as raised:
        await shell(box, "cat file", timeout_s=1)
    assert raised.value.code == "sandbox_broken"
    assert file.read_bytes() == whole[:-1_000_000]


@needs_sandbox
async def test_pipes_and_sockets_are_not_kept(box: Sandbox) -> None:
    result = await python(
        box, "import os, socket\nos.mkfifo('pipe')\nsocket.socket(socket.AF_UNIX).bind('socket')\nopen('file', 'w')"
    )
    assert result.output == "[2 pipes, sockets or devices in the workspace are not kept]\n"
    assert (await shell(box, "ls")).output == "file\n"


@needs_sandbox
async def test_folders_within_folders_without_end_are_not_kept(box: Sandbox) -> None:
    result = await python(box, "import os\nfor _ in range(1500):\n    os.mkdir('dd')\n    os.chdir('dd')")
    assert result.failed
    assert "the workspace is as it was before this run: a path in it has more than 2048 bytes" in str(result.output)


@needs_sandbox
async def test_names_that_are_no_text_are_kept(box: Sandbox) -> None:
    await python(box, "open(b'\\xff\\n;rm -rf', 'w').write('x'); open('a' * 255, 'w')")
    assert (await python(box, "import os; print(sorted(os.listdir(b'.'))[1], len(os.listdir('.')))")).output == (
        "b'\\xff\\n;rm -rf' 2\n"
    )


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("run_python", "{}"),
        ("run_python", '{"code": 1}'),
        ("run_shell", "["),
        ("run_ruby", "{}"),
        ("run_shell", '{"command": "", "x": 1}'),
    ],
)
async def test_arguments_that_do_not_fit_are_an_answer(box: Sandbox, tool: str, arguments: str) -> None:
    wrong = call("run_python", "")
    result = await box.call(type(wrong)(tool=tool, arguments=arguments, key="k", tenant="t", session="s"))
    assert result.failed
    assert "do not fit" in str(result.output) or "no tool" in str(result.output)


@needs_sandbox
async def test_code_has_its_bound(box: Sandbox) -> None:
    assert (await python(box, "x = 1\n" + "#" * (SANDBOX_CODE_BYTES_MAX - 6))).output == "[no output]\n"
    assert "bytes. Write less" in str((await python(box, "#" * (SANDBOX_CODE_BYTES_MAX + 1))).output)


async def test_without_bubblewrap_nothing_runs(box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HOST_PATH", str(tmp_path))
    with pytest.raises(Unavailable) as raised:
        await shell(box, f"touch {tmp_path}/ran")
    assert raised.value.code == "sandbox_unavailable"
    assert not raised.value.sent
    assert "apt-get install bubblewrap" in raised.value.message
    with pytest.raises(Unavailable):
        await box.tools()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("said", ["bwrap: No permissions to create new namespace", ""])
async def test_where_namespaces_are_refused_nothing_runs(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """With a bubblewrap that fails as the real one does there."""
    fake = tmp_path / "bin"
    fake.mkdir(mode=0o755)
    for name in ("bwrap", "setpriv"):
        (fake / name).write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
        (fake / name).chmod(0o755)
    monkeypatch.setattr(module, "_HOST_PATH", f"{fake}:/usr/bin:/bin")
    with pytest.raises(Unavailable) as raised:
        await python(box, "print(1)")
    assert said in raised.value.message
    assert "user namespaces" in raised.value.message


@needs_sandbox
async def test_closing_kills_what_runs(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as box:
        running = asyncio.create_task(shell(box, "sleep 98767"))
        await until("98767")
        await box.close()
        with pytest.raises(ToolError, match="the server stops"):
            await running
    await none_with("98767")
    with contextlib.suppress(FileNotFoundError):
        assert files(tmp_path) == []
