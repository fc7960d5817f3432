"""A session's audit: a hash chain that is derived from its events, and the check of an export.

The log is the truth, so nothing is written for the audit while a session works. Each event that counts gives records;
each record's content is digested under a salt of its own, and each link covers the one before. An anchor signs a link.
Without contents and salts the links can still be computed, so a chain outlives what it is about.

Form 1::

    salt    = HMAC-SHA256(the session's salt, "session/seq/kind/number")
    leaf    = HMAC-SHA256(salt, content)
    link[0] = SHA-256(JSON ["stateline/audit/1", tenant, session])
    link[n] = SHA-256(link[n-1] + JSON [session, seq, at_ms, kind, base64 leaf])
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from stateline.core import events as e
from stateline.core.ids import SessionRef
from stateline.core.links import Anchor, Chain, End, Header, Line, Record

FORM = 1
_NAME = f"stateline/audit/{FORM}"
Sign = Callable[[bytes], bytes]
"""The Ed25519 signature of a message."""
Check = Callable[[bytes, bytes, bytes], bool]
"""Whether a public key's signature is that of a message: ``check(key, signature, message)``."""

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)

# -- what is recorded ----------------------------------------------------------------------------------


class _Part(NamedTuple):
    """One record of an event: these of its fields, where ``needs`` (if any) is set."""

    kind: str
    fields: tuple[str, ...]
    needs: str = ""


_CALL = ("turn", "step")
_COST = _Part("cost", (*_CALL, "usage", "charge"))
_POLICY = _Part("policy", (*_CALL, "policy"), "policy")
_OUTCOME = _Part("effect", (*_CALL, "id", "code", "message"))
_PARTS: dict[type, tuple[_Part, ...]] = {
    e.SessionCreated: (_Part("session", ("kind", "parent")),),
    e.SessionDeleted: (_Part("deletion", ()),),
    e.ItemDeleted: (_Part("deletion", ("item_id",)),),
    e.ResponseDeleted: (_Part("deletion", ("response_id",)),),
    e.ItemsAdded: (_Part("prompt", ("items",)),),
    e.TurnRequested: (
        _Part("prompt", ("response_id", "turn", "principal", "user", "request", "input", "agent")),
        _Part("approval", ("response_id", "turn", "principal", "user", "answers"), "answers"),
    ),
    e.ModelCallStarted: (
        _Part(
            "placement",
            (*_CALL, "deployment", "origin", "model", "passed", "verdict", "refused", "dropped", "priced"),
        ),
        _Part("cost", (*_CALL, "reserved"), "reserved"),
    ),
    e.TimerSet: (_Part("placement", (*_CALL, "due_ms", "passed", "refused"), "passed"),),
    e.ModelCallFinished: (
        _Part("answer", (*_CALL, "finish_reason", "items", "calls", "upstream_id", "upstream_model", "service_tier")),
        _COST,
    ),
    e.ModelCallFailed: (
        _Part("answer", (*_CALL, "code", "message", "provider_status", "items", "elsewhere", "unbilled")),
        _COST,
    ),
    e.ToolsListed: (_Part("tools", ("turn", "servers")),),
    e.EffectDispatched: (_POLICY, _Part("effect", (*_CALL, "call", "effect", "approval", "again"))),
    e.EffectRefused: (_POLICY, _Part("effect", (*_CALL, "call", "code", "message"))),
    e.ApprovalRequested: (_POLICY, _Part("approval", (*_CALL, "id", "call", "asked"))),
    e.EffectCommitted: (_Part("effect", (*_CALL, "id", "output", "failed", "read_back")),),
    e.EffectFailed: (_OUTCOME,),
    e.EffectUnknown: (_OUTCOME,),
    e.TurnCompleted: (_Part("end", ("response_id",)),),
    e.TurnIncomplete: (_Part("end", ("response_id", "reason")),),
    e.TurnFailed: (_Part("end", ("response_id", "code", "message")),),
    e.TurnCancelled: (_Part("end", ("response_id",)),),
}


class Content(NamedTuple):
    """What one record is about: JSON, the event's type first."""

    kind: str
    text: str


def contents_of(body: e.Body) -> list[Content]:
    """What an event gives to the audit; most give one record, chunks and snapshots none."""
    out: list[Content] = []
    for part in _PARTS.get(type(body), ()):
        if part.needs and not getattr(body, part.needs):
            continue
        said: dict[str, Any] = {name: getattr(body, name) for name in part.fields}
        said["event"] = type(body).__struct_config__.tag
        out.append(Content(part.kind, _encoder.encode(said).decode()))
    return out


# -- the chain -----------------------------------------------------------------------------------------


def start_of(ref: SessionRef) -> bytes:
    """The link before the first record: a chain is of no other session."""
    return hashlib.sha256(_encoder.encode((_NAME, *ref))).digest()


