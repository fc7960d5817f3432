"""API keys, kept in the log like everything else.

A key is ``sk-sl-`` and 32 random bytes. Only its SHA-256 is stored: a password needs a slow, salted hash
because it can be guessed, and 256 random bits cannot, so a fast hash is right and costs a request nothing.
Keys live in one system session, as KeyCreated and KeyRevoked events; each node folds them into an index
and reads the log's tail when its index is older than KEYS_REFRESH_S.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b, sha256
from hmac import compare_digest

import msgspec

from stateline.core.errors import BadRequest, NotFound, Unauthorized
from stateline.core.events import Event, KeyCreated, KeyRevoked
from stateline.core.ids import SYSTEM_TENANT, SessionRef, base32, session_id
from stateline.core.limits import (
    KEY_NAME_CHARS_MAX,
    KEYS_MAX,
    KEYS_REFRESH_S,
    KEYS_UNKNOWN_REFRESH_S,
    PRINCIPAL_NAME_CHARS_MAX,
    TENANT_CHARS_MAX,
)
from stateline.core.principals import ADMIN, APPROVE, DEFAULT_SCOPES, Principal, checked_scopes
from stateline.identity.log import SystemLog
from stateline.ports import Clock, Store

PREFIX = "sk-sl-"
KEYS_SESSION = SessionRef(SYSTEM_TENANT, session_id(0, blake2b(b"stateline/keys", digest_size=9).digest()))
"""Derived, so every node finds it without asking."""

_KEY_BYTES = 32
_ID_BYTES = 10
# Whoever is at this machine may answer for a person; what needs two people cannot be had with one tenant for all.
_OPEN = DEFAULT_SCOPES | {APPROVE}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be shown. Times are Unix milliseconds; ``hash`` is SHA-256, in hex."""

    id: str
    tenant: str
    name: str
    hash: str
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    scopes: tuple[str, ...] = ()
    user: str = ""
    agent: str = ""


class OpenAuthenticator:
    """``auth.mode = "open"``: everybody on this machine is one tenant. An admin token still counts."""

    def __init__(self, admin_token: str | None = None) -> None:
        self._admin = AdminToken(admin_token)
        self._anonymous = Principal(tenant="default", kind="open", id="anonymous", scopes=_OPEN)

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        return self._admin.caller(bearer(headers)) or self._anonymous


