"""``/v1/audit``: a session's audit chain, signed. What checks it needs no server: `stateline audit verify`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from stateline.api.call import Call
from stateline.api.params import Body
from stateline.api.parse import decode_exact
from stateline.api.query import Query
from stateline.api.service import Service
from stateline.core.errors import BadRequest, NotFound
from stateline.core.limits import TENANT_CHARS_MAX


class AuditChain(msgspec.Struct, frozen=True, kw_only=True):
    """``lines`` are those of an export, without its header and end; see docs/audit.md."""

    object: Literal["audit.chain"] = "audit.chain"
    session: str
    lines: tuple[str, ...]


class ShowAudit(Body, frozen=True, kw_only=True):
    tenant: Annotated[str, Meta(min_length=1, max_length=TENANT_CHARS_MAX)]
    session: Annotated[str, Meta(min_length=1, max_length=64)]


_show = msgspec.json.Decoder(ShowAudit)


async def show(service: Service, call: Call) -> None:
    """The chain of one of the tenant's own sessions."""
    session = Query(call.query).name("session")
    if session is None:
        raise BadRequest("Which session? Name it in 'session'.", code="missing_required_parameter", param="session")
    await _reply(service, call, call.tenant, session)


async def export(service: Service, call: Call) -> None:
    """How the command line exports while the server runs."""
    params = decode_exact(_show, await call.body())
    await _reply(service, call, params.tenant, params.session)


async def _reply(service: Service, call: Call, tenant: str, session: str) -> None:
    if service.operator is None:
        raise NotFound("This server signs no audits; configure [audit] with a key.", code="audit_off")
    lines = await service.operator.audit(tenant, session)
    await call.reply_json(AuditChain(session=session, lines=tuple(lines)))