def leaf_of(salt: bytes, content: str) -> bytes:
    return hmac.digest(salt, content.encode(), "sha256")


def link_of(before: bytes, record: Record) -> bytes:
    opened = _encoder.encode((record.session, record.seq, record.at_ms, record.kind, record.leaf))
    return hashlib.sha256(before + opened).digest()


def records_of(events: Iterable[e.Event], ref: SessionRef, salts: Mapping[str, bytes]) -> list[Record]:
    """The chain of a session, contents and salts included.

    Args:
        events: all of them in order, a fork's prefix first.
        salts: by session: the parents' are needed for a fork's prefix.
    """
    link = start_of(ref)
    out: list[Record] = []
    for event in events:
        whose = event.session.id
        for number, (kind, content) in enumerate(contents_of(event.body)):
            name = f"{whose}/{event.seq}/{kind}/{number}"
            salt = hmac.digest(salts[whose], name.encode(), "sha256")
            record = Record(
                session=whose, seq=event.seq, at_ms=event.at_ms, kind=kind, leaf=leaf_of(salt, content), link=b""
            )
            link = link_of(link, record)
            out.append(msgspec.structs.replace(record, link=link, salt=salt, content=content))
    return out


def kept_of(record: Record) -> Record:
    """What stays of a record when its session is erased."""
    return msgspec.structs.replace(record, salt=None, content=None)


def anchored(ref: SessionRef, records: Sequence[Record], at_ms: int, key: bytes, sign: Sign) -> Anchor:
    """Sign a chain as far as it goes."""
    link = records[-1].link if records else start_of(ref)
    anchor = Anchor(count=len(records), link=link, at_ms=at_ms, key=key, signature=b"")
    return msgspec.structs.replace(anchor, signature=sign(_signed_anchor(ref, anchor)))


def _signed_anchor(ref: SessionRef, anchor: Anchor) -> bytes:
    return _encoder.encode((_NAME, "anchor", *ref, anchor.count, anchor.link, anchor.at_ms))


def chain_lines(chain: Chain, records: Sequence[Record], anchors: Iterable[Anchor]) -> Generator[bytes]:
    """One chain's lines, without line ends: each anchor after as many records as it counts, or at the end."""
    yield _encoder.encode(chain)
    waiting = sorted(anchors, key=lambda each: (each.count, each.at_ms))
    for number, record in enumerate(records):
        while waiting and waiting[0].count <= number:
            yield _encoder.encode(waiting.pop(0))
        yield _encoder.encode(record)
    for anchor in waiting:
        yield _encoder.encode(anchor)


