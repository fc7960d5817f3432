"""The tool of our own with which a model reads on in an output that it was shown only in part.

It reads what its own session holds and nothing else: a handle is the id of a call in the context that the model is
given. Another session's, another tenant's, or one that was deleted, erased or compacted away is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stateline.core.cutting import byte_count, matches, piece_end
from stateline.core.hosted import OWN_SERVER, READ_OUTPUT, READER, HostedTool, Hosting, decoded, output_texts
from stateline.core.items import Item
from stateline.core.limits import ITEM_ID_CHARS_MAX
from stateline.core.limits_tools import OUTPUT_SEARCH_CHARS_MAX
from stateline.core.tools import Tool, ToolResult

_TOOL = HostedTool(
    READER,
    OWN_SERVER,
    Tool(
        name=READ_OUTPUT,
        description=(
            "Reads on in a tool's output that is shown only in part. Offsets and limits count characters. With "
            "`search`, gives the lines that have this text in them, letter for letter, each after its offset."
        ),
        parameters={
            "type": "object",
            "properties": {
                "handle": {"type": "string", "description": "As it stands where the output was cut."},
                "offset": {"type": "integer", "minimum": 0, "description": "Where to begin; 0 where it is left out."},
                "limit": {"type": "integer", "minimum": 1, "description": "Characters at most; else what fits."},
                "search": {"type": "string", "description": "A text to look for, from `offset` on."},
            },
            "required": ["handle"],
            "additionalProperties": False,
        },
        effect="read",
    ),
)


def offered(hosting: Hosting, longest_bytes: int, most: int) -> Hosting:
    """What a turn's model may call, with reading where its context has an output that is longer than it is shown.

    Args:
        longest_bytes: of the context's longest output of text.
        most: bytes that are shown of one.
    """
    if longest_bytes <= most or READER in hosting.tools or READER in hosting.functions:
        return hosting
    return hosting._replace(tools={**hosting.tools, READER: _TOOL})


def answer(arguments: str, items: Iterable[Item], most: int) -> ToolResult:
    """What a call of it answers: at most ``most`` bytes, so that it is never cut itself.

    Args:
        arguments: as the model wrote them.
        items: the context of the turn that calls: what its model has seen.
    """
    given = decoded(arguments)
    assert given is not None, "no call is dispatched whose arguments are no object"
    wrong = _wrong(given)
    if wrong is not None:
        return ToolResult(output=wrong, failed=True)
    text = next((text for id_, text in output_texts(items) if id_ == given["handle"]), None)
    if text is None:
        return ToolResult(
            output="No output has this handle here: take one that stands where an output was cut.", failed=True
        )
    offset = given.get("offset") or 0
    if offset > len(text):
        return ToolResult(output=f"The offset is past the end: there are {len(text)} characters.", failed=True)
    if given.get("search"):
        return ToolResult(output=_found(text, given["search"], offset, most))
    return ToolResult(output=_piece(text, offset, given.get("limit"), most))


def _wrong(given: dict[str, Any]) -> str | None:
    """What is wrong with the arguments, for the model to put right. An optional one may be null: some models say so."""
    unknown = given.keys() - {"handle", "offset", "limit", "search"}
    if unknown:
        return f"There is no argument {min(unknown)[:ITEM_ID_CHARS_MAX]!r}: handle, offset, limit and search are."
    if not isinstance(given.get("handle"), str):
        return "handle is missing, or no text."
    for name, least in (("offset", 0), ("limit", 1)):
        value = given.get(name)
        if value is not None and (type(value) is not int or value < least):
            return f"{name} is not a whole number of {least} or more."
    search = given.get("search")
    if search is not None and (not isinstance(search, str) or len(search) > OUTPUT_SEARCH_CHARS_MAX):
        return f"search is no text of at most {OUTPUT_SEARCH_CHARS_MAX} characters."
    return None


def _piece(text: str, offset: int, limit: int | None, most: int) -> str:
    """A piece with a line before it that says where it stands, and where to read on."""
    chars = len(text)
    room = most - byte_count(_place(chars, chars, chars, end_is_last=False))
    stop = chars if limit is None else offset + limit
    end = piece_end(text, offset, stop, room)
    return _place(offset, end, chars, end_is_last=end == chars) + text[offset:end]


def _place(start: int, end: int, chars: int, *, end_is_last: bool) -> str:
    then = "this is the end" if end_is_last else f"read on with offset {end}"
    return f"[characters {start} to {end} of {chars}; {then}]\n"


def _found(text: str, wanted: str, offset: int, most: int) -> str:
    chars = len(text)
    found, after = matches(text, wanted, offset, most - byte_count(_matched(chars, chars)))
    if not found:
        return f"[no match from offset {offset} on; {chars} characters in all]"
    return "\n".join((_matched(chars, after), *found))


def _matched(chars: int, after: int | None) -> str:
    then = "there are no further ones" if after is None else f"search on with offset {after}"
    return f"[matches, each after its offset, of {chars} characters; {then}]"


__all__ = ["answer", "offered"]
