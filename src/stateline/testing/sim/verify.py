"""What must hold of a whole run, once it is at rest: the log against what clients were told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

from stateline.core import events as e
from stateline.core.ids import SessionRef, parse_response_id
from stateline.core.items import FunctionCall, InputText, Item, Message, OutputText
from stateline.core.response import ItemEvent, Response, StreamEvent, TextDeltaEvent
from stateline.core.session import Session, fold, fold_all, new_session
from stateline.core.view import NO_EVENTS, TurnView
from stateline.testing.sim.audit import Audit
from stateline.testing.sim.clients import Told
from stateline.testing.sim.database import Database, Row

_HEAD_MAX = 1 << 60


def verify(database: Database, audit: Audit, told: Told) -> None:
    """Judge the run; what is broken goes to the audit."""
    logs = {row.ref: list(row.all(0, row.head)) for row in database.created if not row.erased}
    for row in database.created:
        if not row.erased:
            _check_fold(audit, row, logs[row.ref])
    for (ref, post), event in audit.waiting.items():
        audit.broken("a posted input is never lost", f"post {post} of {ref.id}: {type(event.body).__name__}")
    for response_id, ref in audit.turns.items():
        if ref in logs and response_id not in audit.ended:
            audit.broken("every turn ends", response_id)
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


def _check_fold(audit: Audit, row: Row, log: list[e.Event]) -> None:
    """The log is whole, can be folded, and is the same from each of its snapshots."""
    if [event.seq for event in log] != list(range(1, row.head + 1)):
        audit.broken("contiguous log", f"the numbers of {row.ref.id}")
        return
    whole = new_session(row.ref)
    snapshots: list[int] = []
    for at, event in enumerate(log):
        whole = fold(whole, event)
        if type(event.body) is e.Snapshot:
            snapshots.append(at)
    for at in snapshots[-2:]:
        short = fold_all(new_session(row.ref), log[at:])
        if _essence(short) != _essence(whole):
            audit.broken("a snapshot is the fold up to it", f"snapshot {log[at].seq} of {row.ref.id}")
        alone = fold(new_session(row.ref), log[at])
        if alone.seq != log[at].seq:
            audit.broken("a snapshot is the fold up to it", f"snapshot {log[at].seq} of {row.ref.id} says {alone.seq}")


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


def _check_answer(audit: Audit, answer: Response, log: list[e.Event]) -> None:
    """What a client got for a whole response is what the log says of it."""
    view = TurnView(answer.id, cursor=NO_EVENTS)
    for event in log:
        if type(event.body) is not e.Chunk:
            view.apply(event)
    if view.requested is None or view.response() != answer:
        audit.broken("an answer is what the log says", answer.id)


def _check_stream(
    audit: Audit, response_id: str, log: list[e.Event], readings: list[tuple[int, list[StreamEvent]]]
) -> None:
    """All readers saw the same numbers with the same events, and the texts that are kept."""
    parsed = parse_response_id(response_id)
    assert parsed is not None
    view = TurnView(response_id)
    whole: list[StreamEvent] = []
    for event in log[parsed.after :]:
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


def digest_of(database: Database, encode: Callable[[e.Body], bytes] = e.encode_body) -> str:
    """A digest of everything that the run left: two runs of a seed have the same."""
    hasher = blake2b(digest_size=16)
    for row in database.created:
        hasher.update(f"{row.ref.id}/{row.start}/{row.epoch}/{row.erased}".encode())
        for event in row.events:
            hasher.update(f"{event.seq}/{event.at_ms}/{event.epoch}/{event.post}".encode())
            hasher.update(encode(event.body))
    return hasher.hexdigest()
