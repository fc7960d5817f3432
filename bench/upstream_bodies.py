"""The bodies that the fake upstream answers with, built once.

They follow OpenAI's published shapes of a chat completion and of a response, JSON and streamed.
`ID` stands where each answer puts an id of its own, of the same length.
"""

from __future__ import annotations

import json
from typing import Any

ID = "BENCHID0000000000"
MODEL = "fake"
WORD = " token"
_CREATED = 1_790_000_000

Json = dict[str, Any]


def _dump(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(value: Json) -> bytes:
    return b"event: " + value["type"].encode() + b"\ndata: " + _dump(value) + b"\n\n"


def _chat_usage(tokens: int) -> Json:
    return {
        "prompt_tokens": 12,
        "completion_tokens": tokens,
        "total_tokens": 12 + tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def chat_json(tokens: int) -> bytes:
    """One chat completion whose message is `tokens` words long."""
    message = {"role": "assistant", "content": (WORD * tokens).strip(), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _dump(
        {
            "id": f"chatcmpl-{ID}",
            "object": "chat.completion",
            "created": _CREATED,
            "model": MODEL,
            "choices": [choice],
            "usage": _chat_usage(tokens),
            "system_fingerprint": "fp_bench",
        }
    )


def chat_events(tokens: int, with_usage: bool) -> list[bytes]:
    """The stream of that completion: a role, one event a token, the end, usage where asked for."""

    def chunk(choices: list[Json], usage: Json | None = None) -> bytes:
        body: Json = {
            "id": f"chatcmpl-{ID}",
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": MODEL,
            "system_fingerprint": "fp_bench",
            "choices": choices,
        }
        if usage is not None:
            body["usage"] = usage
        return b"data: " + _dump(body) + b"\n\n"

    def delta(content: Json, finish: str | None = None) -> list[Json]:
        return [{"index": 0, "delta": content, "logprobs": None, "finish_reason": finish}]

    events = [chunk(delta({"role": "assistant", "content": "", "refusal": None}))]
    events += [chunk(delta({"content": WORD})) for _ in range(tokens)]
    events.append(chunk(delta({}, "stop")))
    if with_usage:
        events.append(chunk([], _chat_usage(tokens)))
    events.append(b"data: [DONE]\n\n")
    return events


def _response(status: str, output: list[Json], usage: Json | None) -> Json:
    return {
        "id": f"resp_{ID}",
        "object": "response",
        "created_at": _CREATED,
        "completed_at": _CREATED if status == "completed" else None,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": MODEL,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
    }


def _responses_usage(tokens: int) -> Json:
    return {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12 + tokens,
    }


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(status: str, content: list[Json]) -> Json:
    return {
        "id": f"msg_{ID}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def response_json(tokens: int) -> bytes:
    """One response whose single message is `tokens` words long."""
    item = _message("completed", [_text_part((WORD * tokens).strip())])
    return _dump(_response("completed", [item], _responses_usage(tokens)))


def response_events(tokens: int) -> list[bytes]:
    """The stream of that response in the order that the Responses API documents."""
    text = WORD * tokens
    where: Json = {"item_id": f"msg_{ID}", "output_index": 0, "content_index": 0}
    done = _message("completed", [_text_part(text)])
    bodies: list[Json] = [
        {"type": "response.created", "response": _response("in_progress", [], None)},
        {"type": "response.in_progress", "response": _response("in_progress", [], None)},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": _message("in_progress", []),
        },
        {"type": "response.content_part.added", **where, "part": _text_part("")},
        *({"type": "response.output_text.delta", **where, "delta": WORD, "logprobs": []} for _ in range(tokens)),
        {"type": "response.output_text.done", **where, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **where, "part": _text_part(text)},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {
            "type": "response.completed",
            "response": _response("completed", [done], _responses_usage(tokens)),
        },
    ]
    return [_event({**body, "sequence_number": i}) for i, body in enumerate(bodies)]
