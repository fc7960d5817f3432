"""Ways out of the sandbox, each tried in a real one: it fails, and the answer says so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.tools.box import needs_sandbox, none_with, python, sandbox, shell

from stateline.core.limits_tools import SANDBOX_FILES_OPEN_MAX
from stateline.tools.sandbox import Sandbox

pytestmark = needs_sandbox
_SYSCALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncGenerator[Sandbox]:
    async with sandbox(tmp_path, wall_s=10, memory_mb=256, disk_mb=8, files_max=200, processes_max=20) as made:
        yield made


# -- the network -----------------------------------------------------------------------------------------


async def test_a_listener_of_the_host_is_not_reached(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = await python(box, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert result.failed
    assert "ConnectionRefusedError" in str(result.output)


@pytest.mark.parametrize("address", ["('1.1.1.1', 53)", "('169.254.169.254', 80)", "('::1', 80, 0, 0)"])
async def test_no_address_is_reached(box: Sandbox, address: str) -> None:
    result = await python(box, f"import socket\nsocket.create_connection({address}[:2], 2)")
    assert result.failed
    assert "OSError" in str(result.output) or "ConnectionRefusedError" in str(result.output)


async def test_names_are_not_looked_up(box: Sandbox) -> None:
    result = await python(box, "import socket\nsocket.getaddrinfo('example.com', 80)")
    assert result.failed
    assert "gaierror" in str(result.output)


@pytest.mark.parametrize("family", [16, 17, 38, 40], ids=["netlink", "packet", "crypto", "vsock"])
async def test_sockets_past_the_network_namespace_are_refused(box: Sandbox, family: int) -> None:
    result = await python(box, f"import socket\nsocket.socket({family}, socket.SOCK_DGRAM)")
    assert result.failed
    assert "Address family not supported" in str(result.output)


async def test_an_abstract_socket_of_the_host_is_not_reached(box: Sandbox) -> None:
    name = f"stateline-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        result = await python(box, f"import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{name}')")
    assert result.failed
    assert "ConnectionRefusedError" in str(result.output)


# -- the host's files, environment and processes ------------------------------------------------------------


async def test_the_hosts_files_are_not_there(box: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("of the host")
    for path in (secret, "/etc/shadow", "/etc/hosts", "/root", "/home", "/var", "/sys", "/run", "/opt", "/srv"):
        result = await shell(box, f"cat {path} || ls {path}")
        assert result.failed, path
        assert "No such file or directory" in str(result.output), path
        assert "of the host" not in str(result.output)


async def test_no_variable_of_the_server_is_inside(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    result = await shell(box, "env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'; exit 7")
    assert "HOME=/tmp" in str(result.output)
    assert "sk-planted" not in str(result.output)
    assert "[exit status 7]" in str(result.output)


async def test_proc_shows_no_process_of_the_host(box: Sandbox) -> None:
    result = await python(box, "import os\nprint(sorted(n for n in os.listdir('/proc') if n.isdigit()))")
    assert str(result.output) == "['1', '2']\n"
    result = await shell(box, f"cat /proc/{os.getpid()}/status")
    assert result.failed
    assert "No such file or directory" in str(result.output)


@pytest.mark.parametrize(
    "path", ["/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/1/cwd/etc/passwd", "/proc/1/fd/0", "/proc/kcore"]
)
async def test_the_launcher_and_the_kernel_are_not_read_through_proc(box: Sandbox, path: str) -> None:
    result = await python(box, f"print(open({path!r}, 'rb').read(64))")
    assert result.failed
    # Not every kernel has all of them.
    assert "PermissionError" in str(result.output) or "FileNotFoundError" in str(result.output)


@pytest.mark.parametrize(
    "path",
    ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/1/oom_score_adj"],
)
async def test_nothing_is_written_through_proc(box: Sandbox, path: str) -> None:
    result = await python(box, f"open({path!r}, 'w').write('1')")
    assert result.failed
    refusals = ("PermissionError", "Read-only file system", "FileNotFoundError")
    assert any(refusal in str(result.output) for refusal in refusals)


async def test_signals_do_not_reach_the_host(box: Sandbox) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:  # noqa: ASYNC220
        result = await python(
            box,
            f"import os, signal\ntry:\n    os.kill({other.pid}, 9)\nexcept ProcessLookupError as e:\n    print(e)\n"
            "for pid in range(3, 70000):\n    try:\n        os.kill(pid, 9)\n        print('hit', pid)\n"
            "    except ProcessLookupError:\n        pass\nos.kill(1, 9)\nos.kill(1, signal.SIGSTOP)\nprint('alive')\n"
            "raise SystemExit(3)",
        )
        assert other.poll() is None
        other.kill()
    assert str(result.output) == "[Errno 3] No such process\nalive\n[exit status 3]\n"
    assert result.failed


# -- the root, mounts, devices, the kernel -------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/new", "/etc/passwd", "/usr/bin/new", "/usr/lib/new", "/dev/new", "/bin/sh", "/etc/new"]
)
async def test_the_root_is_read_only(box: Sandbox, path: str) -> None:
    result = await python(box, f"open({path!r}, 'a').write('x')")
    assert result.failed
    assert "Read-only file system" in str(result.output) or "Permission denied" in str(result.output)


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        ("libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)", "Operation not permitted"),
        ("libc.mount(None, b'/', None, 32 | 4096, None)", "Operation not permitted"),
        ("libc.umount2(b'/tmp', 2)", "Operation not permitted"),
        ("libc.pivot_root(b'/tmp', b'/tmp')", "Operation not permitted"),
        ("libc.chroot(b'/tmp')", "Operation not permitted"),
        ("libc.unshare(0x10000000)", "Operation not permitted"),
        ("libc.unshare(0x20000)", "Operation not permitted"),
        ("libc.setns(os.open('/proc/self/ns/user', 0), 0)", "Operation not permitted"),
        ("libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)", "Operation not permitted"),
        ("libc.syscall(435, 0, 0)", "Function not implemented"),
        ("libc.ptrace(16, 1, 0, 0)", "Operation not permitted"),
        ("libc.syscall(310, 1, 0, 0, 0, 0, 0)", "Operation not permitted"),
        ("libc.syscall(321, 0, 0, 0)", "Operation not permitted"),
        ("libc.syscall(425, 8, 0)", "Operation not permitted"),
        ("libc.syscall(323, 0)", "Operation not permitted"),
        ("libc.syscall(250, 0, 0)", "Operation not permitted"),
        ("libc.syscall(319, b'x', 0)", "Operation not permitted"),
        ("libc.shmget(0, 1 << 30, 0o1600)", "Operation not permitted"),
        ("libc.syscall(304, 0, 0, 0)", "Operation not permitted"),
        ("libc.mknod(b'/tmp/disk', 0o60666, 0xFE00)", "Operation not permitted"),
        ("libc.sethostname(b'x', 1)", "Operation not permitted"),
        ("libc.setuid(0)", "Invalid argument"),
        ("libc.reboot(0)", "Operation not permitted"),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
async def test_the_kernel_refuses(box: Sandbox, call: str, refusal: str) -> None:
    code = f"{_SYSCALL}if {call} < 0:\n    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))"
    result = await python(box, code)
    assert result.failed
    assert refusal in str(result.output)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is x86_64's")
async def test_another_binary_interface_is_no_way_round_the_filter(box: Sandbox) -> None:
    result = await python(box, f"{_SYSCALL}print(libc.syscall(0x40000000 | 165, 0, 0, 0, 0, 0))")
    assert result.failed
    assert "[killed by SIGSYS]" in str(result.output)


async def test_no_capability_is_left_and_none_is_gained(box: Sandbox) -> None:
    result = await shell(box, "grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp:' /proc/self/status; su -c id; exit 1")
    lines = str(result.output).splitlines()
    assert [line.split()[1] for line in lines[:6]] == ["0" * 16] * 4 + ["1", "2"]
    assert "uid=0" not in str(result.output)


async def test_only_harmless_devices_are_there(box: Sandbox) -> None:
    result = await shell(box, "ls /dev")
    assert str(result.output).split() == [
        *("fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero")
    ]


# -- limits ----------------------------------------------------------------------------------------------


async def test_a_fork_bomb_stays_within_its_processes_and_dies(box: Sandbox) -> None:
    result = await python(
        box,
        "import os, time\nmade = 0\ntry:\n    while True:\n        if not os.fork():\n            time.sleep(100)\n"
        "        made += 1\nfinally:\n    print('made', made)",
    )
    assert result.failed
    assert "BlockingIOError: [Errno 11] Resource temporarily unavailable" in str(result.output)
    assert 10 <= int(str(result.output).split("made ")[1].split()[0]) <= 20


async def test_a_fork_bomb_that_never_ends_is_ended(tmp_path: Path) -> None:
    async with sandbox(tmp_path, wall_s=2, processes_max=20) as box:
        began = time.monotonic()
        result = await shell(
            box, "marker_bomb() { marker_bomb | marker_bomb & }; marker_bomb; while :; do marker_bomb; done"
        )
        assert result.failed
        assert time.monotonic() - began < 15
        assert "Resource temporarily unavailable" in str(result.output) or "[stopped: " in str(result.output)
        assert str((await shell(box, "echo well")).output) == "well\n"


async def test_one_process_does_not_get_more_memory(box: Sandbox) -> None:
    result = await python(box, "x = bytearray(1 << 30)")
    assert result.failed
    assert "MemoryError" in str(result.output)


@pytest.mark.parametrize("kind", ["private", "shared"])
async def test_many_processes_do_not_get_more_memory_together(box: Sandbox, kind: str) -> None:
    flags = "mmap.MAP_PRIVATE" if kind == "private" else "mmap.MAP_SHARED"
    result = await python(
        box,
        "import mmap, os, time\nfor _ in range(15):\n    if not os.fork():\n"
        f"        m = mmap.mmap(-1, 100 << 20, {flags} | mmap.MAP_ANONYMOUS)\n"
        "        for i in range(0, 100 << 20, 4096):\n            m[i] = 1\n        time.sleep(60)\ntime.sleep(60)",
    )
    assert result.failed
    assert "[stopped: its processes took more than 256 MB together, and were killed]" in str(result.output)


@pytest.mark.parametrize("folder", ["/workspace", "/tmp", "/dev/shm"])
async def test_the_disk_is_not_filled(box: Sandbox, folder: str) -> None:
    result = await shell(box, f"head -c 7M /dev/zero > {folder}/a && head -c 30M /dev/zero > {folder}/b")
    assert result.failed
    assert "No space left on device" in str(result.output) or "File too large" in str(result.output)


@pytest.mark.parametrize("folder", ["/workspace", "/tmp", "/dev/shm"])
async def test_many_empty_files_are_refused(box: Sandbox, folder: str) -> None:
    result = await python(box, f"for i in range(1000):\n    open(f'{folder}/{{i}}', 'w').close()")
    assert result.failed
    assert "No space left on device" in str(result.output)


async def test_a_file_with_a_hole_is_not_kept(box: Sandbox) -> None:
    await shell(box, "echo before > kept.txt")
    result = await shell(box, "for i in 1 2 3; do truncate -s 7M $i; done")
    assert result.failed
    assert "[the workspace is as it was before this run: its files have 22020103 bytes, counting holes" in str(
        result.output
    )
    assert str((await shell(box, "ls; cat kept.txt")).output) == "kept.txt\nbefore\n"


async def test_open_files_have_their_bound(box: Sandbox) -> None:
    result = await python(
        box,
        "files = []\ntry:\n    while True:\n        files.append(open('/dev/null'))\nfinally:\n    print(len(files))",
    )
    assert result.failed
    assert str(result.output).startswith(f"{SANDBOX_FILES_OPEN_MAX - 3}\n")
    assert "Too many open files" in str(result.output)


async def test_a_zip_bomb_is_held_by_the_quota(box: Sandbox) -> None:
    result = await python(
        box,
        "import zipfile, zlib\nwith zipfile.ZipFile('bomb.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n"
        "    with z.open('zeros', 'w', force_zip64=True) as f:\n        for _ in range(200):\n"
        "            f.write(bytes(1 << 20))\nimport os\nprint(os.path.getsize('bomb.zip') < 1 << 20)\n"
        "zipfile.ZipFile('bomb.zip').extractall('.')",
    )
    assert str(result.output).startswith("True\n")
    assert result.failed
    assert "OSError" in str(result.output)


async def test_huge_output_is_cut_in_its_middle(tmp_path: Path) -> None:
    async with sandbox(tmp_path, output_kb=1) as box:
        result = await python(box, "print('begin')\nfor _ in range(200):\n    print('x' * 100_000)\nprint('end')")
    assert len(result.output) < 1200
    assert str(result.output).startswith("begin\nxxx")
    assert "bytes of output are left out here]" in str(result.output)
    assert str(result.output).endswith("x\nend\n")


async def test_endless_output_ends_with_its_time(tmp_path: Path) -> None:
    async with sandbox(tmp_path, wall_s=1) as box:
        result = await shell(box, "yes")
    assert result.failed
    assert "[stopped: it ran longer than 1 seconds, and all its processes were killed]" in str(result.output)


async def test_time_ends_with_all_processes(tmp_path: Path) -> None:
    async with sandbox(tmp_path, wall_s=1) as box:
        result = await shell(box, "echo begun; (setsid sleep 98761 &) ; sleep 98761")
    assert result.failed
    assert str(result.output).startswith("begun\n[stopped: it ran longer than 1 seconds")
    await none_with("98761")


async def test_processes_left_behind_die_with_the_run(box: Sandbox) -> None:
    began = time.monotonic()
    result = await shell(box, "setsid nohup sleep 98762 & trap '' TERM HUP; echo done")
    assert str(result.output) == "done\n"
    assert time.monotonic() - began < 8
    await none_with("98762")


async def test_a_program_that_stops_or_kills_itself_is_told(box: Sandbox) -> None:
    result = await shell(box, "kill -SEGV $$")
    assert result.failed
    assert str(result.output) == "[killed by SIGSEGV]\n"
