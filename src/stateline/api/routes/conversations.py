"""``/v1/conversations``, as OpenAI's SDK calls it."""

from __future__ import annotations

from typing import Literal

import msgspec

from stateline.api.call import Call
from stateline.api.parse import (
    conversation_session,
    parse_add_items,
    parse_create_conversation,
    parse_update_conversation,
)
from stateline.api.query import ItemList, Query, paginate
from stateline.api.routes.responses import resolve
from stateline.api.service import Service
from stateline.core.errors import NotFound
from stateline.engine import Conversation


class ConversationResource(msgspec.Struct, frozen=True, kw_only=True):
    """``created_at`` is in Unix seconds."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


async def create(service: Service, call: Call) -> None:
    items, metadata = parse_create_conversation(await call.body() or b"{}")
    resolved = await resolve(service, call.tenant, items, "items")
    await _reply(call, await service.engine.create_conversation(call.tenant, resolved, metadata))


async def retrieve(service: Service, call: Call) -> None:
    await _reply(call, await service.engine.conversation(call.tenant, _session(call)))


async def update(service: Service, call: Call) -> None:
    session = _session(call)
    metadata = parse_update_conversation(await call.body())
    await _reply(call, await service.engine.update_conversation(call.tenant, session, metadata))


async def delete(service: Service, call: Call) -> None:
    await service.engine.delete_conversation(call.tenant, _session(call))
    await call.reply_json(DeletedConversation(id=call.path_params["conversation_id"]))


async def add_items(service: Service, call: Call) -> None:
    Query(call.query).check_include()
    session = _session(call)
    items = await resolve(service, call.tenant, parse_add_items(await call.body()), "items")
    added = await service.engine.add_items(call.tenant, session, items)
    await call.reply_json(ItemList(data=added, first_id=added[0].id, last_id=added[-1].id, has_more=False))


async def list_items(service: Service, call: Call) -> None:
    page = Query(call.query).page()
    await call.reply_json(paginate(await service.engine.conversation_items(call.tenant, _session(call)), page))


async def retrieve_item(service: Service, call: Call) -> None:
    Query(call.query).check_include()
    item_id = call.path_params["item_id"]
    for item in await service.engine.conversation_items(call.tenant, _session(call)):
        if item.id == item_id:
            await call.reply_json(item)
            return
    raise NotFound(f"Item with id '{item_id[:128]}' not found.", code="item_not_found", param="item_id")


async def delete_item(service: Service, call: Call) -> None:
    item_id = call.path_params["item_id"]
    await _reply(call, await service.engine.delete_item(call.tenant, _session(call), item_id))


def _session(call: Call) -> str:
    return conversation_session(call.path_params["conversation_id"], "conversation_id")


async def _reply(call: Call, conversation: Conversation) -> None:
    await call.reply_json(
        ConversationResource(id=conversation.id, created_at=conversation.created_at, metadata=conversation.metadata)
    )
