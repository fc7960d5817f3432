"""What runs first inside the sandbox, as its process 1, and is trusted. Standard library alone, Python 3.10 or newer.

The server starts it by its source, with whatever Python the sandbox has: it imports nothing of Stateline. It mounts
the sandbox's own bounded file systems, gives its capabilities away, unpacks the workspace, runs one program with
limits, kills every process that is left, and packs the workspace. As process 1 of its namespace it cannot be
signalled from within, and when it ends, by whatever cause, the kernel kills all others.

Standard input: an order (`sandbox.order_of`), then the workspace. Its end means that the server is gone.
Standard output: the outcome (`sandbox.Outcome`), then the workspace, where it is kept. All is in frames, four bytes of
length and as many of content: one of JSON, then a tar archive in as many as it takes, up to one of length 0.
"""

from __future__ import annotations

import base64
import ctypes
import io
import json
import os
import resource
import select
import signal
import stat
import struct
import tarfile
import time
from typing import Any, NoReturn

WORKSPACE = "/workspace"
FRAME = 1 << 20
BLOCK = 1 << 16  # tarfile copies what is left of its buffer with each 16 KiB that it takes.
LOOK_S = 0.02
PATH_MAX = 2048
MOUNT_FLAGS = 2 | 4  # nosuid, nodev
REMOUNT_READ_ONLY = 32 | 4096 | 1 | MOUNT_FLAGS

libc = ctypes.CDLL(None, use_errno=True)


def checked(answer: int, what: str) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), what + ": " + os.strerror(ctypes.get_errno()))


def mount_all(order: dict[str, Any]) -> None:
    """Whatever can be written is a file system of its own, in memory, with a bound on bytes and on files."""
    with open("/etc/passwd", "w", encoding="ascii") as file:
        file.write(f"user:x:{os.getuid()}:{os.getgid()}::/tmp:/bin/sh\n")
    with open("/etc/group", "w", encoding="ascii") as file:
        file.write(f"user:x:{os.getgid()}:\n")
    for path, size, files in (
        (WORKSPACE, order["disk_bytes"], order["files"]),
        ("/tmp", order["disk_bytes"], order["files"]),  # noqa: S108 - the sandbox's own
        ("/dev/shm", order["shm_bytes"], 64),  # noqa: S108
    ):
        options = f"size={size},nr_inodes={files + 1},mode=0700"
        checked(libc.mount(b"tmpfs", path.encode(), b"tmpfs", MOUNT_FLAGS, options.encode()), "mount " + path)
    checked(libc.mount(None, b"/", None, REMOUNT_READ_ONLY, None), "the root read-only")


