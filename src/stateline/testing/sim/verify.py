"""What must hold of a whole run, once it is at rest: the log against what clients were told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice

import msgspec

from stateline.core import events as e
from stateline.core.ids import SessionRef, parse_response_id
from stateline.core.items import FunctionCall, InputText, Item, Message, OutputText
from stateline.core.response import ItemEvent, Response, StreamEvent, TextDeltaEvent
from stateline.core.session import Session, fold, fold_all, new_session
from stateline.core.view import NO_EVENTS, TurnView
from stateline.testing.sim.audit import Audit
from stateline.testing.sim.clients import Told
from stateline.testing.sim.database import Database, Row

_encoder = msgspec.json.Encoder()


def verify(database: Database, audit: Audit, told: Told) -> None:
    """Judge the run; what is broken goes to the audit."""
    rows = [row for row in database.created if not row.erased]
    logs = {row.ref: row.whole() for row in rows}
    _check_folds(audit, rows, logs)
    for (ref, post), event in audit.waiting.items():
        audit.broken("a posted input is never lost", f"post {post} of {ref.id}: {type(event.body).__name__}")
    for response_id, ref in audit.turns.items():
        if ref in logs and response_id not in audit.ended:
            audit.broken("every turn ends", response_id)
    audit.settled(database.balances)
    _check_told(audit, told, logs)
    for response_id, answer in told.answers.items():
        log = logs.get(told.accepted[response_id])
        if log is not None:
            _check_answer(audit, answer, log)
    for response_id, readings in told.read.items():
        log = logs.get(told.accepted[response_id])
        if log is not None:
            _check_stream(audit, response_id, log, readings)


# -- folds -------------------------------------------------------------------------------------------------


def _check_folds(audit: Audit, rows: Sequence[Row], logs: dict[SessionRef, list[e.Event]]) -> None:
    """Logs are whole, can be folded, and are the same from each of their last snapshots.

    A fork goes on from the fold of its parent's log up to there, so that no event is folded for each fork
    again; parents were created before their forks.
    """
    origins = {row: _origin(row) for row in rows if row.parent is not None}
    forks: dict[Row, set[int]] = {}
    for row, start in origins.values():
        forks.setdefault(row, set()).add(start)
    folds: dict[tuple[Row, int], Session] = {}
    for row in rows:
        if [event.seq for event in row.events] != list(range(row.start + 1, row.head + 1)):
            audit.broken("contiguous log", f"the numbers of {row.ref.id}")
            return
        whole = new_session(row.ref) if row.parent is None else folds[origins[row]]
        wanted = forks.get(row, ())
        if row.start in wanted:
            folds[row, row.start] = whole
        last = len(row.events) - 1
        for at, event in enumerate(row.events):
            if at < last and type(row.events[at + 1].body) is type(event.body) is e.Chunk and event.seq not in wanted:
                # Of chunks in a row the last one's fold is the fold of all: they only move the number on.
                continue
            whole = fold(whole, event)
            if event.seq in wanted:
                folds[row, event.seq] = whole
        for snapshot in row.snapshots[-2:]:
            _check_snapshot(audit, row, logs[row.ref], snapshot, whole)


def _origin(row: Row) -> tuple[Row, int]:
    """The row whose own events end with a fork's prefix: its parent, or an ancestor of that."""
    parent = row.parent
    assert parent is not None
    while parent.parent is not None and row.start < parent.start:
        parent = parent.parent
    return parent, row.start


def _check_snapshot(audit: Audit, row: Row, log: list[e.Event], snapshot: e.Event, whole: Session) -> None:
    alone = fold(new_session(row.ref), snapshot)
    if alone.seq != snapshot.seq:
        audit.broken("a snapshot is the fold up to it", f"snapshot {snapshot.seq} of {row.ref.id} says {alone.seq}")
    if _essence(fold_all(alone, log[snapshot.seq :])) != _essence(whole):
        audit.broken("a snapshot is the fold up to it", f"snapshot {snapshot.seq} of {row.ref.id}")


def _essence(session: Session) -> tuple[object, ...]:
    """A session without what only says how it was read."""
    return (
        session.seq,
        session.kind,
        session.metadata,
        session.deleted,
        session.quarantined,
        tuple(session.context),
        session.turns,
        session.last_response_id,
        session.deleted_responses,
        session.turn,
    )


# -- what clients were told --------------------------------------------------------------------------------------


