"""Who may call: what the API needs of an authenticator and of the key store, as protocols.

``identity`` implements them; neither imports the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from stateline.core.errors import Forbidden, StatelineError
from stateline.core.principals import ADMIN, RESPONSES, Principal

SCOPE_API = RESPONSES
SCOPE_ADMIN = ADMIN


def require(principal: Principal, scope: str) -> None:
    """Raises:
    Forbidden: the caller may not do that.
    """
    if scope not in principal.scopes:
        raise Forbidden(f"This needs the scope '{scope}', which your credentials do not have.")


def challenge(error: StatelineError) -> bytes:
    """``WWW-Authenticate`` of a 401; a token that was sent and is not good is told so (RFC 6750, 3.1)."""
    return b"Bearer" if error.code == "invalid_api_key" else b'Bearer error="invalid_token"'


def require_agent(principal: Principal, model: str | None) -> None:
    """A key that is bound to an agent calls nothing else.

    Raises:
        Forbidden: ``agent_bound``.
    """
    if principal.agent and model != f"agent/{principal.agent}":
        raise Forbidden(f"This key is for the model 'agent/{principal.agent}' alone.", code="agent_bound")


class Authenticator(Protocol):
    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Find out who sent these headers (names in lower case).

        Raises:
            Unauthorized: no key, or one that is unknown, revoked or expired.
        """
        ...


class SecretRecord(Protocol):
    """A tool's credential as it may be shown: never its value."""

    @property
    def tenant(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def written_at_ms(self) -> int: ...


class SecretAdmin(Protocol):
    """The vault, without what opens it."""

    async def put_text(self, tenant: str, name: str, value: str) -> SecretRecord: ...
    async def list(self) -> Sequence[SecretRecord]: ...
    async def remove(self, tenant: str, name: str) -> SecretRecord: ...
    async def rotate(self) -> int: ...


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
    @property
    def scopes(self) -> tuple[str, ...]: ...
    @property
    def user(self) -> str: ...
    @property
    def agent(self) -> str: ...


class KeyAdmin(Protocol):
    async def create(
        self,
        tenant: str,
        name: str,
        expires_in_s: int | None = None,
        *,
        scopes: Sequence[str] | None = None,
        user: str = "",
        agent: str = "",
    ) -> tuple[KeyRecord, str]:
        """Make a key; the second value is the key, which nobody can show again.

        Raises:
            BadRequest: a tenant, name or scope that may not be.
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
