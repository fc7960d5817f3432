"""How a session is found by its name, so that no plan reads more than its own row.

On a table without statistics the planner takes a tenant's sessions for a handful. It then reads them all
by the first column of the index and compares their names, and keeps that plan for as long as the
connection lives: a look-up of a hundred names cost as many walks through the tenant. ``OFFSET 0`` and a
subquery that gives one value are not pulled up into a join, so what they ask for is all there is to ask the index.
"""

from __future__ import annotations

EACH = (
    "CROSS JOIN LATERAL (SELECT q.n FROM stateline_tenants q WHERE q.name = w.tenant OFFSET 0) t"
    " CROSS JOIN LATERAL (SELECT q.n, q.head, q.inbox, q.post, q.parent_seq FROM stateline_sessions q"
    " WHERE q.tenant = t.n AND q.id = w.id OFFSET 0) s"
)
"""Joins ``w (tenant, id)``, names, with the tenant ``t`` and the session ``s``."""

TENANT = "(SELECT n FROM stateline_tenants WHERE name = {name})"
"""The number of the tenant whose name is ``{name}``, a parameter."""

ONE = f"s.tenant = {TENANT.format(name='$1')} AND s.id = $2"
"""Whether ``s`` is the session of tenant $1 that is called $2."""
