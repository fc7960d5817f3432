"""The served OpenAPI 3.1 document, made from the route table and the structs that decode and encode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from stateline import __version__
from stateline.api import item_params
from stateline.api.errors import WebSocketErrorEvent
from stateline.api.params import Include, WebSocketResponseCreateEvent
from stateline.core.effected import EffectStatus
from stateline.core.limits import IDEMPOTENCY_KEY_CHARS_MAX, ITEM_ID_CHARS_MAX, PAGE_ITEMS_MAX
from stateline.core.response import ErrorPayload

if TYPE_CHECKING:
    from stateline.api.table import Route

_REF = "#/components/schemas/{name}"
_ITEM_PARAMS: tuple[type[msgspec.Struct], ...] = (
    item_params.UserMessageParam,
    item_params.SystemMessageParam,
    item_params.DeveloperMessageParam,
    item_params.AssistantMessageParam,
    item_params.FunctionCallParam,
    item_params.FunctionCallOutputParam,
    item_params.ReasoningParam,
    item_params.CompactionParam,
    item_params.ItemReferenceParam,
)


class ErrorObject(msgspec.Struct, frozen=True):
    """What every request that fails is answered with."""

    error: ErrorPayload


class AnthropicError(msgspec.Struct, frozen=True):
    """The same in Anthropic's shape."""

    type: Literal["error"]
    error: ErrorPayload


_QUERY: dict[str, dict[str, Any]] = {
    "from": {"type": "string", "format": "date"},
    "to": {"type": "string", "format": "date"},
    "after": {"type": "string", "minLength": 1, "maxLength": ITEM_ID_CHARS_MAX},
    "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_ITEMS_MAX, "default": 20},
    "order": {"type": "string", "enum": ["asc", "desc"], "default": "desc"},
    "session": {"type": "string", "minLength": 1, "maxLength": ITEM_ID_CHARS_MAX},
    "status": {"type": "string", "enum": ["all", *get_args(EffectStatus)]},
    **{
        name: {"type": "string", "minLength": 1, "maxLength": ITEM_ID_CHARS_MAX}
        for name in ("agent", "deployment", "key", "model", "name", "principal", "server_label")
    },
    "stream": {"type": "boolean", "default": False},
    "starting_after": {"type": "integer", "minimum": 0},
}
_DIALECT = {
    "name": "Stateline-Dialect",
    "in": "header",
    "required": False,
    "description": "Whose names are used where Open Responses and OpenAI differ.",
    "schema": {"type": "string", "enum": ["open-responses", "openai"], "default": "open-responses"},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Requests with one key within 24 hours are one turn.",
    "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS_MAX, "pattern": "^[ -~]+$"},
}


def document(routes: Sequence[Route]) -> bytes:
    """The document as JSON."""
    types: list[Any] = [ErrorObject, AnthropicError, Include, *_ITEM_PARAMS]
    types += [WebSocketResponseCreateEvent, WebSocketErrorEvent]
    for route in routes:
        types += [each for each in (route.body, route.answer) if each is not None and each not in types]
    shown, components = msgspec.json.schema_components(types, ref_template=_REF)
    schemas = dict(zip(map(id, types), shown, strict=True))
    _name_items(components)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r":path}", "}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, schemas)
    # The extension is Open Responses' own: OpenAPI has no words for a WebSocket.
    paths["/v1/responses"]["x-openresponses-websocket"] = {
        "description": "A WebSocket: each message begins a response, whose streaming events come one a message.",
        "clientMessage": schemas[id(WebSocketResponseCreateEvent)],
        "errorMessage": schemas[id(WebSocketErrorEvent)],
    }
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Stateline",
                "version": __version__,
                "summary": "A self-hosted, durable runtime for AI agents.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{"apiKey": []}, {}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _name_items(components: dict[str, Any]) -> None:
    """Say what the raw arrays hold, and leave out fields that may only be null: they are not served."""
    components["ItemParam"] = {"anyOf": [{"$ref": _REF.format(name=each.__name__)} for each in _ITEM_PARAMS]}
    item = {"$ref": _REF.format(name="ItemParam")}
    for component in components.values():
        properties: dict[str, Any] = component.get("properties", {})
        for name, schema in list(properties.items()):
            if schema.get("type") == "null":
                del properties[name]
            elif name in ("input", "items"):
                for each in [schema, *schema.get("anyOf", ())]:
                    if each.get("type") == "array":
                        each["items"] = item


def _operation(route: Route, path: str, schemas: dict[int, Any]) -> dict[str, Any]:
    include = schemas[id(Include)]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    for name in route.query:
        schema = {"type": "array", "items": include} if name == "include" else _QUERY[name]
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    if path.startswith("/v1/responses"):
        parameters.append(_DIALECT)
    if route.method == "POST" and path == "/v1/responses":
        parameters.append(_IDEMPOTENCY_KEY)
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__module__.rsplit('.', 1)[-1]}_{route.handler.__name__}",
        "summary": route.summary,
        "tags": [path.removeprefix("/v1/").strip("/").split("/")[0]],
        "responses": {"200": _answer(route, schemas), "default": _error(route, schemas)},
    }
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": schemas[id(route.body)]}},
        }
    if route.scope is None:
        operation["security"] = []
    return operation


def _answer(route: Route, schemas: dict[int, Any]) -> dict[str, Any]:
    if route.answer is None:
        kind = "application/json" if route.path.endswith(".json") else "text/plain"
        return {"description": "OK", "content": {kind: {"schema": {}}}}
    content: dict[str, Any] = {"application/json": {"schema": schemas[id(route.answer)]}}
    if route.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": "OK", "content": content}


def _error(route: Route, schemas: dict[int, Any]) -> dict[str, Any]:
    return {
        "description": "The request failed; docs/errors.md lists the codes.",
        "content": {"application/json": {"schema": schemas[id(AnthropicError if route.anthropic else ErrorObject)]}},
    }
