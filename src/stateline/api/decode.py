"""Request bodies into structs, and msgspec's findings into errors with a stable code and a field.

The structs say what is legal (types, enums, bounds); this file turns the one sentence that msgspec
raises into OpenAI's code and the name of the field. The table is closed: whatever it does not know is
``invalid_value``, still a 400.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from stateline.core.errors import BadRequest
from stateline.core.limits import JSON_DEPTH_MAX

T = TypeVar("T")

_QUOTE_CHARS_MAX = 200
_AT = re.compile(r"^(.*?)(?: - at `(key` in `)?(\$.*)`)?$", re.DOTALL)
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_BOUNDS = {
    ("str", "<="): ("string_above_max_length", "a string of at most {} characters"),
    ("str", ">="): ("string_below_min_length", "a string of at least {} characters"),
    ("array", "<="): ("array_above_max_length", "an array of at most {} elements"),
    ("array", ">="): ("array_below_min_length", "an array of at least {} elements"),
    ("object", "<="): ("object_above_max_properties", "an object of at most {} properties"),
    ("object", ">="): ("object_below_min_properties", "an object of at least {} properties"),
}


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes, prefix: str = "") -> T:
    """Decode, or raise the BadRequest that names the field.

    Args:
        prefix: where ``body`` stands in the request, for example ``input[3]``.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        found = validation_error(str(error), prefix)
        raise _hosted_tool(body, found) or found from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError) as error:
        raise invalid_json(error) from None


_TOOLS = ("function", "mcp")


def _hosted_tool(body: bytes, error: BadRequest) -> BadRequest | None:
    """Where a tool is at fault, its type says more than the first field that did not fit."""
    at = re.match(r"tools\[(\d+)\]", error.param or "")
    if at is None:
        return None
    tools = decode_body(_any, body)["tools"]
    tool: object = tools[int(at[1])]
    kind = cast(dict[str, object], tool).get("type") if isinstance(tool, dict) else None
    return unsupported_tool(kind, f"{at[0]}.type") if isinstance(kind, str) and kind not in _TOOLS else None


def unsupported_tool(kind: str, param: str) -> BadRequest:
    text = f"Unsupported tool type: '{_short(kind)}'. Only 'function' and 'mcp' tools are served here."
    return BadRequest(text, code="unsupported_tool_type", param=param)


def invalid_json(error: Exception) -> BadRequest:
    if isinstance(error, RecursionError):
        return BadRequest("The body is nested too deep.", code="invalid_json")
    why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).rstrip(".")
    return BadRequest(f"We could not parse the JSON body of your request: {why}.", code="invalid_json")


def refuse_duplicate_fields(body: bytes, params: msgspec.Struct) -> None:
    """Refuse a body whose outermost object has a field twice: which one counts is a guess.

    Only the fields that were set are looked for, and only where one occurs twice anywhere is the body
    read a second time, so the usual request pays for a few substring searches.
    """
    if body.find(b"\\u00") < 0:
        for quoted, value in zip(_quoted_fields(type(params)), msgspec.structs.astuple(params), strict=True):
            if value is not None and body.count(quoted) > 1:
                break
        else:
            return
    try:
        pairs = cast(list[tuple[str, Any]], json.loads(body, object_pairs_hook=_pairs))
    except (ValueError, RecursionError) as error:
        # What is kept raw so far has not been read before.
        raise invalid_json(error) from None
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise BadRequest(f"Duplicate parameter: '{name}'.", code="duplicate_parameter", param=name)
        seen.add(name)


@cache
def _quoted_fields(struct: type[msgspec.Struct]) -> tuple[bytes, ...]:
    return tuple(b'"%b"' % name.encode() for name in struct.__struct_fields__)


def _pairs(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return pairs


def refuse_depth(body: bytes, value: object, param: str) -> None:
    """Bound the nesting of a value that is kept as it came (a schema, a tool's parameters).

    A body with fewer brackets than the bound cannot be nested deeper, so most are never walked.
    """
    if body.count(b"{") + body.count(b"[") <= JSON_DEPTH_MAX:
        return
    level: list[object] = [value]
    for _ in range(JSON_DEPTH_MAX):
        level = [child for each in level for child in _children(each)]
        if not level:
            return
    raise BadRequest(
        f"Invalid value for '{param}': it is nested more than {JSON_DEPTH_MAX} deep.",
        code="nested_too_deep",
        param=param,
    )


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast(dict[str, object], value).values())
    return cast(list[object], value) if isinstance(value, list) else []


