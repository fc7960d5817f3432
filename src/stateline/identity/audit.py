"""Signing sessions' audit chains, and keeping them when the sessions are erased.

A session's salt lies in a session of its own, made when the chain is first wanted; signed anchors, and the links of an
erased session, in another. Erasing destroys the first one and the content, and leaves the second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stateline.core import audit
from stateline.core.errors import BadRequest, NotFound
from stateline.core.events import AuditKept, AuditSalted, Event
from stateline.core.ids import SYSTEM_TENANT, SessionRef, may_be_session, session_id
from stateline.core.limits import AUDIT_SEGMENT_RECORDS_MAX
from stateline.core.links import Anchor, Chain, Record
from stateline.identity.log import SystemLog
from stateline.identity.raw_keys import raw_key
from stateline.ports import Clock, SessionMissing, Store

_SALT_BYTES = 32
_KEYS_MAX = 8
_AT_ONCE = 16
"""Sessions whose chains are kept at once: each has its log in memory."""


class AuditKey:
    """An Ed25519 key. ``public`` is its 32 bytes that others may know."""

    __slots__ = ("_private", "public")

    def __init__(self, raw: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(raw)
        self.public = self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


def audit_keys(text: str) -> tuple[AuditKey, ...]:
    """Private keys in base64, one a line; the first one signs.

    Raises:
        BadRequest: ``audit_key_invalid``; the text is not repeated.
    """
    return tuple(AuditKey(raw) for raw in _keys(text.split(), "the audit's key file"))


def public_keys(texts: Iterable[str]) -> tuple[bytes, ...]:
    """Public keys in base64.

    Raises:
        BadRequest: ``audit_key_invalid``.
    """
    return tuple(_keys(list(texts), "--key"))


def _keys(texts: Sequence[str], where: str) -> list[bytes]:
    out: list[bytes] = []
    for number, text in enumerate(texts, 1):
        raw = raw_key(text)
        if raw is None:
            message = f"Key {number} of {where} is not 32 bytes in base64; `stateline audit key` makes one."
            raise BadRequest(message, code="audit_key_invalid")
        out.append(raw)
    if not 0 < len(out) <= _KEYS_MAX:
        raise BadRequest(f"There must be 1 to {_KEYS_MAX} keys in {where}.", code="audit_key_invalid")
    return out


def check_signature(key: bytes, signature: bytes, message: bytes) -> bool:
    """An ``audit.Check``."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class _Apart:
    """What the system keeps about one session's chain, in a session of its own."""

    def __init__(self, auditor: Auditor, what: Literal["salt", "chain"], ref: SessionRef) -> None:
        self.ref = apart(what, ref)
        self.salt: bytes | None = None
        self.anchors: list[Anchor] = []
        self.records: list[Record] = []
        self.log = SystemLog(self.ref, "audit", auditor.store, auditor.clock, auditor.entropy, apply=self._apply)

    def _apply(self, event: Event) -> None:
        body = event.body
        if type(body) is AuditSalted and self.salt is None:
            self.salt = body.salt
        elif type(body) is AuditKept:
            self.anchors.append(body.anchor)
            # An erasure that was cut short has left some of them already, and they are the same.
            first = body.anchor.count - len(body.records)
            self.records[first : body.anchor.count] = body.records


