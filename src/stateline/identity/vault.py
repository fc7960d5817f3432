"""Tools' credentials, sealed in the log and opened at the moment of the call.

Each value has a data key of its own, and a master key from outside the database wraps that (AES-256-GCM, NIST SP
800-38D, with random 96-bit nonces: a data key seals one value, and a master key wraps far fewer than 2**32). Both are
bound to tenant and name as associated data, so a record that is moved to another name or tenant does not open.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NoReturn

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stateline.core.errors import BadRequest, NotFound, StatelineError
from stateline.core.events import Event, SecretRemoved, SecretStored
from stateline.core.ids import SYSTEM_TENANT, SessionRef, session_id
from stateline.core.limits import KEYS_REFRESH_S, SECRET_BYTES_MAX, SECRET_NAME_CHARS_MAX, SECRETS_MAX, VAULT_KEYS_MAX
from stateline.identity.keys import check_tenant
from stateline.identity.log import SystemLog
from stateline.ports import Clock, Store

VAULT_SESSION = SessionRef(SYSTEM_TENANT, session_id(0, blake2b(b"stateline/vault", digest_size=9).digest()))
REFERENCE = "vault:"
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{SECRET_NAME_CHARS_MAX - 1}}}")
_KEY_BYTES = 32
_NONCE_BYTES = 12


class VaultUnusable(StatelineError):
    """The vault cannot open what it should. The operator has to look."""

    blame = "operator"


class Secret:
    """A value that prints nowhere. ``reveal`` gives it, and is called where it leaves the process and nowhere else."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __str__(self) -> NoReturn:
        # Not a placeholder: that would be sent as the credential, and nobody would know why it does not work.
        raise TypeError("a secret is not for printing; reveal() it where it is used")

    def __format__(self, spec: str) -> NoReturn:
        str(self)
        raise AssertionError

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not for keeping or copying")


class MasterKey:
    """32 bytes and what they are called in records, which tells nothing of them."""

    __slots__ = ("_cipher", "id")

    def __init__(self, raw: bytes) -> None:
        self._cipher = AESGCM(raw)
        self.id = blake2b(key=raw, person=b"stateline-vault", digest_size=8).hexdigest()

    def wrap(self, data_key: bytes, nonce: bytes, bound: bytes) -> bytes:
        return nonce + self._cipher.encrypt(nonce, data_key, b"key:" + bound)

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], b"key:" + bound)


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A secret as it may be shown."""

    tenant: str
    name: str
    key_id: str
    written_at_ms: int


def new_master_key(entropy: Callable[[int], bytes]) -> str:
    return b64encode(entropy(_KEY_BYTES)).decode()


def master_keys(text: str) -> tuple[MasterKey, ...]:
    """Keys in base64, one a line; the first one wraps, and all of them open.

    Raises:
        BadRequest: ``vault_key_invalid``; the text is not repeated.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 0 < len(lines) <= VAULT_KEYS_MAX:
        raise BadRequest(f"The vault needs 1 to {VAULT_KEYS_MAX} master keys, one a line.", code="vault_key_invalid")
    keys: list[MasterKey] = []
    for number, line in enumerate(lines, 1):
        try:
            raw = b64decode(line, validate=True)
        except (NotBase64, ValueError):
            raw = b""
        if len(raw) != _KEY_BYTES:
            raise BadRequest(
                f"Master key {number} of the vault is not 32 bytes in base64; `stateline vault key` makes one.",
                code="vault_key_invalid",
            )
        keys.append(MasterKey(raw))
    return tuple(keys)


def reference_of(text: str) -> str | None:
    """The name in ``vault:NAME``; None where the text is no reference.

    Raises:
        BadRequest: ``invalid_value``: a reference to what cannot be a name.
    """
    if not text.startswith(REFERENCE):
        return None
    return _checked_name(text.removeprefix(REFERENCE))


