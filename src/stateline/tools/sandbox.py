"""A sandbox for code that a model wrote, over bubblewrap (docs/sandbox.md).

Each run is a sandbox of its own: no network, a read-only root with the system's programs and nothing else of this
machine, no capability, a filter of system calls, and limits that the kernel or the launcher inside holds. The
workspace is in memory while it runs, so that a quota on bytes and files holds hard and without root; it is packed
after the run and lies in one file until the next.

Runs are ``idempotent``: they change their session's workspace alone, which is replaced whole, together with the
answer. A run that was cut off has changed nothing and is run again from the same files; one that was finished is
answered from its record and not run again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import os
import platform
import shutil
import struct
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Coroutine, Sequence
from pathlib import Path
from signal import Signals
from typing import Any, BinaryIO, Literal

import msgspec

from stateline.core.limits_tools import (
    SANDBOX_CODE_BYTES_MAX,
    SANDBOX_FILES_OPEN_MAX,
    SANDBOX_GRACE_S,
    SANDBOX_RESULTS_KEPT,
    SANDBOX_SHM_BYTES,
    SandboxLimits,
)
from stateline.core.tools import Tool, ToolCall, ToolError, ToolResult
from stateline.tools import sandbox_seccomp as seccomp
from stateline.tools.workspaces import EMPTY, FRAME_MAX, Answer, State, Workspaces, frame, framed, receive

_LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
_PATH = "/usr/local/bin:/usr/bin:/bin"
_READ_ONLY = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/bin", "/usr/local/lib")
_ALSO = ("/usr/share/zoneinfo", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/etc/python3")
_AT_ROOT = ("/bin", "/lib", "/lib32", "/lib64")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_NOBODY = 65534
_INSIDE = 1000
"""The user and group inside; outside it is the server's, or nobody where the server is root."""
_NICE = 10
_MEGABYTE = 1024 * 1024
_HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUTCOME_MAX = 32 * _MEGABYTE
_SAID_MAX = 4096
_ENTRY_BYTES = 8192
"""What a file takes of an archive beside its content: its headers, with the longest path, and its last block."""

