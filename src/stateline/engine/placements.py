"""Where a tenant's calls went, and why: a view of the logs of its sessions, the newest first."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from stateline.core.errors import BadRequest, NotFound
from stateline.core.ids import SessionRef, may_be_session
from stateline.core.limits import PLACEMENT_SESSIONS_MAX
from stateline.core.placed import Placed, Placements
from stateline.ports import SessionMissing, Store


class PlacedPage(NamedTuple):
    """``cursor`` is where the next page begins; None where there is none."""

    placed: list[Placed]
    cursor: str | None


class _Cursor(NamedTuple):
    """Behind which session, or behind which step of it, a page begins."""

    session: str
    step: tuple[int, int] | None


async def placements(store: Store, tenant: str, *, session: str | None, after: str | None, limit: int) -> PlacedPage:
    """A page of placements, the newest session first, and in it the newest step.

    Args:
        session: of this one alone.
        after: the ``cursor`` of the page before.

    Raises:
        BadRequest: ``invalid_cursor``.
        NotFound: ``session`` is no session of this tenant.
    """
    cursor = _parsed(after) if after is not None else None
    if session is not None:
        if cursor is not None and (cursor.session != session or cursor.step is None):
            raise _bad_cursor()
        missing = NotFound("the session was not found", code="session_not_found", param="session")
        if not may_be_session(session):
            raise missing
        try:
            found = await _of(store, SessionRef(tenant, session), cursor.step if cursor else None, limit + 1)
        except SessionMissing:
            raise missing from None
        return _page(found, limit, None)
    out: list[Placed] = []
    if cursor is not None and cursor.step is not None:
        out += await _listed(store, SessionRef(tenant, cursor.session), cursor.step, limit + 1)
    names = await store.sessions(tenant, cursor.session if cursor else None, PLACEMENT_SESSIONS_MAX)
    for name in names:
        if len(out) > limit:
            break
        out += await _listed(store, SessionRef(tenant, name), None, limit + 1 - len(out))
    return _page(out, limit, names[-1] if len(names) == PLACEMENT_SESSIONS_MAX else None)


def _page(found: list[Placed], limit: int, rest: str | None) -> PlacedPage:
    """Cut to the limit; ``rest`` is where a walk ended that is not through."""
    if len(found) > limit:
        return PlacedPage(found[:limit], found[limit - 1].id)
    return PlacedPage(found, rest)


async def _listed(store: Store, ref: SessionRef, below: tuple[int, int] | None, limit: int) -> list[Placed]:
    """As ``_of``; a session that was erased meanwhile has none."""
    try:
        return await _of(store, ref, below, limit)
    except SessionMissing:
        return []


async def _of(store: Store, ref: SessionRef, below: tuple[int, int] | None, limit: int) -> list[Placed]:
    """The last ``limit`` placements of a session before the step ``below``, the newest first."""
    found: deque[Placed] = deque(maxlen=limit)
    placements = Placements()
    async for event in store.read(ref):
        if event.session != ref:
            # A fork's prefix: it is listed where it was placed.
            continue
        placed = placements.see(event)
        if placed is None:
            continue
        if below is not None and (placed.turn, placed.step) >= below:
            break
        found.append(placed)
    return list(reversed(found))


def _parsed(text: str) -> _Cursor:
    session, *step = text.split("/")
    if not may_be_session(session):
        raise _bad_cursor()
    if not step:
        return _Cursor(session, None)
    if len(step) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in step):
        raise _bad_cursor()
    return _Cursor(session, (int(step[0]), int(step[1])))


def _bad_cursor() -> BadRequest:
    return BadRequest("Invalid 'after': no such item in this list.", code="invalid_cursor", param="after")
