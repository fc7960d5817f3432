"""Who a request speaks for, and what that one may do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from stateline.core.errors import BadRequest, Forbidden

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

Kind = Literal["open", "key", "user", "agent", "operator"]


class Principal(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Who a request speaks for.

    Attributes:
        kind: ``operator`` is who proved to have the server's own files.
        id: unique in the tenant over all kinds: a key's id, ``user:NAME``, ``agent:NAME``, ``anonymous``, ``admin``.
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

    def may_use(self, agent: str) -> bool:
        """Whether calls may be made as this agent; ``""`` is a call without one."""
        return not self.agent or self.agent == agent

    def on_behalf(self, agent: Principal) -> Principal:
        """The agent, acting for this principal: with what both may do, and for the person behind it.

        Doing it again changes nothing: an agent that acts for somebody already goes on doing so.

        Raises:
            Forbidden: ``agent_forbidden``: it is no agent of this tenant, not the agent that this principal is bound
                to, or one that acts for another person.
        """
        if agent.kind != "agent" or agent.tenant != self.tenant or not self.may_use(agent.agent):
            raise Forbidden("This agent may not act for you.", code="agent_forbidden")
        if agent.user and agent.user != self.user:
            raise Forbidden("This agent acts for somebody else.", code="agent_forbidden")
        return msgspec.structs.replace(agent, user=self.user, scopes=agent.scopes & self.scopes)


def agent_principal(tenant: str, name: str, scopes: frozenset[str] = DEFAULT_SCOPES) -> Principal:
    """An agent as itself."""
    return Principal(tenant=tenant, kind="agent", id=f"agent:{name}", agent=name, scopes=scopes)


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