_INSTALL = "install bubblewrap (Debian and Ubuntu: apt-get install bubblewrap)"
_ALLOW = (
    "let this user make user namespaces: sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 "
    "where it exists, an AppArmor profile for bwrap on Ubuntu; in a container, see docs/sandbox.md"
)
_ENVIRON = {
    "PATH": _PATH,
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own
    "TMPDIR": "/tmp",  # noqa: S108
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/workspace",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}
_STOPPED = {
    "time": "it ran longer than {wall_s:g} seconds, and all its processes were killed",
    "memory": "its processes took more than {memory_mb} MB together, and were killed",
    "processes": "it had more than {processes_max} processes, and they were killed",
    "lost": "its end was not seen",
}

TOOLS = (
    Tool(
        name="run_python",
        description=(
            "Run a Python 3 program in a sandbox without network, and return what it prints. The current folder, "
            "/workspace, keeps its files for later runs of this conversation; everything else is gone afterwards."
        ),
        parameters={
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The whole program."}},
            "required": ["code"],
            "additionalProperties": False,
        },
        effect="idempotent",
    ),
    Tool(
        name="run_shell",
        description=(
            "Run a shell script in a sandbox without network, and return what it prints. The current folder, "
            "/workspace, keeps its files for later runs of this conversation; everything else is gone afterwards."
        ),
        parameters={
            "type": "object",
            "properties": {"command": {"type": "string", "description": "The script, of one line or more."}},
            "required": ["command"],
            "additionalProperties": False,
        },
        effect="idempotent",
    ),
)


class _Python(msgspec.Struct, forbid_unknown_fields=True):
    code: str


class _Shell(msgspec.Struct, forbid_unknown_fields=True):
    command: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the launcher reports of a run.

    Attributes:
        exit, signal: how the program ended; neither where it was stopped.
        head, tail, total: its output's beginning and end, and how many bytes it was.
        lost: why the workspace is not kept; empty where it is.
        special: files that are neither files, folders nor links, and are not kept.
    """

    exit: int | None
    signal: int | None
    stopped: Literal["", "time", "memory", "processes", "lost"]
    head: bytes
    tail: bytes
    total: int
    lost: str
    special: int


class Unavailable(ToolError):
    """The sandbox cannot work on this machine. Nothing is ever run outside of it.

    Attributes:
        todo: what the operator can do.
    """

    code = "sandbox_unavailable"
    status = 503
    blame = "operator"

    def __init__(self, why: str, todo: str) -> None:
        super().__init__(f"The sandbox cannot work here: {why}; {todo}.", sent=False)
        self.why = why
        self.todo = todo


class Sandbox:
    """The tool host. ``path`` is the folder of the workspaces; nothing is made there before the first run."""

    label = "sandbox"

    def __init__(self, path: Path, limits: SandboxLimits) -> None:
        self._workspaces = Workspaces(path)
        self._limits = limits
        self._running = asyncio.Semaphore(limits.runs_max)
        self._locks: dict[str, _Turn] = {}
        self._able = False
        self._trying = asyncio.Lock()

    async def tools(self) -> Sequence[Tool]:
        await self.check()
        return TOOLS

    async def check(self) -> None:
        """See once that it works here, by running nothing in a sandbox.

        Raises:
            Unavailable: it does not.
        """
        async with self._trying:
            if not self._able:
                await asyncio.to_thread(self._workspaces.clean)
                await try_out()
                self._able = True

    async def call(self, call: ToolCall) -> ToolResult:
        """Run a call; cancelling it kills what runs.

        Raises:
            ToolError: `sandbox_unavailable`, `sandbox_busy`, `sandbox_workspace` or `sandbox_broken`.
        """
        text = _text_of(call)
        if isinstance(text, ToolResult):
            return text
        await self.check()
        turn = self._locks.setdefault(call.session, _Turn())
        turn.users += 1
        begun = False
        try:
            async with asyncio.timeout(call.timeout_s) as waiting, turn.lock, self._running:
                begun = True
                waiting.reschedule(None)
                if turn.ended:
                    raise _ended(turn.ended)
                turn.task = asyncio.create_task(self._run(call, text))
                return await turn.task
        except TimeoutError as error:
            if begun:
                raise
            raise ToolError("No sandbox was free in time.", code="sandbox_busy", sent=False, retryable=True) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if turn.ended and task is not None and not task.cancelling():
                raise _ended(turn.ended) from None
            raise
        finally:
            turn.task = None
            self._leave(call.session, turn)

    async def look_up(self, call: ToolCall) -> ToolResult | None:
        state, file = await asyncio.to_thread(self._workspaces.open, call.tenant, call.session)
        if file is not None:
            file.close()
        return _answered(state, call.key)

    async def forget(self, session: str) -> None:
        """Erase a session's workspace and what its calls were answered. What still runs for it is killed first."""
        turn = self._locks.setdefault(session, _Turn())
        turn.users += 1
        turn.end("the session was erased")
        try:
            async with turn.lock:
                await asyncio.to_thread(self._workspaces.erase, session)
        finally:
            self._leave(session, turn)

    async def close(self) -> None:
        """Kill what runs."""
        for turn in self._locks.values():
            turn.end("the server stops")

    def _leave(self, session: str, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            self._locks.pop(session, None)

    async def _run(self, call: ToolCall, text: str) -> ToolResult:
        workspaces = self._workspaces
        state, archive = await asyncio.to_thread(workspaces.open, call.tenant, call.session)
        try:
            if (before := _answered(state, call.key)) is not None:
                return before
            limits = msgspec.structs.replace(self._limits, wall_s=min(self._limits.wall_s, call.timeout_s))
            order = order_of(limits, text, script=call.tool == "run_shell")
            path, file = await asyncio.to_thread(workspaces.create)
            try:
                async with _started() as process:
                    outcome = await _outcome(process, order, archive, limits)
                    result = _result(outcome, limits)
                    answers = (*state.answers, Answer(call.key, result))[-SANDBOX_RESULTS_KEPT:]
                    head = framed(msgspec.json.encode(msgspec.structs.replace(state, answers=answers)))
                    await asyncio.to_thread(file.write, head)
                    if outcome.lost:
                        await asyncio.to_thread(_copy_archive, archive, file)
                    else:
                        await _keep(process, file, limits)
                await _finished(asyncio.to_thread(workspaces.replace, call.session, path, file))
                return result
            finally:
                file.close()
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ToolError(
                f"The sandbox's workspace cannot be kept: {error.strerror}.", code="sandbox_workspace", sent=True
            ) from error
        finally:
            if archive is not None:
                archive.close()


class _Turn:
    """Whose turn it is in a session: one run at a time, for they share a workspace."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.task: asyncio.Task[ToolResult] | None = None
        self.ended = ""

    def end(self, why: str) -> None:
        self.ended = why
        if self.task is not None:
            self.task.cancel()


def _ended(why: str) -> ToolError:
    return ToolError(f"The run was killed, or not begun: {why}.", code="sandbox_ended", sent=True)


# -- a run -----------------------------------------------------------------------------------------------


def _text_of(call: ToolCall) -> str | ToolResult:
    """What is to be run, or what to tell the model."""
    try:
        if call.tool == "run_python":
            text = msgspec.json.decode(call.arguments, type=_Python).code
        elif call.tool == "run_shell":
            text = msgspec.json.decode(call.arguments, type=_Shell).command
        else:
            return ToolResult(output=f"The sandbox has no tool {call.tool[:64]!r}.", failed=True)
    except msgspec.MsgspecError as error:
        return ToolResult(output=f"The arguments do not fit: {error}.", failed=True)
    if len(text.encode(errors="surrogatepass")) > SANDBOX_CODE_BYTES_MAX:
        return ToolResult(output=f"It has more than {SANDBOX_CODE_BYTES_MAX} bytes. Write less at once.", failed=True)
    return text


def order_of(limits: SandboxLimits, text: str, *, script: bool) -> dict[str, Any]:
    """What the launcher is to do, with every limit in the unit of the kernel."""
    file = "/tmp/main.sh" if script else "/tmp/main.py"  # noqa: S108 - the sandbox's own
    program = shutil.which("bash", path=_PATH) or "/bin/sh" if script else _python()
    memory, disk = limits.memory_mb * _MEGABYTE, limits.disk_mb * _MEGABYTE
    return {
        "command": [program, file],
        "file": file,
        "text": text,
        "environ": _ENVIRON,
        "seccomp": base64.b64encode(seccomp.program(platform.machine())).decode(),
        "wall_s": limits.wall_s,
        "memory_bytes": memory,
        "disk_bytes": disk,
        "files": limits.files_max,
        "shm_bytes": SANDBOX_SHM_BYTES,
        "processes": limits.processes_max,
        "output_bytes": limits.output_kb * 1024,
        "nice": _NICE,
        "rlimits": {
            "RLIMIT_AS": memory,
            "RLIMIT_CPU": math.ceil(limits.wall_s) + 1,
            "RLIMIT_FSIZE": disk,
            # One more: the launcher counts, too.
            "RLIMIT_NPROC": limits.processes_max + 1,
            "RLIMIT_NOFILE": SANDBOX_FILES_OPEN_MAX,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_RTPRIO": 0,
        },
    }


def _python() -> str:
    return shutil.which("python3", path=_PATH) or "/usr/bin/python3"


def command() -> list[str]:
    """The program that makes a sandbox and starts the launcher in it.

    Where the server is root, it is nobody who makes it: the kernel does not hold root to a number of processes, and
    what broke out would be root.
    """
    line: list[str] = []
    if os.geteuid() == 0:
        line = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--inh-caps=-all", "--"]
    line += ["bwrap", "--unshare-all", "--unshare-user", "--uid", str(_INSIDE), "--gid", str(_INSIDE)]
    line += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]
    # To mount its bounded file systems; the launcher gives it away before anything else.
    line += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    for path in _READ_ONLY:
        line += ["--ro-bind-try", path, path]
    for path in _ALSO:
        line += ["--ro-bind-try", path, path]
    for path in _AT_ROOT:
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        else:
            line += ["--ro-bind-try", path, path]
    line += ["--dir", "/etc", "--dir", "/tmp", "--dir", "/workspace", "--dir", "/dev/shm", "--proc", "/proc"]  # noqa: S108
    for name in _DEVICES:
        line += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        line += ["--symlink", f"/proc/self/{target}", f"/dev/{name}"]
    return [*line, "--chdir", "/", "--", _python(), "-I", "-S", "-c", _LAUNCHER.read_text(encoding="utf-8")]


@contextlib.asynccontextmanager
async def _started() -> AsyncGenerator[Process]:
    """A sandbox with its launcher. On leaving, all that is in it is dead."""
    process = await asyncio.create_subprocess_exec(
        *command(),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={"PATH": _HOST_PATH},
        cwd="/",
        start_new_session=True,
        limit=FRAME_MAX,
    )
    try:
        yield process
    finally:
        # What it started dies with it; and it ends by itself where its input does.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await _finished(process.wait())


async def _finished(work: Coroutine[Any, Any, object]) -> None:
    """Await something to its end, and be cancelled only then."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@contextlib.asynccontextmanager
async def _answering(process: Process, within_s: float) -> AsyncGenerator[tuple[StreamWriter, StreamReader]]:
    """Its two pipes. What goes wrong on them is the sandbox's failure, told with what it wrote of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(within_s):
            yield process.stdin, process.stdout
    except (asyncio.IncompleteReadError, ValueError, ConnectionError, TimeoutError) as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        said = (await process.stderr.read(_SAID_MAX)).decode(errors="replace").strip()
        last = said.splitlines()[-1] if said else "it ended without a word"
        raise ToolError(f"The sandbox broke: {last}", code="sandbox_broken", sent=True, retryable=True) from error


async def _send(to: StreamWriter, order: dict[str, Any], archive: BinaryIO | None) -> None:
    """An order and its workspace. The pipe stays open, since its end would end the run."""
    to.write(framed(msgspec.json.encode(order)))
    while archive is not None and (data := await asyncio.to_thread(archive.read, _MEGABYTE)):
        to.write(data)
        await to.drain()
    if archive is None:
        to.write(EMPTY)
    await to.drain()


async def _outcome(process: Process, order: dict[str, Any], archive: BinaryIO | None, limits: SandboxLimits) -> Outcome:
    async with _answering(process, limits.wall_s + _grace_s(limits)) as (to, source):
        await _send(to, order, archive)
        return msgspec.json.decode(await frame(source, _OUTCOME_MAX), type=Outcome)


async def _keep(process: Process, file: BinaryIO, limits: SandboxLimits) -> None:
    most = limits.disk_mb * _MEGABYTE + (limits.files_max + 2) * _ENTRY_BYTES
    async with _answering(process, _grace_s(limits)) as (_, source):
        await receive(source, file, most)


def _grace_s(limits: SandboxLimits) -> float:
    """To start, and to unpack or pack the largest workspace that may be, on a busy machine."""
    return SANDBOX_GRACE_S + limits.disk_mb / 10 + limits.files_max / 200


def _copy_archive(archive: BinaryIO | None, file: BinaryIO) -> None:
    """What the workspace was before the run, where what it is now cannot be kept."""
    if archive is None:
        file.write(EMPTY)
        return
    archive.seek(0)
    archive.seek(struct.unpack(">I", archive.read(4))[0], os.SEEK_CUR)
    shutil.copyfileobj(archive, file, _MEGABYTE)


def _answered(state: State, key: str) -> ToolResult | None:
    return next((each.result for each in state.answers if each.key == key), None)


def _result(outcome: Outcome, limits: SandboxLimits) -> ToolResult:
    """What the model is told: the output, and in brackets what became of the run."""
    left_out = outcome.total - len(outcome.head) - len(outcome.tail)
    text = outcome.head.decode(errors="replace")
    if left_out:
        text += f"\n[{left_out} bytes of output are left out here]\n"
    text += outcome.tail.decode(errors="replace")
    notes: list[str] = []
    if outcome.stopped:
        notes.append("stopped: " + _STOPPED[outcome.stopped].format(**msgspec.structs.asdict(limits)))
    elif outcome.signal:
        notes.append(f"killed by {_signal(outcome.signal)}")
    elif outcome.exit:
        notes.append(f"exit status {outcome.exit}")
    if outcome.special:
        notes.append(f"{outcome.special} pipes, sockets or devices in the workspace are not kept")
    if outcome.lost:
        notes.append(f"the workspace is as it was before this run: {outcome.lost}")
    if text and not text.endswith("\n"):
        text += "\n"
    text += "".join(f"[{note}]\n" for note in notes)
    failed = bool(outcome.stopped or outcome.signal or outcome.exit or outcome.lost)
    return ToolResult(output=text or "[no output]\n", failed=failed)


def _signal(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


# -- whether it can work -----------------------------------------------------------------------------------


def missing() -> Unavailable | None:
    """What is not there at all; None where a try makes sense."""
    if not sys.platform.startswith("linux") or not seccomp.known(platform.machine()):
        return Unavailable(f"this is {sys.platform} on {platform.machine()}", "run Stateline on Linux, x86_64 or arm64")
    if shutil.which("bwrap", path=_HOST_PATH) is None:
        return Unavailable("there is no bubblewrap", _INSTALL)
    if shutil.which("python3", path=_PATH) is None:
        return Unavailable(f"there is no python3 on {_PATH}", "install the system's Python 3")
    if os.geteuid() == 0 and shutil.which("setpriv", path=_HOST_PATH) is None:
        return Unavailable("the server is root, and there is no setpriv", "install util-linux, or run it as a user")
    return None


async def try_out() -> None:
    """Run nothing in a sandbox.

    Raises:
        Unavailable: that does not work here.
    """
    if (problem := missing()) is not None:
        raise problem
    limits = SandboxLimits(wall_s=10)
    try:
        async with _started() as process:
            outcome = await _outcome(process, order_of(limits, "exit 0", script=True), None, limits)
    except OSError as error:
        raise Unavailable(f"bubblewrap cannot be started: {error.strerror}", _INSTALL) from error
    except ToolError as error:
        raise Unavailable(error.message.removeprefix("The sandbox broke: "), _ALLOW) from error
    if outcome.exit != 0:
        said = outcome.head.decode(errors="replace").strip() or outcome.stopped
        raise Unavailable(f"a program that does nothing fails in it: {said[:200]}", _ALLOW)