# -- what msgspec says --------------------------------------------------------------------------------


def validation_error(message: str, prefix: str = "") -> BadRequest:
    """The BadRequest for a message of msgspec.ValidationError."""
    match = _AT.match(message)
    assert match is not None
    what, is_key, path = match[1], bool(match[2]), _param(match[3] or "$", prefix)
    for pattern, make in _KINDS:
        found = pattern.match(what)
        if found:
            return make(found, path, is_key)
    return _error("invalid_value", path, f"Invalid value: {what}.", "Invalid value for '{}': " + what + ".")


def _param(path: str, prefix: str) -> str:
    """``$.tools[0].name`` as ``tools[0].name``, behind the prefix."""
    tail = path[1:].replace("[...]", "")
    return (prefix + tail).lstrip(".") if prefix or tail else ""


def _short(text: str) -> str:
    """A value that the client chose, short enough for a message."""
    return text if len(text) <= _QUOTE_CHARS_MAX else text[:_QUOTE_CHARS_MAX] + "…"


def _error(code: str, param: str, without: str, within: str) -> BadRequest:
    return BadRequest(within.format(param) if param else without, code=code, param=param or None)


def _missing(found: re.Match[str], path: str, _: bool) -> BadRequest:
    name = _short(found[1])
    param = f"{path}.{name}" if path else name
    return BadRequest(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def _unknown(found: re.Match[str], path: str, _: bool) -> BadRequest:
    name = _short(found[1])
    param = f"{path}.{name}" if path else name
    return BadRequest(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)


def _unsupported(_: re.Match[str], path: str, __: bool) -> BadRequest:
    # A field that may only be null is one that OpenAI has and Stateline does not serve.
    return BadRequest(f"Unsupported parameter: '{path}' is not served here.", code="unsupported_parameter", param=path)


def _type(found: re.Match[str], path: str, is_key: bool) -> BadRequest:
    if found[1] == "null":
        return _unsupported(found, path, is_key)
    wanted = " or ".join(_NAMES.get(name, name) for name in found[1].split(" | ") if name != "null")
    got = f", but got {_NAMES.get(found[2], found[2])} instead" if found[2] else ""
    where = f"Invalid type for '{path}'" if path else "Invalid body"
    return BadRequest(f"{where}: expected {wanted}{got}.", code="invalid_type", param=path or None)


def _bound_length(found: re.Match[str], path: str, is_key: bool) -> BadRequest:
    code, wanted = _BOUNDS[found[1], found[2]]
    key = "a key of " if is_key else ""
    text = f"Invalid {key}'{path}': expected {wanted.format(found[3])}."
    return BadRequest(text, code=code, param=path)


def _bound_number(found: re.Match[str], path: str, _: bool) -> BadRequest:
    kind = "integer" if found[1] == "int" else "decimal"
    side = "above_max_value" if found[2].startswith("<") else "below_min_value"
    text = f"Invalid '{path}': expected a value {found[2]} {found[3]}."
    return BadRequest(text, code=f"{kind}_{side}", param=path)


def _pattern(found: re.Match[str], path: str, _: bool) -> BadRequest:
    text = f"Invalid '{path}': expected a string that matches {found[1]}."
    return BadRequest(text, code="invalid_value", param=path)


def _value(found: re.Match[str], path: str, _: bool) -> BadRequest:
    if re.fullmatch(r"tool_choice(\..*)?\.type", path):
        return unsupported_tool(found[1].strip("'"), path)
    return BadRequest(f"Invalid value: {_short(found[1])} at '{path}'.", code="invalid_value", param=path)


_Make = Callable[[re.Match[str], str, bool], BadRequest]
_KINDS: tuple[tuple[re.Pattern[str], _Make], ...] = (
    (re.compile(r"^Object missing required field `(.*)`$", re.DOTALL), _missing),
    (re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL), _unknown),
    (re.compile(r"^Expected `(str|array|object)` of length (<=|>=) (\d+)$"), _bound_length),
    (re.compile(r"^Expected `(int|float)` (<=|>=|<|>) (.+)$"), _bound_number),
    (re.compile(r"^Expected `str` matching regex (.*)$", re.DOTALL), _pattern),
    (re.compile(r"^Expected `([^`]+)`(?:, got `([^`]+)`)?$"), _type),
    (re.compile(r"^Invalid (?:enum )?value (.*)$", re.DOTALL), _value),
)