class Auditor:
    """The chains of all sessions.

    Args:
        entropy: ``entropy(n)`` gives n random bytes, fit for secrets.
        keys: the first one signs.
    """

    def __init__(self, store: Store, clock: Clock, entropy: Callable[[int], bytes], keys: Sequence[AuditKey]) -> None:
        self.store = store
        self.clock = clock
        self.entropy = entropy
        self._keys = keys
        self._swept = False

    async def chain(self, tenant: str, session: str) -> list[str]:
        """A session's chain as the lines of an export, anchored as far as it goes.

        Raises:
            NotFound: ``session_not_found``: there is none, and never was one that was erased with its chain kept.
        """
        ref = SessionRef(tenant, session)
        if tenant.partition("/")[0] == SYSTEM_TENANT or not (may_be_session(session) and tenant.isprintable()):
            raise _missing()
        kept = _Apart(self, "chain", ref)
        await kept.log.load()
        try:
            records, erased = await self._records(ref), False
        except SessionMissing:
            if not kept.records:
                raise _missing() from None
            records, erased = kept.records, True
        else:
            await self._anchored(kept, ref, records)
        head = Chain(tenant=tenant, session=session, erased=erased)
        return [line.decode() for line in audit.chain_lines(head, records, kept.anchors)]

    async def anchor(self, ref: SessionRef) -> bool:
        """Sign a session's chain as far as it goes; whether it has gone on since the last time.

        Raises:
            SessionMissing: it is not there.
        """
        kept = _Apart(self, "chain", ref)
        await kept.log.load()
        return await self._anchored(kept, ref, await self._records(ref))

    async def _anchored(self, kept: _Apart, ref: SessionRef, records: Sequence[Record]) -> bool:
        anchor = self._anchor(ref, records)
        if any(each.count == anchor.count and each.link == anchor.link for each in kept.anchors):
            return False
        await kept.log.append(AuditKept(tenant=ref.tenant, session=ref.id, anchor=anchor))
        return True

    async def keep(self, refs: Sequence[SessionRef]) -> None:
        """Keep the chains of sessions that are about to be erased, without contents and salts.

        A ``stateline.ports.Witness``; so is ``forget``.
        """
        if not self._swept:
            await self._sweep()
            self._swept = True
        for at in range(0, len(refs), _AT_ONCE):
            await asyncio.gather(*(self._keep(ref) for ref in refs[at : at + _AT_ONCE]))

    async def forget(self, refs: Sequence[SessionRef]) -> None:
        """Destroy the salts of sessions that are erased."""
        self._swept = False
        for ref in refs:
            await self.store.erase(apart("salt", ref))
        self._swept = True

    async def _keep(self, ref: SessionRef) -> None:
        try:
            records = await self._records(ref)
        except SessionMissing:
            return  # Another node has erased it.
        kept = _Apart(self, "chain", ref)
        await kept.log.load()
        for first in range(0, len(records), AUDIT_SEGMENT_RECORDS_MAX):
            until = first + AUDIT_SEGMENT_RECORDS_MAX
            body = AuditKept(
                tenant=ref.tenant,
                session=ref.id,
                anchor=self._anchor(ref, records[:until]),
                records=tuple(map(audit.kept_of, records[first:until])),
                erased=True,
            )
            await kept.log.append(body)

    async def _sweep(self) -> None:
        """Destroy salts that outlived their sessions: a process died between the two erasures."""
        before: str | None = None
        while names := await self.store.sessions(SALTS_TENANT, before, 100):
            for name in names:
                await self._sweep_one(SessionRef(SALTS_TENANT, name))
            before = names[-1]

    async def _sweep_one(self, salt: SessionRef) -> None:
        async for event in self.store.read(salt):
            body = event.body
            if type(body) is AuditSalted:
                try:
                    async for _ in self.store.read(SessionRef(body.tenant, body.session)):
                        return
                except SessionMissing:
                    await self.store.erase(salt)
                return

    async def _records(self, ref: SessionRef) -> list[Record]:
        events = [event async for event in self.store.read(ref)]
        salts = {name: await self._salt(SessionRef(ref.tenant, name)) for name in {each.session.id for each in events}}
        return audit.records_of(events, ref, salts)

    async def _salt(self, ref: SessionRef) -> bytes:
        kept = _Apart(self, "salt", ref)
        await kept.log.load()
        if kept.salt is None:
            # The first one that is there counts, whoever wrote it.
            salt = self.entropy(_SALT_BYTES)
            await kept.log.append(AuditSalted(tenant=ref.tenant, session=ref.id, salt=salt))
        assert kept.salt is not None
        return kept.salt

    def _anchor(self, ref: SessionRef, records: Sequence[Record]) -> Anchor:
        key = self._keys[0]
        return audit.anchored(ref, records, self.clock.now_ms(), key.public, key.sign)


SALTS_TENANT = f"{SYSTEM_TENANT}/salts"
CHAINS_TENANT = f"{SYSTEM_TENANT}/chains"
"""Whose sessions are salts, and what is kept of chains; no caller's tenant has a slash."""


def apart(what: Literal["salt", "chain"], ref: SessionRef) -> SessionRef:
    """Where a session's salt is kept, or what stays of its chain."""
    name = blake2b(msgspec.json.encode((what, *ref)), digest_size=9, person=b"stateline-audit").digest()
    return SessionRef(SALTS_TENANT if what == "salt" else CHAINS_TENANT, session_id(0, name))


def _missing() -> NotFound:
    return NotFound("the session was not found", code="session_not_found", param="session")
