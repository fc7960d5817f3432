"""What is recorded of a tool call's answer: all of it, once, as long as it is within bounds."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stateline.core.hosted import item_output_bytes
from stateline.core.items import InputContent
from stateline.core.limits import TOOL_ERROR_CHARS_MAX, TOOL_OUTPUT_BYTES_MAX
from stateline.core.limits_tools import TOOL_OUTPUTS_TURN_BYTES_MAX
from stateline.core.session import Turn


class Kept(NamedTuple):
    """What is kept of an answer.

    Attributes:
        size: its bytes; 0 where it is not kept.
        refused: why it is not kept, in words for the model; empty where it is.
    """

    output: str | tuple[InputContent, ...]
    size: int = 0
    refused: str = ""


def kept_so_far(turn: Turn) -> int:
    """Roughly the bytes of all answers that the turn has in its output."""
    return sum(map(item_output_bytes, turn.output))


def kept(output: str | tuple[InputContent, ...], before: int) -> Kept:
    """What is recorded of an answer; ``before``: bytes of those that the turn has already."""
    if isinstance(output, str):
        output = as_text(output, len(output))
        size = len(output.encode())
    else:
        try:
            size = len(msgspec.json.encode(output))
        except UnicodeEncodeError:
            return _refused("The answer is no valid text, and was not kept.")
    if size > TOOL_OUTPUT_BYTES_MAX:
        return _refused(f"The answer had more than {TOOL_OUTPUT_BYTES_MAX} bytes, and was not kept.")
    if before + size > TOOL_OUTPUTS_TURN_BYTES_MAX:
        return _refused(
            f"The answers of one turn had more than {TOOL_OUTPUTS_TURN_BYTES_MAX} bytes; this was not kept."
        )
    return Kept(output, size)


def _refused(why: str) -> Kept:
    return Kept(f"[{why}]", refused=why)


def as_text(text: str, chars: int = TOOL_ERROR_CHARS_MAX) -> str:
    """A text of a host's as the log takes it: Unicode, and not too long."""
    return text[:chars].encode("utf-8", "replace").decode()
