"""Fetching a model's file: from a hub, from an index, interrupted, corrupted, twice at once."""

from __future__ import annotations

import errno
import hashlib
import http.server
import importlib.util
import io
import multiprocessing
import os
import random
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from stateline.models.local import __main__ as command
from stateline.models.local import progress
from stateline.models.local.catalogue import DEFAULT_MODEL, DataWheel, ModelFile
from stateline.models.local.fetch import FetchError, cache_dir, default_sources, fetch_model, find_model
from stateline.models.local.progress import Bar, PlainLines, Silent
from stateline.models.local.sources import HubSource, PartFile, SourceFailedError, WheelSource, pip_environment

CONTENT = random.Random(7).randbytes(300_000)
PIECES = (CONTENT[:100_000], CONTENT[100_000:200_000], CONTENT[200_000:])

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is part of stateline[local]")


def wheel_bytes(number: int, piece: bytes) -> bytes:
    """A wheel as a package client wants it, with a module that must never be run."""
    out = io.BytesIO()
    name = f"fake_model_part{number}"
    info = f"{name}-0.9.0.dist-info"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in (
            (f"{name}/__init__.py", b"raise SystemExit('a data wheel was imported')"),
            (f"{name}/data.bin", piece),
            (f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.9.0\n".encode()),
            (f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            (f"{info}/RECORD", b""),
        ):
            archive.writestr(zipfile.ZipInfo(path), content)
    return out.getvalue()


WHEELS = {
    f"fake_model_part{number}-0.9.0-py3-none-any.whl": wheel_bytes(number, piece) for number, piece in enumerate(PIECES)
}
MODEL = ModelFile(
    name="fake",
    file_name="fake.gguf",
    size_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    hub_path="org/fake/resolve/main/fake.gguf",
    wheels=tuple(
        DataWheel(
            f"fake-model-part{number}",
            "0.9.0",
            hashlib.sha256(WHEELS[f"fake_model_part{number}-0.9.0-py3-none-any.whl"]).hexdigest(),
            f"fake_model_part{number}/data.bin",
            len(piece),
        )
        for number, piece in enumerate(PIECES)
    ),
    licence="none",
)

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from a table of paths; keeps what was asked for."""

    answers: Mapping[str, bytes | Answer]
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Range")))
        answer = self.answers.get(self.path)
        if answer is None:
            self.send_error(404)
        elif isinstance(answer, bytes):
            self.send(answer)
        else:
            answer(self)

    def send(self, body: bytes, *, ranges: bool = True, cut: int | None = None) -> None:
        """The body, from the range asked for; with ``cut``, only so many bytes of it before hanging up."""
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and ranges:
            start = int(match[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if self.path.endswith("/"):
            self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


class Site:
    def __init__(self, url: str, handler: type[Handler]) -> None:
        self.url = url
        self._handler = handler

    @property
    def asked(self) -> list[tuple[str, str | None]]:
        return self._handler.asked

    def serve(self, answers: Mapping[str, bytes | Answer]) -> None:
        self._handler.answers = answers


@pytest.fixture
def site() -> Iterator[Site]:
    handler = type("OneSite", (Handler,), {"answers": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Site(f"http://127.0.0.1:{server.server_address[1]}", handler)
    server.shutdown()
    server.server_close()
    thread.join()


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        assert done_bytes <= total_bytes == len(CONTENT)
        self.done.append(done_bytes)


HUB_PATH = "/" + MODEL.hub_path


def part_of(folder: Path) -> Path:
    return folder / f"{MODEL.sha256}.part"


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"fake.gguf", "fake.gguf.verified", "fake.gguf.lock"}


# -- from a hub ---------------------------------------------------------------------------------------


def test_a_fetched_model_is_found_again_without_reading_it(site: Site, tmp_path: Path) -> None:
    site.serve({HUB_PATH: CONTENT})
    assert find_model(MODEL, directory=tmp_path) is None
    notes = Notes()
    path = fetch_model(MODEL, directory=tmp_path, report=notes, sources=[HubSource(site.url)])
    assert path.read_bytes() == CONTENT
    assert leftovers(tmp_path) == set()
    assert notes.done[-1] == len(CONTENT)
    assert find_model(MODEL, directory=tmp_path) == path
    assert fetch_model(MODEL, directory=tmp_path, sources=[]) == path
    assert len(site.asked) == 1


def test_a_download_goes_on_where_it_was_cut(site: Site, tmp_path: Path) -> None:
    site.serve({HUB_PATH: lambda handler: handler.send(CONTENT, cut=70_000)})
    path = fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)])
    assert path.read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [None, *(f"bytes={n}-" for n in range(70_000, 300_000, 70_000))]


def test_a_download_goes_on_in_the_next_process(site: Site, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(CONTENT[:123_456])
    site.serve({HUB_PATH: CONTENT})
    notes = Notes()
    assert fetch_model(MODEL, directory=tmp_path, report=notes, sources=[HubSource(site.url)]).read_bytes() == CONTENT
    assert site.asked == [(HUB_PATH, "bytes=123456-")]
    assert any("going on" in note for note in notes.notes)


def test_a_server_without_ranges_sends_it_all_again(site: Site, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    site.serve({HUB_PATH: lambda handler: handler.send(CONTENT, ranges=False)})
    assert fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)]).read_bytes() == CONTENT


def test_a_bad_beginning_is_thrown_away_and_fetched_anew(site: Site, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(b"x" * 1000)
    site.serve({HUB_PATH: CONTENT})
    assert fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)]).read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == ["bytes=1000-", None]


def test_wrong_bytes_are_refused_and_deleted(site: Site, tmp_path: Path) -> None:
    site.serve({HUB_PATH: CONTENT[:-1] + b"?"})
    with pytest.raises(FetchError, match="wrong sha256") as caught:
        fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)])
    assert caught.value.code == "model_fetch_failed"
    assert find_model(MODEL, directory=tmp_path) is None
    assert not (tmp_path / MODEL.file_name).exists()
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize("body", [b"<html>please log in</html>", CONTENT + b"more"])
def test_another_file_is_refused_by_its_size_before_it_is_downloaded(site: Site, tmp_path: Path, body: bytes) -> None:
    site.serve({HUB_PATH: body})
    with pytest.raises(FetchError, match="another file"):
        fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)])


def test_a_server_that_lies_about_its_range_is_refused(site: Site, tmp_path: Path) -> None:
    def lie(handler: Handler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-9/300000")
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(CONTENT[:10])

    part_of(tmp_path).write_bytes(CONTENT[:1000])
    site.serve({HUB_PATH: lie})
    with pytest.raises(FetchError, match="another range"):
        fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)])
    assert part_of(tmp_path).read_bytes() == CONTENT[:1000]


def test_a_server_that_sends_without_end_is_cut_off(site: Site, tmp_path: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT * 2)

    site.serve({HUB_PATH: endless})
    with pytest.raises(FetchError, match="more bytes"):
        fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)])


def test_a_server_that_stalls_is_given_up_after_some_tries(site: Site, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    site.serve({HUB_PATH: lambda handler: handler.send(CONTENT, cut=0)})
    with pytest.raises(FetchError, match="5 times in a row"):
        fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)])
    assert part_of(tmp_path).stat().st_size == 1000


def test_a_hub_that_is_away_is_asked_once_even_when_a_part_is_there(tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch_model(MODEL, directory=tmp_path, sources=[HubSource("http://127.0.0.1:9")])
    assert part_of(tmp_path).stat().st_size == 1000


@pytest.mark.parametrize(
    ("base", "reason"),
    [("http://127.0.0.1:9", "cannot be reached"), ("file:///etc", "not an http address"), ("SITE", "answered 404")],
)
def test_a_hub_that_cannot_be_used_says_why(site: Site, tmp_path: Path, base: str, reason: str) -> None:
    part = PartFile(tmp_path / "part", MODEL.size_bytes)
    with pytest.raises(SourceFailedError, match=reason):
        HubSource(site.url if base == "SITE" else base).fill(MODEL, part, Silent())


# -- from a package index ------------------------------------------------------------------------------


def index_of(wheels: Mapping[str, bytes]) -> dict[str, bytes | Answer]:
    """A mirror's simple index, as PEP 503 has it."""
    out: dict[str, bytes | Answer] = {}
    for name, body in wheels.items():
        project = name.split("-", 1)[0].replace("_", "-")
        out[f"/simple/{project}/"] = f'<!DOCTYPE html><a href="/files/{name}">{name}</a>'.encode()
        out[f"/files/{name}"] = body
    return out


def pip_env(site: Site) -> dict[str, str]:
    """No configuration of this machine's, only the mirror."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{site.url}/simple", "PIP_RETRIES": "0"}


@needs_pip
def test_the_index_is_used_where_the_hub_cannot_be_reached(site: Site, tmp_path: Path) -> None:
    site.serve(index_of(WHEELS))
    notes = Notes()
    sources = [HubSource("http://127.0.0.1:9"), WheelSource(pip_env(site))]
    path = fetch_model(MODEL, directory=tmp_path, report=notes, sources=sources)
    assert path.read_bytes() == CONTENT
    assert leftovers(tmp_path) == set()
    assert any("cannot be reached" in note for note in notes.notes)
    assert notes.done[-1] == len(CONTENT)


@needs_pip
def test_the_index_goes_on_in_the_middle_of_a_piece_that_the_hub_began(site: Site, tmp_path: Path) -> None:
    site.serve(index_of(WHEELS))
    part_of(tmp_path).write_bytes(CONTENT[:150_000])
    assert fetch_model(MODEL, directory=tmp_path, sources=[WheelSource(pip_env(site))]).read_bytes() == CONTENT
    files = [path for path, _ in site.asked if path.startswith("/files/")]
    assert [int(path[len("/files/fake_model_part")]) for path in files] == [1, 2]


@needs_pip
def test_what_a_killed_process_left_is_cleared_away(site: Site, tmp_path: Path) -> None:
    site.serve(index_of(WHEELS))
    (tmp_path / ".wheel-abandoned").mkdir()
    fetch_model(MODEL, directory=tmp_path, sources=[WheelSource(pip_env(site))])
    assert leftovers(tmp_path) == set()


@needs_pip
def test_a_wheel_with_another_hash_is_refused_before_it_is_opened(site: Site, tmp_path: Path) -> None:
    name = "fake_model_part1-0.9.0-py3-none-any.whl"
    site.serve(index_of({**WHEELS, name: wheel_bytes(1, PIECES[1][::-1])}))
    with pytest.raises(FetchError, match="other bytes under the name fake-model-part1"):
        fetch_model(MODEL, directory=tmp_path, sources=[WheelSource(pip_env(site))])
    assert part_of(tmp_path).read_bytes() == PIECES[0]


@needs_pip
def test_an_index_without_the_wheel_says_so(site: Site, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"pip could not download fake-model-part0: .*No matching distribution"):
        fetch_model(MODEL, directory=tmp_path, sources=[WheelSource(pip_env(site))])
    assert leftovers(tmp_path) == set()


def test_a_model_without_wheels_has_no_index(tmp_path: Path) -> None:
    bare = ModelFile(name="b", file_name="b", size_bytes=1, sha256="0", hub_path="b", licence="none")
    with pytest.raises(SourceFailedError, match="no data wheels"):
        WheelSource({}).fill(bare, PartFile(tmp_path / "part", 1), Silent())


@pytest.mark.parametrize(
    ("given", "index", "extra"),
    [
        ({}, None, None),
        ({"UV_INDEX_URL": "https://a/simple"}, "https://a/simple", None),
        ({"UV_DEFAULT_INDEX": "corp=https://a/simple", "UV_INDEX_URL": "https://b"}, "https://a/simple", None),
        ({"PIP_INDEX_URL": "https://p", "UV_INDEX_URL": "https://u"}, "https://p", None),
        ({"UV_INDEX": "one=https://a two=https://b"}, None, "https://a https://b"),
    ],
)
def test_uvs_index_counts_where_pip_has_none(given: dict[str, str], index: str | None, extra: str | None) -> None:
    out = pip_environment(given)
    assert (out.get("PIP_INDEX_URL"), out.get("PIP_EXTRA_INDEX_URL")) == (index, extra)


# -- the cache ------------------------------------------------------------------------------------------


def test_a_file_put_there_by_hand_is_checked_and_used(tmp_path: Path) -> None:
    (tmp_path / MODEL.file_name).write_bytes(CONTENT)
    assert find_model(MODEL, directory=tmp_path) is None
    assert fetch_model(MODEL, directory=tmp_path, sources=[]).read_bytes() == CONTENT
    assert find_model(MODEL, directory=tmp_path) is not None


def test_a_file_changed_after_its_check_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    site.serve({HUB_PATH: CONTENT})
    path = fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)])
    path.write_bytes(b"y" * len(CONTENT))
    os.utime(path, ns=(1, 1))
    assert find_model(MODEL, directory=tmp_path) is None
    assert fetch_model(MODEL, directory=tmp_path, sources=[HubSource(site.url)]).read_bytes() == CONTENT


def test_a_part_longer_than_the_model_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 11)
    assert PartFile(tmp_path / "part", 10).have_bytes == 0


def _almost_full(path: Path) -> SimpleNamespace:
    return SimpleNamespace(total=10, used=9, free=1)


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", _almost_full)
    with pytest.raises(FetchError, match=r"0 MB free.*STATELINE_MODEL_DIR"):
        fetch_model(MODEL, directory=tmp_path, sources=[])


class FullDisk:
    name = "full disk"

    def fill(self, model: ModelFile, part: PartFile, report: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_gives_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"the disk of .* is full: make room"):
        fetch_model(MODEL, directory=tmp_path, sources=[FullDisk()])


def test_a_cache_that_cannot_be_made_gives_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match="cannot be used"):
        fetch_model(MODEL, directory=tmp_path / "file" / "models", sources=[])


def _fetch_in_another_process(url: str, folder: Path) -> None:
    fetch_model(MODEL, directory=folder, sources=[HubSource(url)])


def test_two_processes_download_once(site: Site, tmp_path: Path) -> None:
    waiting = threading.Event()
    released = threading.Event()

    def slow(handler: Handler) -> None:
        waiting.set()
        assert released.wait(30)
        handler.send(CONTENT)

    class Waiter(Notes):
        def note(self, text: str) -> None:
            if "another process" in text:
                released.set()

    site.serve({HUB_PATH: slow})
    other = multiprocessing.get_context("spawn").Process(target=_fetch_in_another_process, args=(site.url, tmp_path))
    other.start()
    try:
        assert waiting.wait(30)
        path = fetch_model(MODEL, directory=tmp_path, report=Waiter(), sources=[HubSource(site.url)])
    finally:
        released.set()
        other.join()
    assert other.exitcode == 0
    assert path.read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_where_models_are_kept() -> None:
    assert cache_dir({"STATELINE_MODEL_DIR": "/models", "XDG_CACHE_HOME": "/cache"}) == Path("/models")
    assert cache_dir({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/stateline/models")
    assert cache_dir({"XDG_CACHE_HOME": "not/absolute"}) == Path.home() / ".cache/stateline/models"


def test_the_hub_comes_first_unless_it_is_switched_off() -> None:
    assert [source.name for source in default_sources({})] == ["model hub", "package index"]
    assert [source.name for source in default_sources({"HF_HUB_OFFLINE": "1"})] == ["package index"]


def test_the_known_models_pieces_make_up_its_size() -> None:
    assert sum(wheel.size_bytes for wheel in DEFAULT_MODEL.wheels) == DEFAULT_MODEL.size_bytes


# -- what is shown --------------------------------------------------------------------------------------


def test_plain_lines_are_few() -> None:
    out = io.StringIO()
    lines = PlainLines(out, interval_s=1000)
    for done in range(0, 491, 10):
        lines.progress(done * 1_000_000, 491_000_000)
    assert out.getvalue() == "    0%  0 MB of 491 MB\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_lines_elsewhere(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Console, "is_terminal", terminal)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    with Bar() as bar:
        bar.note("fetching [x]")
        bar.progress(100_000_000, 491_000_000)
        bar.progress(491_000_000, 491_000_000)
    shown = capsys.readouterr().err
    assert "fetching [x]" in shown
    assert ("downloading" in shown) is terminal
    assert ("20%  100 MB of 491 MB" in shown) is not terminal


def test_the_command_prints_the_path_or_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fake.gguf"

    def works(**_: object) -> Path:
        return path

    monkeypatch.setattr(command, "fetch_model", works)
    assert command.main() == 0
    assert capsys.readouterr().out == f"{path}\n"

    def fails(**_: object) -> Path:
        raise FetchError("no luck")

    monkeypatch.setattr(command, "fetch_model", fails)
    assert command.main() == 1
    assert capsys.readouterr() == ("", "no luck\n")
