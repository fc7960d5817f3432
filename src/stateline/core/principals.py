"""Who a request speaks for, and what that one may do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from stateline.core.errors import BadRequest

RESPONSES: Final = "responses"
"""Model calls and what is kept of them: responses, conversations, chat, messages, embeddings, models."""
AGENTS: Final = "agents"
"""Make and change agents. To use one, RESPONSES is enough."""
USAGE: Final = "usage"
"""Read what was used and spent: usage, budgets, placements, metrics."""
AUDIT: Final = "audit"
"""Read what was done: effects, audit."""
APPROVE: Final = "approve"
"""Answer what waits for a person: approvals, effects whose outcome is unknown."""
ADMIN: Final = "admin"
"""The whole installation, all tenants: keys, secrets, reload, backups. Holds none of the others."""

SCOPES: Final = (RESPONSES, AGENTS, USAGE, AUDIT, APPROVE, ADMIN)
DEFAULT_SCOPES: Final = frozenset({RESPONSES, AGENTS, USAGE, AUDIT})
"""What a key may do that was made without saying. Not APPROVE: the program that asks must not answer itself."""

Kind = Literal["open", "key", "user", "operator"]


class Principal(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Who a request speaks for.

    Attributes:
        kind: ``operator`` is who proved to have the server's own files.
        id: unique in the tenant over all kinds: a key's id, ``user:NAME``, ``anonymous``, ``admin``.
        user: the person behind it; empty where none is known.
        agent: the one agent that it may use or be; empty: any.
        scopes: what it may do, of SCOPES.
    """

    tenant: str
    kind: Kind
    id: str
    user: str = ""
    agent: str = ""
    scopes: frozenset[str] = frozenset()

    def allows(self, scope: str) -> bool:
        return scope in self.scopes


def checked_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes, if all are known and there is one at least.

    Raises:
        BadRequest: ``invalid_value``.
    """
    found = frozenset(scopes)
    unknown = sorted(found.difference(SCOPES))
    if unknown or not found:
        what = f"There is no scope {unknown[0][:64]!r}." if unknown else "A key needs a scope."
        raise BadRequest(f"{what} Scopes are {', '.join(SCOPES)}.", code="invalid_value", param="scopes")
    return found
