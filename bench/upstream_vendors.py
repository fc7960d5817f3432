"""Streams of the fake upstream in the other formats, Anthropic's, Bedrock's two and Google's, and OpenAI's as padded.

One token an event, which is the most events that a provider sends, and with what recorded streams have around
it: all but Google pad their events, so that a length does not tell a text, and Google counts tokens in each.
Padding goes round through its lengths, so that a decoder gains nothing by events that are alike.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from bench.upstream_bodies import ID, MODEL, WORD
from stateline.testing.converse import event as frame

Json = dict[str, Any]

_PADS = (17, 40, 2, 11, 33, 29, 5, 24)
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"


def _dump(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def _message_bodies(tokens: int) -> list[Json]:
    """The events of one message of Claude's."""
    usage = {"input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message: Json = {
        "model": MODEL, "id": f"msg_{ID}", "type": "message", "role": "assistant", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": WORD}}
            for _ in range(tokens)
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage | {"output_tokens": tokens},
        },
        {"type": "message_stop"},
    ]


def messages_events(tokens: int) -> list[bytes]:
    """Anthropic's Messages API: named events, whose JSON is padded with spaces before its last brace."""
    out: list[bytes] = []
    for at, body in enumerate(_message_bodies(tokens)):
        said = f"{_dump(body)[:-1]}{' ' * (_PADS[at % len(_PADS)] // 2)}}}"
        out.append(f"event: {body['type']}\ndata: {said}\n\n".encode())
    return out


def invoke_frames(tokens: int) -> list[bytes]:
    """The same message by Bedrock's InvokeModel: each event in base64, in a frame."""
    chunks = [b64encode(_dump(body).encode()).decode() for body in _message_bodies(tokens)]
    return [frame("chunk", {"bytes": chunk, "p": _pad(at)}) for at, chunk in enumerate(chunks)]


def converse_frames(tokens: int) -> list[bytes]:
    """Bedrock's ConverseStream."""
    bodies: list[tuple[str, Json]] = [
        ("messageStart", {"role": "assistant"}),
        *(("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": WORD}}) for _ in range(tokens)),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
        (
            "metadata",
            {
                "metrics": {"latencyMs": 900},
                "usage": {"inputTokens": 12, "outputTokens": tokens, "totalTokens": 12 + tokens},
            },
        ),
    ]
    return [frame(name, body | {"p": _pad(at)}) for at, (name, body) in enumerate(bodies)]


def gemini_events(tokens: int) -> list[bytes]:
    """Google's streamGenerateContent with ``alt=sse``."""

    def said(text: str, count: int, **more: str) -> bytes:
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, **more, "index": 0}
        usage = {
            "promptTokenCount": 12,
            "candidatesTokenCount": count,
            "totalTokenCount": 12 + count,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}],
        }
        body = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL, "responseId": ID}
        return b"data: " + json.dumps(body).encode() + b"\r\n\r\n"

    return [*(said(WORD, at + 1) for at in range(tokens)), said("", tokens, finishReason="STOP")]


def padded(events: list[bytes]) -> list[bytes]:
    """OpenAI's events with what it calls ``obfuscation``, in those that bring a text."""
    out: list[bytes] = []
    for at, event in enumerate(events):
        brings = b'"content":"' in event or b"_text.delta" in event
        more = f',"obfuscation":"{_pad(at)[:16]}"}}\n\n'.encode()
        out.append(event.removesuffix(b"}\n\n") + more if brings else event)
    return out


def _pad(at: int) -> str:
    return _LETTERS[: _PADS[at % len(_PADS)]]
