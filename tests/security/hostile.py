"""Where text goes into the API, found from the types of its bodies, and hostile text to put there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

HERE = "\ue000"
"""Stands for the hostile text in what is generated. Private use: no message of ours has it."""

ITEMS: tuple[dict[str, Any], ...] = (
    {"type": "message", "role": "user", "content": HERE},
    {"type": "message", "id": HERE, "role": "user", "content": "x"},
    {"type": "message", "role": HERE, "content": "x"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": HERE}]},
    {"type": "message", "role": "user", "content": [{"type": "input_file", "file_id": HERE}]},
    {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": HERE}]},
    {"type": "item_reference", "id": HERE},
    {"type": "function_call", "call_id": HERE, "name": "f", "arguments": "{}"},
    {"type": "function_call", "call_id": "c", "name": HERE, "arguments": HERE},
    {"type": "function_call_output", "call_id": HERE, "output": HERE},
    {"type": "mcp_approval_response", "approval_request_id": HERE, "approve": True},
    {"type": "reasoning", "id": HERE, "summary": [], "encrypted_content": HERE},
    {"type": "compaction", "encrypted_content": HERE},
)
"""Items are decoded by hand, so their types say nothing of their fields."""


def places(kind: inspect.Type) -> Iterator[Any]:
    """Values of a type, each with HERE where it takes text, keys of objects among them."""
    match kind:
        case inspect.StrType() | inspect.LiteralType():
            yield HERE
        case inspect.AnyType():
            yield HERE
            yield {HERE: HERE}
        case inspect.RawType():
            yield from ITEMS
        case inspect.DictType(value_type=value):
            yield {HERE: least(value)}
            yield from ({"k": each} for each in places(value))
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            yield from ([each] for each in places(item))
        case inspect.UnionType(types=types):
            for each in types:
                yield from places(each)
        case inspect.StructType():
            yield from filled(kind, least(kind))
        case _:
            return


def filled(kind: inspect.StructType, base: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``base`` with each field of the struct in turn."""
    for field in kind.fields:
        yield from (base | {field.encode_name: each} for each in places(field.type))


def least(kind: inspect.Type) -> Any:
    """A value that the type allows, with as little in it as may be."""
    match kind:
        case inspect.StructType():
            out = {kind.tag_field: kind.tag} if kind.tag_field else {}
            return out | {each.encode_name: least(each.type) for each in kind.fields if each.required}
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.UnionType(types=types):
            return least(types[0])
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [least(item)]
        case inspect.DictType() | inspect.AnyType():
            return {}
        case inspect.RawType():
            return ITEMS[0]
        case inspect.BoolType():
            return True
        case inspect.IntType() | inspect.FloatType():
            return kind.ge or 1
        case _:
            return "x"


def bodies(body: Any, base: dict[str, Any]) -> list[dict[str, Any]]:
    """The bodies of a route, each with HERE in one place."""
    kind = inspect.type_info(body)
    assert isinstance(kind, inspect.StructType)
    return list(filled(kind, base))


def put(value: Any, text: str) -> Any:
    """``value`` with ``text`` for HERE."""
    return msgspec.json.decode(msgspec.json.encode(value).replace(HERE.encode(), msgspec.json.encode(text)[1:-1]))
