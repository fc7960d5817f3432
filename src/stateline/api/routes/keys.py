"""``/v1/admin/keys``: how the command line manages keys while the server runs."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from stateline.api.auth import KeyAdmin, KeyRecord
from stateline.api.call import Call
from stateline.api.params import Body
from stateline.api.parse import decode_exact
from stateline.api.service import Service
from stateline.core.errors import NotFound
from stateline.core.limits import KEY_NAME_CHARS_MAX, PRINCIPAL_NAME_CHARS_MAX, TENANT_CHARS_MAX

_EXPIRES_S_MAX = 100 * 366 * 24 * 3600


class CreateKey(Body, frozen=True, kw_only=True):
    tenant: Annotated[str, Meta(min_length=1, max_length=TENANT_CHARS_MAX)]
    name: Annotated[str, Meta(min_length=1, max_length=KEY_NAME_CHARS_MAX)]
    expires_in_s: Annotated[int, Meta(ge=1, le=_EXPIRES_S_MAX)] | None = None
    scopes: Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)] | None = None
    user: Annotated[str, Meta(max_length=PRINCIPAL_NAME_CHARS_MAX)] | None = None
    agent: Annotated[str, Meta(max_length=PRINCIPAL_NAME_CHARS_MAX)] | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix seconds. ``key`` is there once: in the answer to its creation."""

    id: str
    object: Literal["key"] = "key"
    tenant: str
    name: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    scopes: tuple[str, ...]
    user: str | None
    agent: str | None
    key: str | msgspec.UnsetType = msgspec.UNSET


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Key, ...]


_create = msgspec.json.Decoder(CreateKey)


async def create(service: Service, call: Call) -> None:
    params = decode_exact(_create, await call.body())
    record, key = await _keys(service).create(
        params.tenant,
        params.name,
        params.expires_in_s,
        scopes=params.scopes,
        user=params.user or "",
        agent=params.agent or "",
    )
    await call.reply_json(_shown(record, key))


async def list_keys(service: Service, call: Call) -> None:
    records = await _keys(service).list()
    await call.reply_json(KeyList(data=tuple(_shown(record) for record in records)))


async def revoke(service: Service, call: Call) -> None:
    await call.reply_json(_shown(await _keys(service).revoke(call.path_params["key_id"])))


def _keys(service: Service) -> KeyAdmin:
    if service.keys is None:
        raise NotFound("This server keeps no keys.", code="not_found")
    return service.keys


def _shown(record: KeyRecord, key: str | None = None) -> Key:
    return Key(
        id=record.id,
        tenant=record.tenant,
        name=record.name,
        created_at=record.created_at_ms // 1000,
        expires_at=None if record.expires_at_ms is None else record.expires_at_ms // 1000,
        revoked_at=None if record.revoked_at_ms is None else record.revoked_at_ms // 1000,
        scopes=record.scopes,
        user=record.user or None,
        agent=record.agent or None,
        key=msgspec.UNSET if key is None else key,
    )
