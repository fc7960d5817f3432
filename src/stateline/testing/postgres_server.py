"""A PostgreSQL server of one's own, for tests and benchmarks: in a folder, on a free port, gone at the end.

It syncs its disk like a real one. PostgreSQL refuses to run as root, so root starts it as the user
``postgres``.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from urllib.parse import quote


class NoPostgres(Exception):
    """No server can be started here; the message says why."""


class PostgresServer:
    """A running server.

    Attributes:
        folder: holds its data, its log and its socket.
        port: of its socket and of 127.0.0.1.
        settings: of its configuration, from its next start on.
    """

    def __init__(self, binaries: Path, folder: Path, port: int, settings: Mapping[str, str] | None = None) -> None:
        self._binaries = binaries
        self.folder = folder
        self.port = port
        self.settings = {"listen_addresses": "127.0.0.1", "max_connections": "200", **(settings or {})}

    def url(self, database: str = "postgres", *, tcp: bool = False) -> str:
        """How to reach a database of it: by the socket, or over TCP."""
        if tcp:
            return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"
        return f"postgresql://postgres@/{database}?host={quote(str(self.folder), safe='')}&port={self.port}"

    def start(self) -> None:
        options = ["-p", str(self.port), "-k", str(self.folder)]
        for name, value in self.settings.items():
            options += ["-c", f"{name}={value}"]
        log = self.folder / "log"
        self.run("pg_ctl", "-D", self.data, "-l", log, "-w", "-t", "60", "-o", shlex.join(options), "start")

    def stop(self, mode: str = "fast") -> None:
        """End it; ``immediate`` is a crash."""
        self.run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def make(self) -> None:
        """Make its files."""
        # The folder, not the command line, says where; trust, since nobody else reaches it.
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's programs as the server's user.

        Raises:
            NoPostgres: it ended with an error.
        """
        user, group = _user_and_group()
        done = subprocess.run(  # noqa: S603 - Programs of PostgreSQL's own folder.
            [str(self._binaries / program), *map(str, arguments)],
            cwd=self.folder,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            # Not a pipe: the server would keep it open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not key.startswith("PG")},
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            tail = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
            raise NoPostgres(f"{program} ended with {done.returncode}: {tail}")


def _user_and_group() -> tuple[str | None, int | None]:
    """Whom the server runs as: root becomes ``postgres``.

    Raises:
        NoPostgres: there is no such user.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None, None
    import pwd  # Windows has none.

    try:
        return "postgres", pwd.getpwnam("postgres").pw_gid
    except KeyError:
        raise NoPostgres("root cannot run PostgreSQL, and there is no user postgres") from None


def find_binaries() -> Path:
    """The folder with ``initdb`` and ``pg_ctl``, of the newest version that is installed.

    Raises:
        NoPostgres: there is none.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))
    on_path = shutil.which("initdb")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    for folder in reversed(folders):
        if (folder / "initdb").is_file() and (folder / "pg_ctl").is_file():
            return folder
    raise NoPostgres("PostgreSQL's programs are not installed")


@contextlib.contextmanager
def postgres_server(settings: Mapping[str, str] | None = None) -> Generator[PostgresServer]:
    """A new server, stopped and deleted at the end.

    Raises:
        NoPostgres: none can be started here.
    """
    binaries = find_binaries()
    user, _ = _user_and_group()
    # A socket's path may have 107 bytes, which a test's own folder exceeds.
    folder = Path(tempfile.mkdtemp(prefix="stateline-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        server = PostgresServer(binaries, folder, _free_port(), settings)
        server.make()
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(NoPostgres):
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