def _check_told(audit: Audit, told: Told, logs: dict[SessionRef, list[e.Event]]) -> None:
    for response_id, ref in told.accepted.items():
        if ref in logs and response_id not in audit.turns:
            audit.broken("an accepted turn is in the log", response_id)
    markers: dict[str, set[str]] = {}
    bodies: dict[SessionRef, list[e.Body]] = {}
    for ref, log in logs.items():
        kept: list[e.Body] = []
        bodies[ref] = kept
        for event in log:
            if isinstance(event.body, e.TurnRequested):
                markers.setdefault(_marker(event.body.input), set()).add(event.body.response_id)
            elif isinstance(event.body, _AMENDMENTS):
                kept.append(event.body)
    for marker, given in told.keyed.items():
        made = markers.get(marker, set())
        if len(made | given) > 1:
            audit.broken("one turn per idempotency key", f"{marker!r}: {sorted(made | given)}")
    for ref, body in told.amended:
        if ref in bodies and body not in bodies[ref]:
            audit.broken("an acknowledged change is in the log", f"{type(body).__name__} of {ref.id}")


_AMENDMENTS = (e.ItemsAdded, e.ItemDeleted, e.SessionUpdated, e.SessionDeleted, e.ResponseDeleted)


def _marker(items: Iterable[Item]) -> str:
    """Who says which serial: the first words of a client's message."""
    for item in reversed(list(items)):
        if isinstance(item, Message) and item.content and isinstance(item.content[0], InputText):
            return " ".join(item.content[0].text.split(" ", 3)[:3]).removesuffix("word")
    return ""


# -- streams -----------------------------------------------------------------------------------------------------


def _from_turn(response_id: str, log: list[e.Event]) -> Iterator[e.Event]:
    """The log from a turn's beginning on."""
    parsed = parse_response_id(response_id)
    assert parsed is not None
    return islice(log, parsed.after, None)


def _check_answer(audit: Audit, answer: Response, log: list[e.Event]) -> None:
    """What a client got for a whole response is what the log says of it."""
    view = TurnView(answer.id, cursor=NO_EVENTS)
    for event in _from_turn(answer.id, log):
        if type(event.body) is not e.Chunk:
            view.apply(event)
            if view.finished:
                break
    if view.requested is None or view.response() != answer:
        audit.broken("an answer is what the log says", answer.id)


def _check_stream(
    audit: Audit, response_id: str, log: list[e.Event], readings: list[tuple[int, list[StreamEvent]]]
) -> None:
    """All readers saw the same numbers with the same events, and the texts that are kept."""
    view = TurnView(response_id)
    whole: list[StreamEvent] = []
    for event in _from_turn(response_id, log):
        whole += view.apply(event)
        if view.finished:
            break
    if [event.sequence_number for event in whole] != list(range(len(whole))):
        audit.broken("sequence numbers have no gap", response_id)
        return
    for cursor, seen in readings:
        wanted = whole[cursor + 1 : cursor + 1 + len(seen)]
        if seen != wanted:
            at = next((i for i, (a, b) in enumerate(zip(seen, wanted, strict=False)) if a != b), len(wanted))
            detail = f"{response_id} from {cursor}, at {at} of {len(seen)}: {seen[at : at + 1]}"
            audit.broken("all readers see the same", detail)
    if view.finished:
        _check_texts(audit, response_id, whole, view.response())


def _check_texts(audit: Audit, response_id: str, whole: list[StreamEvent], response: Response) -> None:
    """The deltas of what was kept are the text that is stored."""
    said: dict[str, list[str]] = {}
    done: dict[str, Item] = {}
    for event in whole:
        if isinstance(event, TextDeltaEvent):
            said.setdefault(event.item_id, []).append(event.delta)
        elif isinstance(event, ItemEvent):
            done[event.item.id] = event.item
    for item in response.output:
        if isinstance(item, Message):
            stored = "".join(part.text for part in item.content if isinstance(part, OutputText))
            streamed = "".join(said.get(item.id, ()))
            # A call that was no stream gives its texts as one delta each.
            if stored != streamed:
                audit.broken("what was seen is what is stored", f"{item.id}: {streamed!r} against {stored!r}")
        elif isinstance(item, FunctionCall) and item.id not in done:
            audit.broken("what was seen is what is stored", f"{item.id} was never shown")


# -- the name of a run ---------------------------------------------------------------------------------------------


def digest_of(database: Database) -> str:
    """A digest of everything that the run left: two runs of a seed have the same."""
    hasher = blake2b(digest_size=16)
    for row in database.created:
        log = [(event.seq, event.at_ms, event.epoch, event.post, event.body) for event in row.events]
        hasher.update(_encoder.encode((row.ref.id, row.start, row.epoch, row.erased, log)))
    return hasher.hexdigest()