def give_up_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    checked(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    checked(libc.prctl(47, 4, 0, 0, 0), "ambient capabilities")
    checked(libc.prctl(38, 1, 0, 0, 0), "no new privileges")


# -- the workspace ---------------------------------------------------------------------------------------


class FramesIn(io.RawIOBase):
    """The archive that comes in."""

    def __init__(self, source: io.FileIO) -> None:
        self.source = source
        self.left = 0
        self.over = False

    def readable(self) -> bool:
        return True

    def exactly(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = self.source.read(count - len(parts))
            if not part:
                raise SystemExit(3)
            parts += part
        return parts

    def readinto(self, buffer: Any) -> int:
        if not self.over and not self.left:
            self.left = struct.unpack(">I", self.exactly(4))[0]
            self.over = self.left == 0
        if self.over:
            return 0
        part = self.source.read(min(self.left, len(buffer)))
        if not part:
            raise SystemExit(3)
        self.left -= len(part)
        buffer[: len(part)] = part
        return len(part)


class FramesOut(io.RawIOBase):
    """The archive that goes out."""

    def __init__(self, target: io.FileIO) -> None:
        self.target = target

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        whole = struct.pack(">I", len(data)) + data
        view = memoryview(whole)
        while view:
            view = view[self.target.write(view) or 0 :]
        return len(data)


def unpack(frames: FramesIn) -> None:
    """What an earlier run packed here. A link may lead anywhere: there is nothing to write there."""
    with io.BufferedReader(frames, FRAME) as source:
        if source.peek(1):
            with tarfile.open(fileobj=source, mode="r|", bufsize=BLOCK) as archive:
                archive.extraction_filter = lambda member, _: member
                archive.extractall(WORKSPACE)  # noqa: S202
        while source.read(FRAME):
            pass


def kept_of(order: dict[str, Any]) -> tuple[list[str], int, str]:
    """The paths to keep, how many special files are not, and why nothing can be kept at all."""
    paths: list[str] = []
    folders, size, special = [WORKSPACE], 0, 0
    while folders:
        folder = folders.pop()
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if len(os.fsencode(entry.path)) > PATH_MAX:
                    return [], 0, f"a path in it has more than {PATH_MAX} bytes"
                if stat.S_ISDIR(info.st_mode):
                    folders.append(entry.path)
                elif stat.S_ISREG(info.st_mode):
                    size += info.st_size
                    os.chmod(entry.path, stat.S_IMODE(info.st_mode) | 0o400)
                elif not stat.S_ISLNK(info.st_mode):
                    special += 1
                    continue
                paths.append(entry.path)
    if size > order["disk_bytes"]:
        # Holes take no memory here, and would take the disk there.
        return [], 0, f"its files have {size} bytes, counting holes, of at most {order['disk_bytes']}"
    return sorted(paths), special, ""


def pack(paths: list[str], target: io.FileIO) -> None:
    with (
        io.BufferedWriter(FramesOut(target), FRAME) as frames,
        tarfile.open(fileobj=frames, mode="w|", bufsize=BLOCK, format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in paths:
            archive.add(path, arcname=path[len(WORKSPACE) + 1 :], recursive=False)
    target.write(struct.pack(">I", 0))


# -- the program -----------------------------------------------------------------------------------------


def become(order: dict[str, Any], output: int) -> NoReturn:
    """The program, with nothing open but its output, no way back and its limits."""
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 4096)
    os.setsid()
    os.chdir(WORKSPACE)
    os.nice(order["nice"])
    libc.prctl(4, 1, 0, 0, 0)
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    for name, value in order["rlimits"].items():
        number = getattr(resource, name, None)
        if number is not None:
            resource.setrlimit(number, (value, value))
    filters = base64.b64decode(order["seccomp"])
    text = ctypes.create_string_buffer(filters, len(filters))
    program = struct.pack("HxxxxxxP", len(filters) // 8, ctypes.addressof(text))
    checked(libc.prctl(22, 2, program, 0, 0), "seccomp")
    os.execve(order["command"][0], order["command"], order["environ"])  # noqa: S606


class Output:
    """What the program writes: its beginning and its end, up to a bound."""

    def __init__(self, keep: int) -> None:
        self.head_max, self.tail_max = keep - keep // 4, keep // 4
        self.head, self.tail, self.total = b"", b"", 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self.head_max - len(self.head)
        self.head += data[:room]
        if data[room:]:
            self.tail = (self.tail + data[room:])[-self.tail_max :]


def load() -> tuple[int, int]:
    """How many processes there are but this one, and the bytes of memory that they hold.

    Pages that several share are counted for each: rather too many than too few.
    """
    count = kilobytes = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                with open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as file:
                    lines = file.read().splitlines()
            except OSError:
                continue
            count += 1
            kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return count, kilobytes * 1024


def watch(child: int, source: int, order: dict[str, Any], output: Output) -> tuple[int, str]:
    """The program's exit status and why it was stopped; nothing where it ended by itself."""
    ends = time.monotonic() + order["wall_s"]
    looked, open_ends = 0.0, [source, 0]
    while True:
        ready, _, _ = select.select(open_ends, [], [], LOOK_S)
        if 0 in ready and not os.read(0, 4096):
            raise SystemExit(3)
        if source in ready:
            data = os.read(source, 65536)
            output.add(data)
            if not data:
                open_ends.remove(source)
        now = time.monotonic()
        if now - looked >= LOOK_S or source not in open_ends:
            looked = now
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return 0, "lost"
                if pid == child:
                    return status, ""
                if not pid:
                    break
            count, memory = load()
            if memory > order["memory_bytes"]:
                return 0, "memory"
            if count > order["processes"]:
                return 0, "processes"
        if now >= ends:
            return 0, "time"


def end_all(source: int, output: Output) -> None:
    """Kill what is left, and read what it wrote before."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
            while os.waitpid(-1, 0)[0]:
                pass
        except (ProcessLookupError, ChildProcessError):
            break
    os.set_blocking(source, False)
    try:
        while True:
            data = os.read(source, 65536)
            if not data:
                break
            output.add(data)
    except BlockingIOError:
        pass


def main() -> None:
    source, target = io.FileIO(0, "rb", closefd=False), io.FileIO(1, "wb", closefd=False)
    frames = FramesIn(source)
    order = json.loads(frames.exactly(struct.unpack(">I", frames.exactly(4))[0]))
    mount_all(order)
    give_up_capabilities()
    libc.prctl(1, 9, 0, 0, 0)
    libc.prctl(4, 0, 0, 0, 0)
    unpack(frames)
    with open(order["file"], "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(order["text"])
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            become(order, theirs)
        except BaseException as error:
            os.write(2, f"the program cannot be started: {error}\n".encode())
            os._exit(126)
    os.close(theirs)
    output = Output(order["output_bytes"])
    status, stopped = watch(child, ours, order, output)
    end_all(ours, output)
    try:
        paths, special, lost = kept_of(order)
    except OSError as error:
        paths, special, lost = [], 0, f"it cannot be read: {os.strerror(error.errno or 0)}"
    outcome = {
        "exit": os.WEXITSTATUS(status) if not stopped and os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if not stopped and os.WIFSIGNALED(status) else None,
        "stopped": stopped,
        "head": base64.b64encode(output.head).decode(),
        "tail": base64.b64encode(output.tail).decode(),
        "total": output.total,
        "lost": lost,
        "special": special,
    }
    FramesOut(target).write(json.dumps(outcome).encode())
    if not lost:
        pack(paths, target)


if __name__ == "__main__":
    main()
