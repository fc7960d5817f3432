"""An estimate of a request's input tokens, for where no exact counter is at hand."""

from __future__ import annotations

import msgspec

from stateline.core.calls import ModelRequest
from stateline.core.items import FunctionCallOutput, InputFile, InputImage, Item, Message

BYTES_PER_TOKEN = 4
"""English text in current tokenizers: about four bytes a token."""
ITEM_TOKENS = 4
"""What a message's frame takes in chat templates."""
IMAGE_TOKENS = 765
"""A 1024-pixel image in high detail (OpenAI's image pricing: 85 + 4 tiles of 170)."""


def estimate_tokens(request: ModelRequest) -> int:
    """Tokens of instructions, tools and items; inline images count as images, not as their bytes."""
    total_bytes = len((request.params.instructions or "").encode())
    if request.params.tools:
        total_bytes += len(msgspec.json.encode(request.params.tools))
    if request.embed is not None:
        total_bytes += len(bytes(request.embed.input))
    tokens = 0
    for item in request.items:
        text_bytes, images = _size(item)
        total_bytes += text_bytes
        tokens += ITEM_TOKENS + images * IMAGE_TOKENS
    return tokens + -(-total_bytes // BYTES_PER_TOKEN)


def _size(item: Item) -> tuple[int, int]:
    """UTF-8 bytes of an item's texts, and its images."""
    if isinstance(item, Message):
        parts = item.content
    elif isinstance(item, FunctionCallOutput) and not isinstance(item.output, str):
        parts = item.output
    else:
        return len(msgspec.json.encode(item)), 0
    texts, images = 0, 0
    for part in parts:
        if isinstance(part, InputImage):
            images += 1
        elif isinstance(part, InputFile):
            texts += len(part.file_data or "")
        else:
            texts += len(msgspec.json.encode(part))
    return texts, images


def needs(request: ModelRequest) -> frozenset[str]:
    """What a request brings that not every model takes: ``images``, ``tools``."""
    found = {"tools"} if request.params.tools else set[str]()
    for item in request.items:
        if isinstance(item, Message):
            parts = item.content
        elif isinstance(item, FunctionCallOutput) and not isinstance(item.output, str):
            parts = item.output
        else:
            continue
        if any(isinstance(part, InputImage) for part in parts):
            found.add("images")
            break
    return frozenset(found)
