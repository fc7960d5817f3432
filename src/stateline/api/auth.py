"""Who may call: what the API needs of an authenticator and of the key store, as protocols.

``identity`` implements them; neither imports the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

SCOPE_API = "api"
SCOPE_ADMIN = "admin"


class Principal(Protocol):
    """Who a request speaks for. ``id`` is a key's id or ``anonymous``."""

    @property
    def tenant(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def scopes(self) -> frozenset[str]: ...


class Authenticator(Protocol):
    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Find out who sent these headers (names in lower case).

        Raises:
            Unauthorized: no key, or one that is unknown, revoked or expired.
        """
        ...


class KeyRecord(Protocol):
    """An API key as it may be shown: never the key itself. Times are Unix milliseconds."""

    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def created_at_ms(self) -> int: ...
    @property
    def expires_at_ms(self) -> int | None: ...
    @property
    def revoked_at_ms(self) -> int | None: ...


class KeyAdmin(Protocol):
    async def create(self, tenant: str, name: str, expires_in_s: int | None = None) -> tuple[KeyRecord, str]:
        """Make a key; the second value is the key, which nobody can show again.

        Raises:
            BadRequest: a tenant or name that may not be.
        """
        ...

    async def list(self) -> Sequence[KeyRecord]:
        """All keys, oldest first, revoked ones included."""
        ...

    async def revoke(self, key_id: str) -> KeyRecord:
        """End a key for good; doing it twice is no error.

        Raises:
            NotFound: no such key.
        """
        ...