class Keys:
    """The keys of all tenants; an authenticator, and what manages them.

    Args:
        entropy: ``entropy(n)`` gives n random bytes.
        admin_token: what the command line proves itself with; None: nobody is admin.
    """

    def __init__(
        self, store: Store, clock: Clock, entropy: Callable[[int], bytes], admin_token: str | None = None
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._admin = AdminToken(admin_token)
        self._by_hash: dict[str, tuple[Record, Principal]] = {}
        self._records: dict[str, Record] = {}
        self._log = SystemLog(KEYS_SESSION, "keys", store, clock, entropy, apply=self._apply)

    # -- who calls ------------------------------------------------------------------------------------

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Find out for whom the key speaks.

        Raises:
            Unauthorized: no key, or one that is unknown, revoked or expired.
        """
        token = bearer(headers)
        if token is None:
            raise Unauthorized("No API key was sent. Send it as 'Authorization: Bearer sk-sl-…'.")
        admin = self._admin.caller(token)
        if admin is not None:
            return admin
        now_ms = self._clock.now_ms()
        if now_ms - self._log.read_at_ms > KEYS_REFRESH_S * 1000:
            await self.load()
        # The look-up is by hash, so how long it takes tells nothing of the keys; the comparison is
        # constant-time all the same, for this is the line that an audit looks for.
        hashed = sha256(token).hexdigest()
        found = self._by_hash.get(hashed)
        if found is None and now_ms - self._log.read_at_ms > KEYS_UNKNOWN_REFRESH_S * 1000:
            # It may have been made on another node since.
            await self.load()
            found = self._by_hash.get(hashed)
        if found is None or not compare_digest(found[0].hash, hashed):
            raise Unauthorized("The API key is not known here, or was revoked.")
        record, principal = found
        if record.revoked_at_ms is not None:
            raise Unauthorized("The API key is not known here, or was revoked.")
        if record.expires_at_ms is not None and record.expires_at_ms <= now_ms:
            raise Unauthorized("The API key has expired; make a new one.")
        return principal

    def holds(self, tenant: str, principal: str) -> bool:
        """Whether a key still lets in; whoever is no key has another authority, and is not judged here."""
        record = self._records.get(principal)
        if record is None or record.tenant != tenant:
            return True
        expired = record.expires_at_ms is not None and record.expires_at_ms <= self._clock.now_ms()
        return record.revoked_at_ms is None and not expired

    # -- management -------------------------------------------------------------------------------------

    async def create(
        self,
        tenant: str,
        name: str,
        expires_in_s: int | None = None,
        *,
        scopes: Sequence[str] | None = None,
        user: str = "",
        agent: str = "",
    ) -> tuple[Record, str]:
        """Make a key. The second value is the key itself: it is not kept, and cannot be shown again.

        Args:
            scopes: what it may do; None: DEFAULT_SCOPES.
            user: the person for whom it speaks.
            agent: the one agent that it may use.

        Raises:
            BadRequest: a tenant, name or scope that may not be, or KEYS_MAX keys are there.
        """
        check_tenant(tenant)
        allowed = DEFAULT_SCOPES if scopes is None else checked_scopes(scopes)
        _check_bound("user", user)
        _check_bound("agent", agent)
        if not 0 < len(name) <= KEY_NAME_CHARS_MAX or not name.isprintable():
            raise BadRequest(
                f"A key's name has 1 to {KEY_NAME_CHARS_MAX} printable characters.", code="invalid_value", param="name"
            )
        await self.load()
        if len(self._records) >= KEYS_MAX:
            raise BadRequest(f"There are {KEYS_MAX} keys, which is all that fit.", code="too_many_keys")
        key = PREFIX + urlsafe_b64encode(self._entropy(_KEY_BYTES)).rstrip(b"=").decode()
        key_id = "key_" + base32(int.from_bytes(self._entropy(_ID_BYTES), "big"), 16)
        expires_at_ms = None if expires_in_s is None else self._clock.now_ms() + expires_in_s * 1000
        hashed = sha256(key.encode()).hexdigest()
        await self._log.append(
            KeyCreated(
                key_id=key_id,
                tenant=tenant,
                name=name,
                hash=hashed,
                expires_at_ms=expires_at_ms,
                scopes=tuple(sorted(allowed)),
                user=user,
                agent=agent,
            )
        )
        return self._records[key_id], key

    async def list(self) -> Sequence[Record]:
        """All keys, oldest first, revoked ones included."""
        await self.load()
        return tuple(self._records.values())

    async def revoke(self, key_id: str) -> Record:
        """End a key for good; doing it twice is no error.

        Raises:
            NotFound: no such key.
        """
        await self.load()
        record = self._records.get(key_id)
        if record is None:
            raise NotFound(f"There is no key {key_id[:64]!r}.", code="key_not_found", param="key_id")
        if record.revoked_at_ms is None:
            await self._log.append(KeyRevoked(key_id=key_id))
        return self._records[key_id]

    # -- the log ------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read what the log has gained since the last time."""
        await self._log.load()

    def _apply(self, event: Event) -> None:
        body = event.body
        if isinstance(body, KeyCreated):
            record = Record(
                id=body.key_id,
                tenant=body.tenant,
                name=body.name,
                hash=body.hash,
                created_at_ms=event.at_ms,
                expires_at_ms=body.expires_at_ms,
                scopes=body.scopes or tuple(sorted(DEFAULT_SCOPES)),
                user=body.user,
                agent=body.agent,
            )
        elif isinstance(body, KeyRevoked) and body.key_id in self._records:
            record = msgspec.structs.replace(self._records[body.key_id], revoked_at_ms=event.at_ms)
        else:
            return
        self._records[record.id] = record
        self._by_hash[record.hash] = record, principal_of(record)


class AdminToken:
    """The secret that the server writes beside its database for the command line."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token else None
        self._caller = Principal(tenant=SYSTEM_TENANT, kind="operator", id="admin", scopes=frozenset({ADMIN}))

    def caller(self, token: bytes | None) -> Principal | None:
        if self._token is None or token is None or not compare_digest(self._token, token):
            return None
        return self._caller


def principal_of(record: Record) -> Principal:
    """Whom a key speaks for."""
    return Principal(
        tenant=record.tenant,
        kind="key",
        id=record.id,
        user=record.user,
        agent=record.agent,
        scopes=frozenset(record.scopes),
    )


def bearer(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The token of ``Authorization: Bearer``, or of ``x-api-key`` as Anthropic's SDK sends it."""
    header = headers.get(b"authorization")
    if header is None:
        return headers.get(b"x-api-key")
    scheme, _, token = header.partition(b" ")
    token = token.strip()
    return token if scheme.lower() == b"bearer" and token else None


def _check_bound(param: str, name: str) -> None:
    if len(name) > PRINCIPAL_NAME_CHARS_MAX or not name.isprintable():
        raise BadRequest(
            f"The {param} of a key has up to {PRINCIPAL_NAME_CHARS_MAX} printable characters.",
            code="invalid_value",
            param=param,
        )


def check_tenant(tenant: str) -> None:
    """Raises:
    BadRequest: not a tenant's name.
    """
    sane = all(char.isascii() and (char.isalnum() or char in "._-") for char in tenant)
    if not 0 < len(tenant) <= TENANT_CHARS_MAX or not sane or tenant == SYSTEM_TENANT:
        raise BadRequest(
            f"A tenant's name has 1 to {TENANT_CHARS_MAX} letters, digits, dots, dashes or underscores, "
            f"and is not '{SYSTEM_TENANT}'.",
            code="invalid_value",
            param="tenant",
        )
