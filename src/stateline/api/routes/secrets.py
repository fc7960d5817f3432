"""``/v1/admin/secrets``: how the command line manages tools' credentials while the server runs. No route reads one."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from stateline.api.auth import SecretAdmin, SecretRecord
from stateline.api.call import Call
from stateline.api.params import Body
from stateline.api.parse import decode_exact
from stateline.api.service import Service
from stateline.core.errors import NotFound
from stateline.core.limits import SECRET_BYTES_MAX, SECRET_NAME_CHARS_MAX, TENANT_CHARS_MAX


class PutSecret(Body, frozen=True, kw_only=True):
    tenant: Annotated[str, Meta(min_length=1, max_length=TENANT_CHARS_MAX)]
    name: Annotated[str, Meta(min_length=1, max_length=SECRET_NAME_CHARS_MAX)]
    value: Annotated[str, Meta(min_length=1, max_length=SECRET_BYTES_MAX)]


class StoredSecret(msgspec.Struct, frozen=True, kw_only=True):
    """``key_id`` is of the master key that it is under; ``written_at`` is Unix seconds."""

    object: Literal["secret"] = "secret"
    tenant: str
    name: str
    key_id: str
    written_at: int


class SecretList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[StoredSecret, ...]


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["vault.rotation"] = "vault.rotation"
    rewrapped: int


_put = msgspec.json.Decoder(PutSecret)


async def put(service: Service, call: Call) -> None:
    params = decode_exact(_put, await call.body())
    await call.reply_json(_shown(await _vault(service).put_text(params.tenant, params.name, params.value)))


async def list_secrets(service: Service, call: Call) -> None:
    await call.reply_json(SecretList(data=tuple(_shown(each) for each in await _vault(service).list())))


async def remove(service: Service, call: Call) -> None:
    path = call.path_params
    await call.reply_json(_shown(await _vault(service).remove(path["tenant"], path["name"])))


async def rotate(service: Service, call: Call) -> None:
    await call.reply_json(Rotated(rewrapped=await _vault(service).rotate()))


def _vault(service: Service) -> SecretAdmin:
    if service.vault is None:
        raise NotFound("This server has no vault; configure [vault] with a master key.", code="vault_off")
    return service.vault


def _shown(record: SecretRecord) -> StoredSecret:
    return StoredSecret(
        tenant=record.tenant, name=record.name, key_id=record.key_id, written_at=record.written_at_ms // 1000
    )
