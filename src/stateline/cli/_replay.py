"""`stateline contracts replay`: recorded placements, read page by page, replayed and shown."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import typer

from stateline.cli._progress import progress_bar
from stateline.config import Config
from stateline.contract_files import load_folder
from stateline.contracts import parse_at
from stateline.contracts.facts import EPOCH, micros
from stateline.contracts.replay import RESULTS, Replay, Replayed, Tally
from stateline.core.errors import BadRequest
from stateline.core.limits import REPLAY_ROWS_SHOWN_MAX
from stateline.core.placed import TAGS, Placed, Placements
from stateline.core.placing import Ruling
from stateline.ports import Progress
from stateline.store_logs import count_sessions, read_logs
from stateline.stores.logs import ALWAYS_MS, Wanted
from stateline.wiring import deployments

_COLOURS = {
    "contested": "yellow", "moved": "cyan", "denied": "red", "waits": "red", "allowed": "green", "not_known": "magenta",
}  # fmt: skip
_MEANS = {
    "same": "as it was",
    "contested": "as it was, by the posture alone",
    "moved": "to another deployment",
    "denied": "by contract, to every deployment",
    "waits": "what is allowed took no calls then",
    "allowed": "it went nowhere then",
    "not_known": "the log and the configuration do not tell",
}


class Asked(NamedTuple):
    """The options, as they were given."""

    contracts: Path | None
    at: str | None
    posture: str | None
    since: str | None
    until: str | None


class Seen:
    """What was read: sessions, those of newer releases, and placements."""

    def __init__(self) -> None:
        self.sessions = 0
        self.newer = 0
        self.placements = 0


class _Rows(Protocol):
    """Shows rows one by one, then what they come to."""

    def row(self, one: Replayed) -> None: ...
    def end(self, tally: Tally, seen: Seen) -> None: ...


def run(config: Config, asked: Asked, *, every: bool, as_json: bool) -> None:
    """Replay, and print.

    Raises:
        StatelineError: an option, the contracts or the store cannot be used.
    """
    settings = config.contracts
    folder = asked.contracts or (None if settings is None else Path(settings.path))
    if folder is None:
        message = "there are no contracts to ask; --contracts, or contracts.path, names a folder"
        raise BadRequest(message, code="contracts_missing")
    posture = asked.posture or ("strict" if settings is None else settings.posture)
    replay = Replay(
        load_folder(folder),
        deployments(config, secrets=False),
        at=None if asked.at is None else parse_at(asked.at),
        posture=posture,
        mode="enforce" if settings is None else settings.mode,
    )
    since_ms = 0 if asked.since is None else _ms(asked.since)
    until_ms = ALWAYS_MS if asked.until is None else _ms(asked.until)
    head = {"contracts": str(folder), "posture": posture, "at": asked.at, "since": asked.since, "until": asked.until}
    rows: _Rows = _Json(head) if as_json else _Text(head)
    seen, tally = Seen(), Tally()

    async def walk(progress: Progress | None) -> None:
        total = await count_sessions(config.store)
        async with aclosing(_placements(config, seen, (since_ms, until_ms), progress, total)) as found:
            async for placed in found:
                one = replay.of(placed)
                tally.add(one)
                if every or one.result != "same":
                    rows.row(one)

    # Rows that go to the same terminal as the bar would tear it.
    if as_json and sys.stdout.isatty():
        asyncio.run(walk(None))
    else:
        with progress_bar("Replaying", "sessions") as progress:
            asyncio.run(walk(progress))
    rows.end(tally, seen)


async def _placements(
    config: Config, seen: Seen, between: tuple[int, int], progress: Progress | None, total: int
) -> AsyncGenerator[Placed]:
    """The recorded placements of a time, of all sessions; ``seen`` counts them."""
    placements = Placements()
    async with aclosing(read_logs(config.store, Wanted(TAGS, *between))) as pages:
        async for page in pages:
            seen.sessions, seen.newer = page.sessions, page.newer
            for event in page.events:
                placed = placements.see(event)
                if placed is not None and between[0] <= placed.at_ms < between[1]:
                    seen.placements += 1
                    yield placed
            if progress is not None:
                progress(page.sessions, max(total, page.sessions))


def _ms(text: str) -> int:
    return micros(parse_at(text)) // 1000


# -- what is shown -------------------------------------------------------------------------------------


class _Json:
    """One document, written as it is made, so that any number of rows takes no memory."""

    def __init__(self, head: dict[str, Any]) -> None:
        self._head = head
        self._began = False

    def row(self, one: Replayed) -> None:
        sys.stdout.write(",\n " if self._began else self._begin())
        self._began = True
        sys.stdout.write(msgspec.json.encode(one).decode())

    def _begin(self) -> str:
        head = msgspec.json.encode({"object": "contracts.replay", **self._head}).decode()
        return f'{head[:-1]},\n"rows":[\n '

    def end(self, tally: Tally, seen: Seen) -> None:
        if not self._began:
            sys.stdout.write(self._begin())
        summary = {
            "sessions": seen.sessions,
            "sessions_of_newer_releases": seen.newer,
            "placements": seen.placements,
            "results": {name: tally.results[name] for name in RESULTS},
            "clauses": dict(tally.clauses.most_common()),
            "moves": [{"from": one, "to": to, "placements": n} for (one, to), n in tally.moves.most_common()],
            "missing": dict(tally.missing.most_common()),
            "observed": tally.observed,
            "unproven": tally.unproven,
        }
        sys.stdout.write(f'],\n"summary":{msgspec.json.encode(summary).decode()}}}\n')


class _Text:
    """A table of the first rows, and a summary."""

    def __init__(self, head: dict[str, Any]) -> None:
        self._head = head
        self._rows: list[Replayed] = []
        self._more = 0

    def row(self, one: Replayed) -> None:
        if len(self._rows) < REPLAY_ROWS_SHOWN_MAX:
            self._rows.append(one)
        else:
            self._more += 1

    def end(self, tally: Tally, seen: Seen) -> None:
        self._table()
        head = self._head
        times = f"all at {head['at']}" if head["at"] else "each at its own time"
        counted = f"{seen.placements} placements of {seen.sessions} sessions"
        sys.stdout.write(f"{counted}, {times}, posture {head['posture']}, contracts {head['contracts']}\n")
        for name in RESULTS:
            if tally.results[name]:
                _print_result(f"  {tally.results[name]:>8}  ", name, f"  {_MEANS[name]}")
        _print_counts("By clause", tally.clauses.most_common())
        _print_counts("Moves", [(f"{one} -> {to}", n) for (one, to), n in tally.moves.most_common()])
        _print_counts("Not known", tally.missing.most_common())
        if tally.observed:
            sys.stdout.write(f"{tally.observed} are denied, and go on, since their contracts are only observed\n")
        if tally.unproven:
            message = "a contract kept calls out there then, so nobody looked whether it could take them"
            sys.stdout.write(f"{tally.unproven} go to a deployment marked with ?: {message}\n")
        if seen.newer:
            sys.stdout.write(f"{seen.newer} sessions are of a newer release, and were left out\n")

    def _table(self) -> None:
        lines = [_cells(one) for one in self._rows]
        if not lines:
            return
        titles = ("when", "placement", "model", "where", "result", "then", "now")
        widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
        sys.stdout.write(_line(titles, widths))
        for cells in lines:
            before, after = _line(cells[:4], widths[:4], end="  "), _line(cells[5:], widths[5:])
            _print_result(before, cells[4], f"{'':{widths[4] - len(cells[4])}}  {after.rstrip()}")
        if self._more:
            sys.stdout.write(f"... and {self._more} more; --json has all of them\n")
        sys.stdout.write("\n")


def _cells(one: Replayed) -> tuple[str, ...]:
    where = one.deployment or "nowhere"
    if one.to is not None:
        where += f" -> {one.to}{'?' if one.unproven else ''}"
    now = one.missing or _told(one.after)
    return _time(one.at_ms), one.id, one.model, where, one.result, _told(one.before), now


def _told(ruling: Ruling | None) -> str:
    """The outcome, and by which clause and readings."""
    if ruling is None:
        return "-"
    if ruling.clause is None:
        return ruling.outcome
    readings = ", ".join(f"{one.reading} {one.outcome}" for one in ruling.readings)
    so = "" if ruling.outcome == ruling.resolved else f", so {ruling.resolved}"
    return f"{ruling.outcome}{so}{' (observed)' if ruling.observed else ''}: {ruling.clause} ({readings})"


def _time(at_ms: int) -> str:
    return (EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="seconds").replace("+00:00", "Z")


def _line(cells: Sequence[str], widths: Sequence[int], end: str = "\n") -> str:
    text = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
    return (text if end != "\n" else text.rstrip()) + end


def _print_result(before: str, result: str, after: str) -> None:
    sys.stdout.write(before)
    typer.secho(result, fg=_COLOURS.get(result), nl=False)
    sys.stdout.write(f"{after}\n")


def _print_counts(title: str, counts: Sequence[tuple[str, int]]) -> None:
    if counts:
        sys.stdout.write(f"{title}\n")
        for name, count in counts:
            sys.stdout.write(f"  {count:>8}  {name}\n")
