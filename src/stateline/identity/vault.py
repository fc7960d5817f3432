"""Tools' credentials, sealed in the log and opened at the moment of the call.

Each value has a data key of its own, and a master key from outside the database wraps that (AES-256-GCM, NIST SP
800-38D, with random 96-bit nonces: a data key seals one value, and a master key wraps far fewer than 2**32). Both are
bound to tenant and name as associated data, so a record that is moved to another name or tenant does not open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stateline.core.errors import BadRequest, NotFound, StatelineError
from stateline.core.events import Event, SecretRemoved, SecretStored
from stateline.core.ids import SYSTEM_TENANT, SessionRef, session_id
from stateline.core.limits import KEYS_REFRESH_S, SECRET_BYTES_MAX, SECRET_NAME_CHARS_MAX, SECRETS_MAX, VAULT_KEYS_MAX
from stateline.core.secrets import Secret, checked_name
from stateline.identity.keys import check_tenant
from stateline.identity.log import SystemLog
from stateline.identity.raw_keys import raw_key
from stateline.ports import Clock, Store

VAULT_SESSION = SessionRef(SYSTEM_TENANT, session_id(0, blake2b(b"stateline/vault", digest_size=9).digest()))
_KEY_BYTES = 32
_NONCE_BYTES = 12


class VaultUnusable(StatelineError):
    """The vault cannot open what it should. The operator has to look."""

    blame = "operator"


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
        raw = raw_key(line)
        if raw is None:
            raise BadRequest(
                f"Master key {number} of the vault is not 32 bytes in base64; `stateline vault key` makes one.",
                code="vault_key_invalid",
            )
        keys.append(MasterKey(raw))
    return tuple(keys)


class Sealed:
    """What the log says of secrets, and the master keys that open them.

    Args:
        keys: the master keys.
    """

    def __init__(self, keys: Sequence[MasterKey]) -> None:
        self._keys = {key.id: key for key in keys}
        self.records: dict[tuple[str, str], SecretStored] = {}
        """By tenant and name."""

    def apply(self, event: Event) -> None:
        body = event.body
        if isinstance(body, SecretStored):
            self.records[body.tenant, body.name] = body
        elif isinstance(body, SecretRemoved):
            self.records.pop((body.tenant, body.name), None)

    def find(self, tenant: str, name: str) -> SecretStored:
        """The record of a secret.

        Raises:
            NotFound: ``secret_not_found``.
        """
        record = self.records.get((tenant, name))
        if record is None:
            raise NotFound(f"There is no secret {name[:SECRET_NAME_CHARS_MAX]!r}.", code="secret_not_found")
        return record

    def open(self, tenant: str, name: str) -> Secret:
        """The value, and as its version what it was sealed to.

        Raises:
            NotFound: ``secret_not_found``: the tenant has none of that name.
            VaultUnusable: its master key is not configured, or the record was tampered with.
        """
        record = self.find(tenant, name)
        data_key, sealed = self.data_key(record), record.sealed
        try:
            raw = AESGCM(data_key).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], b"value:" + _bound(tenant, name)
            )
        except (InvalidTag, ValueError):
            raise _tampered(record) from None
        # Rotating wraps the data key anew and leaves this as it is; setting a value, be it the same, does not.
        return Secret(raw.decode(), blake2b(sealed, digest_size=12).hexdigest())

    def data_key(self, record: SecretStored) -> bytes:
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
        self._sealed = Sealed(keys)
        self._log = SystemLog(VAULT_SESSION, "vault", store, clock, entropy, apply=self._sealed.apply)

    async def put(self, tenant: str, name: str, value: Secret) -> Stored:
        """Seal a value under a new data key; it takes the place of one of the same name.

        Raises:
            BadRequest: a tenant, name or value that may not be, or SECRETS_MAX are there.
        """
        check_tenant(tenant)
        checked_name(name)
        raw = value.reveal().encode()
        if not 0 < len(raw) <= SECRET_BYTES_MAX:
            raise BadRequest(f"A secret has 1 to {SECRET_BYTES_MAX} bytes.", code="invalid_value", param="value")
        await self._log.load()
        if len(self._sealed.records) >= SECRETS_MAX and (tenant, name) not in self._sealed.records:
            raise BadRequest(f"There are {SECRETS_MAX} secrets, which is all that fit.", code="too_many_secrets")
        bound, data_key = _bound(tenant, name), self._entropy(_KEY_BYTES)
        nonce = self._entropy(_NONCE_BYTES)
        sealed = nonce + AESGCM(data_key).encrypt(nonce, raw, b"value:" + bound)
        await self._log.append(self._wrapped(tenant, name, data_key, sealed, self._clock.now_ms()))
        return _shown(self._sealed.records[tenant, name])

    async def put_text(self, tenant: str, name: str, value: str) -> Stored:
        """``put`` for who gets the value as text, such as out of a request."""
        return await self.put(tenant, name, Secret(value))

    async def list(self) -> Sequence[Stored]:
        """What there is, by tenant and name, without any value."""
        await self._log.load()
        return tuple(_shown(self._sealed.records[key]) for key in sorted(self._sealed.records))

    async def remove(self, tenant: str, name: str) -> Stored:
        """Take a secret out of use.

        Raises:
            NotFound: ``secret_not_found``.
        """
        await self._log.load()
        record = self._sealed.find(tenant, name)
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
        return self._sealed.open(tenant, name)

    async def rotate(self) -> int:
        """Wrap every data key under the master key in force; how many were under another one.

        Raises:
            VaultUnusable: one cannot be opened; those before it are done, and a second run goes on.
        """
        await self._log.load()
        old = [each for each in self._sealed.records.values() if each.key_id != self._current.id]
        for each in old:
            data_key = self._sealed.data_key(each)
            await self._log.append(self._wrapped(each.tenant, each.name, data_key, each.sealed, each.written_at_ms))
        return len(old)

    def _wrapped(self, tenant: str, name: str, data_key: bytes, sealed: bytes, written_at_ms: int) -> SecretStored:
        key = self._current
        wrapped = key.wrap(data_key, self._entropy(_NONCE_BYTES), _bound(tenant, name))
        return SecretStored(
            tenant=tenant, name=name, key_id=key.id, wrapped=wrapped, sealed=sealed, written_at_ms=written_at_ms
        )


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