class Vault:
    """The secrets of all tenants.

    Args:
        keys: the master keys, the one in force first.
        entropy: ``entropy(n)`` gives n random bytes.
    """

    def __init__(self, store: Store, clock: Clock, entropy: Callable[[int], bytes], keys: Sequence[MasterKey]) -> None:
        self._clock = clock
        self._entropy = entropy
        self._current = keys[0]
        self._keys = {key.id: key for key in keys}
        self._records: dict[tuple[str, str], SecretStored] = {}
        self._log = SystemLog(VAULT_SESSION, "vault", store, clock, entropy, apply=self._apply)

    async def put(self, tenant: str, name: str, value: Secret) -> Stored:
        """Seal a value under a new data key; it takes the place of one of the same name.

        Raises:
            BadRequest: a tenant, name or value that may not be, or SECRETS_MAX are there.
        """
        check_tenant(tenant)
        _checked_name(name)
        raw = value.reveal().encode()
        if not 0 < len(raw) <= SECRET_BYTES_MAX:
            raise BadRequest(f"A secret has 1 to {SECRET_BYTES_MAX} bytes.", code="invalid_value", param="value")
        await self._log.load()
        if len(self._records) >= SECRETS_MAX and (tenant, name) not in self._records:
            raise BadRequest(f"There are {SECRETS_MAX} secrets, which is all that fit.", code="too_many_secrets")
        bound, data_key = _bound(tenant, name), self._entropy(_KEY_BYTES)
        nonce = self._entropy(_NONCE_BYTES)
        sealed = nonce + AESGCM(data_key).encrypt(nonce, raw, b"value:" + bound)
        await self._log.append(self._wrapped(tenant, name, data_key, sealed, self._clock.now_ms()))
        return _shown(self._records[tenant, name])

    async def put_text(self, tenant: str, name: str, value: str) -> Stored:
        """``put`` for who gets the value as text, such as out of a request."""
        return await self.put(tenant, name, Secret(value))

    async def list(self) -> Sequence[Stored]:
        """What there is, by tenant and name, without any value."""
        await self._log.load()
        return tuple(_shown(self._records[key]) for key in sorted(self._records))

    async def remove(self, tenant: str, name: str) -> Stored:
        """Take a secret out of use.

        Raises:
            NotFound: ``secret_not_found``.
        """
        await self._log.load()
        record = self._find(tenant, name)
        await self._log.append(SecretRemoved(tenant=tenant, name=name))
        return _shown(record)

    async def open(self, tenant: str, name: str) -> Secret:
        """The value, for the call that needs it now.

        Raises:
            NotFound: ``secret_not_found``: the tenant has none of that name.
            VaultUnusable: its master key is not configured, or the record was tampered with.
        """
        if self._clock.now_ms() - self._log.read_at_ms > KEYS_REFRESH_S * 1000:
            await self._log.load()
        record = self._find(tenant, name)
        data_key, sealed = self._data_key(record), record.sealed
        try:
            raw = AESGCM(data_key).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], b"value:" + _bound(tenant, name)
            )
        except (InvalidTag, ValueError):
            raise _tampered(record) from None
        return Secret(raw.decode())

    async def rotate(self) -> int:
        """Wrap every data key under the master key in force; how many were under another one.

        Raises:
            VaultUnusable: one cannot be opened; those before it are done, and a second run goes on.
        """
        await self._log.load()
        old = [each for each in self._records.values() if each.key_id != self._current.id]
        for each in old:
            data_key = self._data_key(each)
            await self._log.append(self._wrapped(each.tenant, each.name, data_key, each.sealed, each.written_at_ms))
        return len(old)

    def _wrapped(self, tenant: str, name: str, data_key: bytes, sealed: bytes, written_at_ms: int) -> SecretStored:
        key = self._current
        wrapped = key.wrap(data_key, self._entropy(_NONCE_BYTES), _bound(tenant, name))
        return SecretStored(
            tenant=tenant, name=name, key_id=key.id, wrapped=wrapped, sealed=sealed, written_at_ms=written_at_ms
        )

    def _data_key(self, record: SecretStored) -> bytes:
        key = self._keys.get(record.key_id)
        if key is None:
            raise VaultUnusable(
                f"The secret {record.name!r} of {record.tenant} is under the master key {record.key_id}, which is not "
                "configured; add it to the vault's keys.",
                code="vault_key_missing",
            )
        try:
            return key.unwrap(record.wrapped, _bound(record.tenant, record.name))
        except (InvalidTag, ValueError):
            raise _tampered(record) from None

    def _find(self, tenant: str, name: str) -> SecretStored:
        record = self._records.get((tenant, name))
        if record is None:
            raise NotFound(f"There is no secret {name[:SECRET_NAME_CHARS_MAX]!r}.", code="secret_not_found")
        return record

    def _apply(self, event: Event) -> None:
        body = event.body
        if isinstance(body, SecretStored):
            self._records[body.tenant, body.name] = body
        elif isinstance(body, SecretRemoved):
            self._records.pop((body.tenant, body.name), None)


def _tampered(record: SecretStored) -> VaultUnusable:
    return VaultUnusable(
        f"The secret {record.name!r} of {record.tenant} does not open: its record was changed.",
        code="secret_unreadable",
    )


def _shown(record: SecretStored) -> Stored:
    return Stored(tenant=record.tenant, name=record.name, key_id=record.key_id, written_at_ms=record.written_at_ms)


def _bound(tenant: str, name: str) -> bytes:
    """JSON, so that no tenant and name run together as another pair."""
    return msgspec.json.encode((tenant, name))


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"A secret's name has 1 to {SECRET_NAME_CHARS_MAX} letters, digits, dots, dashes or underscores, "
            "and begins with a letter or digit.",
            code="invalid_value",
            param="name",
        )
    return name
