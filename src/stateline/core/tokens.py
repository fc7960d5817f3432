"""An estimate of a request's input tokens, for where no exact counter is at hand."""

from __future__ import annotations

import msgspec

from stateline.core.calls import ModelRequest, TextPlain
from stateline.core.items import (
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Sidecar,
)
from stateline.core.limits import IMAGE_TOKENS_MAX, ITEM_OVERHEAD_TOKENS, OVERHEAD_TOKENS

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


def most_tokens(request: ModelRequest) -> int:
    """No fewer than the input tokens that a provider may count: a token is one byte of UTF-8 at the least.

    What the provider adds, and images by the highest detail, are in it. A file counts by its bytes.
    """
    params = request.params
    total = OVERHEAD_TOKENS
    if params.instructions:
        total += _utf8(params.instructions)
    if params.tools:
        total += len(msgspec.json.encode(params.tools)) + ITEM_OVERHEAD_TOKENS * len(params.tools)
    if type(params.text.format) is not TextPlain:
        total += len(msgspec.json.encode(params.text.format))
    if request.embed is not None:
        total += len(bytes(request.embed.input))
    for item in request.items:
        total += ITEM_OVERHEAD_TOKENS + _most(item)
    for sidecar in request.sidecars.values():
        total += _beside(sidecar)
    return total


def _most(item: ModelItem) -> int:
    if type(item) is Message:
        parts = item.content
    elif type(item) is FunctionCallOutput and not isinstance(item.output, str):
        parts = item.output
    else:
        return len(msgspec.json.encode(item))
    total = 0
    for part in parts:
        if type(part) is InputText or type(part) is OutputText:
            total += _utf8(part.text)
        elif type(part) is InputImage:
            total += IMAGE_TOKENS_MAX
        else:
            total += len(msgspec.json.encode(part))
    return total


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _beside(sidecar: Sidecar) -> int:
    return len(msgspec.json.encode(sidecar))


def _size(item: ModelItem) -> tuple[int, int]:
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
