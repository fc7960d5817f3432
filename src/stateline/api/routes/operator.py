"""``/v1/admin``: how the command line keeps a store, and an operator reloads the configuration, while it serves."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from stateline.api.call import Call
from stateline.api.operator import Operator
from stateline.api.params import Body
from stateline.api.parse import decode_exact
from stateline.api.service import Service
from stateline.core.errors import NotFound
from stateline.core.limits import PATH_CHARS_MAX


class RunPrune(Body, frozen=True, kw_only=True):
    dry_run: bool = False


class PruneResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many there were; with ``dry_run`` how many there would be."""

    object: Literal["prune"] = "prune"
    dry_run: bool
    chunks: int
    sessions: int
    snapshots: int


class StartBackup(Body, frozen=True, kw_only=True):
    """``path`` is a folder to make, as the server sees it."""

    path: Annotated[str, Meta(min_length=1, max_length=PATH_CHARS_MAX)]
    force: bool = False


_prune = msgspec.json.Decoder(RunPrune)
_backup = msgspec.json.Decoder(StartBackup)


async def prune(service: Service, call: Call) -> None:
    body = await call.body()
    params = decode_exact(_prune, body) if body else RunPrune()
    pruned = await _operator(service).prune(dry_run=params.dry_run)
    result = PruneResult(
        dry_run=params.dry_run, chunks=pruned.chunks, sessions=pruned.sessions, snapshots=pruned.snapshots
    )
    await call.reply_json(result)


async def start_backup(service: Service, call: Call) -> None:
    params = decode_exact(_backup, await call.body())
    await call.reply_json(_operator(service).start_backup(params.path, force=params.force))


async def backup_state(service: Service, call: Call) -> None:
    await call.reply_json(_operator(service).backup_state())


async def reload(service: Service, call: Call) -> None:
    await call.reply_json(await _operator(service).reload())


async def status(service: Service, call: Call) -> None:
    await call.reply_json(await _operator(service).status())


def _operator(service: Service) -> Operator:
    if service.operator is None:
        raise NotFound("This server takes no orders here.", code="not_found")
    return service.operator