class Writer:
    """Makes an export out of chains' lines."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)
        self._digest = hashlib.sha256()
        self._chains = 0
        self._records = 0

    def begin(self) -> bytes:
        return self._add(_encoder.encode(Header(form=FORM, keys=self._keys)))

    def chain(self, lines: Iterable[bytes]) -> bytes:
        """The bytes of one chain."""
        out: list[bytes] = []
        for line in lines:
            self._records += line.startswith(b'{"type":"record"')
            out.append(self._add(line))
        self._chains += 1
        return b"".join(out)

    def end(self, at_ms: int, sign: Sign) -> bytes:
        """The last line. The first of the keys signs."""
        end = End(
            chains=self._chains,
            records=self._records,
            digest=self._digest.digest(),
            at_ms=at_ms,
            key=self._keys[0],
            signature=b"",
        )
        return _encoder.encode(msgspec.structs.replace(end, signature=sign(_signed_end(end)))) + b"\n"

    def _add(self, line: bytes) -> bytes:
        self._digest.update(line + b"\n")
        return line + b"\n"


def _signed_end(end: End) -> bytes:
    return _encoder.encode((_NAME, "end", end.chains, end.records, end.digest, end.at_ms))


# -- the check -----------------------------------------------------------------------------------------


class Broken(NamedTuple):
    """The first link that does not hold. ``line`` counts from 1; ``seq`` is 0 and ``kind`` empty outside a record."""

    line: int
    tenant: str
    session: str
    seq: int
    kind: str
    what: str


class Verdict(NamedTuple):
    """What a check found. ``erased`` of the chains have no contents any more; ``keys`` signed the anchors."""

    chains: int
    records: int
    erased: int
    anchors: int
    keys: tuple[bytes, ...]
    broken: Broken | None


class NotAnExport(Exception):
    """The first line is not that of an export that this release reads."""


class _Bad(Exception):
    """What is wrong at the line that is being read."""


class _Reading:
    """Where a check stands."""

    def __init__(self, check: Check, trusted: Sequence[bytes]) -> None:
        self.check = check
        self.trusted = tuple(trusted)
        self.digest = hashlib.sha256()
        self.chain: Chain | None = None
        self.last: Record | None = None
        self.link = b""
        self.count = 0
        self.covered = -1
        self.chains = self.records = self.erased = self.anchors = 0
        self.seen: set[tuple[str, str]] = set()
        self.ended = False

    def header(self, line: bytes) -> None:
        try:
            header = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise NotAnExport("the first line is not the header of an audit export") from None
        if type(header) is not Header or header.form != FORM:
            raise NotAnExport(f"the first line is not the header of an audit export of form {FORM}")
        if _encoder.encode(header) != line:
            raise _Bad("the header is not written as it was made")
        if not self.trusted:
            self.trusted = header.keys
        elif not set(header.keys) <= set(self.trusted):
            raise _Bad("the header names a key that is not trusted")

    def take(self, line: bytes) -> None:
        self.last = None
        if self.ended:
            raise _Bad("a line comes after the end")
        try:
            found = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Bad("the line is not one of an export") from None
        if type(found) is Record:
            self.last = found
        if _encoder.encode(found) != line:
            raise _Bad("the line is not written as it was made")
        if type(found) is Record:
            self.record(found)
        elif type(found) is Anchor:
            self.anchor(found)
        elif type(found) is Chain:
            self.begin(found)
        elif type(found) is End:
            self.end(found)
        else:
            raise _Bad("a second header")

    def begin(self, chain: Chain) -> None:
        self.close()
        if (chain.tenant, chain.session) in self.seen:
            raise _Bad(f"the chain of session {chain.session} is here twice")
        self.seen.add((chain.tenant, chain.session))
        self.chain, self.count, self.covered = chain, 0, -1
        self.link = start_of(SessionRef(chain.tenant, chain.session))
        self.chains += 1
        self.erased += chain.erased

    def record(self, record: Record) -> None:
        if self.chain is None:
            raise _Bad("a record of no chain")
        if record.content is not None and record.salt is not None:
            if not hmac.compare_digest(leaf_of(record.salt, record.content), record.leaf):
                raise _Bad("its content or salt is not what was digested")
        elif not self.chain.erased or record.content is not None or record.salt is not None:
            raise _Bad("its content or salt is missing, and its session is not erased")
        if not hmac.compare_digest(link_of(self.link, record), record.link):
            raise _Bad("its link does not follow from the one before: it, or what came before it, was changed")
        self.link = record.link
        self.count += 1
        self.records += 1

    def anchor(self, anchor: Anchor) -> None:
        if self.chain is None:
            raise _Bad("an anchor of no chain")
        self.signed(
            anchor.key, anchor.signature, _signed_anchor(SessionRef(self.chain.tenant, self.chain.session), anchor)
        )
        if anchor.count != self.count:
            raise _Bad(f"the anchor is over {anchor.count} records, and {self.count} are here")
        if not hmac.compare_digest(anchor.link, self.link):
            raise _Bad(f"the first {anchor.count} records are not those that were signed")
        self.covered = self.count
        self.anchors += 1

    def close(self) -> None:
        if self.chain is not None and self.covered != self.count:
            raise _Bad("the last records of the chain have no anchor")

    def end(self, end: End) -> None:
        self.close()
        self.chain = None
        self.signed(end.key, end.signature, _signed_end(end))
        if (end.chains, end.records) != (self.chains, self.records):
            raise _Bad(f"{end.chains} chains with {end.records} records were exported, not what is here")
        if not hmac.compare_digest(end.digest, self.digest.digest()):
            raise _Bad("the lines are not those that were exported")
        self.ended = True

    def signed(self, key: bytes, signature: bytes, message: bytes) -> None:
        if key not in self.trusted:
            raise _Bad("it is signed with a key that is not trusted")
        if not self.check(key, signature, message):
            raise _Bad("its signature does not hold")

    def verdict(self, line: int, what: str | None) -> Verdict:
        broken = None
        if what is not None:
            chain, last = self.chain, self.last
            broken = Broken(
                line,
                "" if chain is None else chain.tenant,
                "" if chain is None else chain.session,
                0 if last is None else last.seq,
                "" if last is None else last.kind,
                what,
            )
        return Verdict(self.chains, self.records, self.erased, self.anchors, self.trusted, broken)


def verify(lines: Iterable[bytes], check: Check, trusted: Sequence[bytes] = ()) -> Verdict:
    """Check an export, up to the first thing that does not hold.

    Args:
        lines: its lines with their ends.
        trusted: public keys; none: those that the export itself names, so that it holds together, whoever signed it.

    Raises:
        NotAnExport: the first line is none of an export.
    """
    reading = _Reading(check, trusted)
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith(b"\n"):
                raise _Bad("the line is cut off")
            if number == 1:
                reading.header(line[:-1])
            else:
                reading.take(line[:-1])
        except _Bad as bad:
            return reading.verdict(number, str(bad))
        reading.digest.update(line)
    if number == 0:
        raise NotAnExport("the file is empty")
    reading.last = None
    return reading.verdict(number + 1, None if reading.ended else "the export is cut off: its end is missing")
