"""``/v1/responses``: create, retrieve, follow, cancel, delete, list input, count tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

import msgspec

from stateline.api.auth import Principal, require_agent
from stateline.api.call import Call, WhileConnected
from stateline.api.item_params import ItemReferenceParam
from stateline.api.names import new_name
from stateline.api.parse import ParsedTurn, Unresolved, parse_compact, parse_count, parse_create
from stateline.api.query import Query, paginate
from stateline.api.rates import show_rates
from stateline.api.service import Service
from stateline.api.stream import send_events
from stateline.core.calls import ModelRequest
from stateline.core.errors import BadRequest, NotFound
from stateline.core.hosted import for_model
from stateline.core.ids import digest
from stateline.core.items import Item
from stateline.core.principals import APPROVE
from stateline.core.response import ResponseUsage, StreamEvent, usage_field
from stateline.engine import Accepted, Answerer, Submission

_RUNNING = ("queued", "in_progress")


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class InputTokens(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class CompactedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """``CompactResource``. ``created_at`` is in Unix seconds; ``id`` names nothing that is kept."""

    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    output: tuple[Item, ...]
    usage: ResponseUsage


async def create(service: Service, call: Call) -> None:
    """Post a turn, then answer with its end, its stream, or (in the background) its present state."""
    body = await call.body()
    parsed = parse_create(body)
    engine = service.engine
    request = parsed.request
    show_rates(service, call, request.model)
    accepted = await submit(
        service,
        call.principal,
        parsed,
        body,
        idempotency_key=call.idempotency_key(),
        retry=call.is_retry(),
        traceparent=call.traceparent(),
    )
    call.durable = request.store
    if request.stream:
        await _follow(call, engine.stream(accepted, dialect=call.dialect))
    elif request.background:
        await call.reply_json(await engine.response(call.tenant, accepted.response_id, call.dialect))
    else:
        await call.reply_json(await engine.wait(accepted, call.dialect))


async def submit(
    service: Service,
    principal: Principal,
    parsed: ParsedTurn,
    body: bytes,
    *,
    idempotency_key: str | None = None,
    retry: bool = False,
    traceparent: str = "",
) -> Accepted:
    """Post a turn, however it came. See ``Engine.submit`` for what else it raises.

    Raises:
        Forbidden: the caller is bound to an agent, and this is another model.
    """
    require_agent(principal, parsed.request.model)
    return await service.engine.submit(
        Submission(
            tenant=principal.tenant,
            principal=principal.id,
            user=principal.user,
            request=parsed.request,
            input=await resolve(service, principal.tenant, parsed.items, "input"),
            conversation=parsed.conversation,
            digest=digest(body),
            idempotency_key=idempotency_key,
            retry=retry,
            secrets=parsed.secrets,
            answerer=Answerer(principal.id, principal.user, principal.allows(APPROVE)),
            traceparent=traceparent,
        )
    )


async def retrieve(service: Service, call: Call) -> None:
    """The response as of now, or its stream from a cursor on."""
    query = Query(call.query)
    query.check_include()
    stream = query.flag("stream")
    cursor = query.number("starting_after", 0, None)
    response_id = call.path_params["response_id"]
    engine = service.engine
    if not stream:
        if cursor is not None:
            raise BadRequest("'starting_after' needs 'stream=true'.", code="invalid_value", param="starting_after")
        await call.reply_json(await engine.response(call.tenant, response_id, call.dialect))
        return
    accepted = await engine.locate(call.tenant, response_id)
    start = -1 if cursor is None else cursor
    batches = engine.stream(accepted, cursor=start, dialect=call.dialect)
    response = await engine.response(call.tenant, response_id, call.dialect)
    if start >= 0 and response.status not in _RUNNING:
        first = await anext(batches, None)
        if first is None:
            await _require_cursor(service, call, accepted, start)
        batches = _with_first(first or [], batches)
    await _follow(call, batches, start)


async def _require_cursor(service: Service, call: Call, accepted: Accepted, cursor: int) -> None:
    """Nothing follows this cursor: then it must be that of the last event, and not beyond."""
    async with aclosing(service.engine.stream(accepted, cursor=cursor - 1, dialect=call.dialect)) as batches:
        async for _ in batches:
            return
    raise BadRequest(
        "Invalid 'starting_after': this response's stream ended before that number.",
        code="invalid_cursor",
        param="starting_after",
    )


async def _with_first(
    first: list[StreamEvent], rest: AsyncGenerator[list[StreamEvent], None]
) -> AsyncGenerator[list[StreamEvent], None]:
    yield first
    async with aclosing(rest):
        async for events in rest:
            yield events


async def _follow(call: Call, batches: AsyncGenerator[list[StreamEvent], None], cursor: int = -1) -> None:
    async with aclosing(batches):
        await send_events(call, batches, cursor)


async def cancel(service: Service, call: Call) -> None:
    response_id = call.path_params["response_id"]
    await call.reply_json(await service.engine.cancel(call.tenant, response_id, call.dialect))


async def delete(service: Service, call: Call) -> None:
    response_id = call.path_params["response_id"]
    await service.engine.delete_response(call.tenant, response_id)
    await call.reply_json(DeletedResponse(id=response_id))


async def input_items(service: Service, call: Call) -> None:
    page = Query(call.query).page()
    items = await service.engine.input_items(call.tenant, call.path_params["response_id"])
    await call.reply_json(paginate(items, page))


async def input_tokens(service: Service, call: Call) -> None:
    """An estimate of what ``create`` would send for the same body."""
    parsed = parse_count(await call.body())
    engine = service.engine
    context: list[Item] = []
    previous = parsed.request.previous_response_id
    if parsed.conversation is not None:
        context = await engine.conversation_items(call.tenant, parsed.conversation)
    elif previous is not None:
        response = await engine.response(call.tenant, previous, call.dialect)
        context = [*await engine.input_items(call.tenant, previous), *response.output]
    items = await resolve(service, call.tenant, parsed.items, "input")
    shown = for_model([*context, *items], engine.shown_bytes)
    request = ModelRequest(params=parsed.request, items=shown, key="")
    await call.reply_json(InputTokens(input_tokens=engine.input_tokens(request)))


async def compact(service: Service, call: Call) -> None:
    """A conversation summed up by its model; what is answered is the input to go on with. Nothing is kept."""
    params, previous, unresolved = parse_compact(await call.body())
    require_agent(call.principal, params.model)
    engine = service.engine
    items = [*(await engine.context_after(call.tenant, previous) if previous is not None else ())]
    items += await resolve(service, call.tenant, unresolved, "input")
    shown = for_model(items, engine.shown_bytes)
    answer: CompactedResponse | None = None
    async with WhileConnected(call):
        compacted = await engine.compact(
            call.tenant,
            call.principal.id,
            ModelRequest(params=params, items=shown, key=""),
            call.traceparent(),
        )
        answer = CompactedResponse(
            id=new_name("resp_", 14),
            created_at=compacted.created_at,
            output=compacted.items,
            usage=usage_field(compacted.usage),
        )
    if answer is not None:
        await call.reply_json(answer)


async def resolve(service: Service, tenant: str, items: Unresolved, param: str) -> tuple[Item, ...]:
    """Items with every reference replaced by what it names.

    Raises:
        NotFound: a reference to an item that does not exist for this tenant.
    """
    wanted = [item.id for item in items if isinstance(item, ItemReferenceParam)]
    found = await service.engine.find_items(tenant, wanted) if wanted else {}
    return tuple(_resolved(item, found, f"{param}[{at}].id") for at, item in enumerate(items))


def _resolved(item: Item | ItemReferenceParam, found: dict[str, Item], param: str) -> Item:
    if not isinstance(item, ItemReferenceParam):
        return item
    named = found.get(item.id)
    if named is None:
        raise NotFound(f"Item with id '{item.id}' not found.", code="item_not_found", param=param)
    return named
