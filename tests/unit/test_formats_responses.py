"""Responses: what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.calls import (
    AllowedTools,
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    FunctionChoice,
    FunctionTool,
    ItemStart,
    JsonObject,
    JsonSchema,
    ModelDelta,
    ModelParams,
    ModelRequest,
    PartStart,
    ReasoningConfig,
    ReasoningDelta,
    RefusalDelta,
    SidecarDelta,
    SummaryDelta,
    TextConfig,
    TextDelta,
    Usage,
)
from stateline.core.errors import BadRequest, ModelError
from stateline.core.items import (
    Compaction,
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    Sidecar,
    SummaryText,
    UrlCitation,
)
from stateline.core.stream import StreamBuilder
from stateline.models.formats.openai_responses import StreamDecoder, decode_response, encode_request

OPENAI = "openai-responses/openai"
OPEN = "openai-responses/openai-compatible"
TOOL = FunctionTool(name="f", parameters={"type": "object"})
ENCRYPTED = "reasoning.encrypted_content"


def _encode(
    items: Sequence[ModelItem] = (),
    origin: str = OPENAI,
    *,
    sidecars: Mapping[str, Sidecar] | None = None,
    upstream: str = "up",
    stream: bool = False,
    **params: Any,
) -> dict[str, Any]:
    request = ModelRequest(
        params=ModelParams(model="m", **params), items=items, key="k", stream=stream, sidecars=sidecars or {}
    )
    return msgspec.json.decode(encode_request(request, upstream, origin))


def _own(origin: str = OPENAI, **data: Any) -> Sidecar:
    return Sidecar(origin=origin, data=data)


# -- requests -----------------------------------------------------------------------------------


def test_a_plain_question_is_stored_nowhere() -> None:
    item = Message(id="msg_ours", role="user", content=(InputText(text="hi"),))
    assert _encode([item]) == {
        "model": "up",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "store": False,
    }


def test_parameters_keep_their_values() -> None:
    schema = JsonSchema(name="n", description="d", schema={"type": "object"}, strict=True)
    body = _encode(
        stream=True,
        instructions="be brief",
        tools=(TOOL,),
        parallel_tool_calls=True,
        reasoning=ReasoningConfig(effort="low", summary="auto"),
        temperature=0.0,
        top_p=0.5,
        top_logprobs=2,
        logprobs=True,
        max_output_tokens=99,
        service_tier="flex",
        safety_identifier="s",
        prompt_cache_key="c",
        user="u",
        text=TextConfig(format=schema, verbosity="high"),
    )
    assert body == {
        "model": "up",
        "input": [],
        "store": False,
        "stream": True,
        "instructions": "be brief",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": None}],
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": [ENCRYPTED, "message.output_text.logprobs"],
        "temperature": 0.0,
        "top_p": 0.5,
        "top_logprobs": 2,
        "max_output_tokens": 99,
        "service_tier": "flex",
        "safety_identifier": "s",
        "prompt_cache_key": "c",
        "user": "u",
        "text": {
            "format": {
                "type": "json_schema",
                "name": "n",
                "description": "d",
                "schema": {"type": "object"},
                "strict": True,
            },
            "verbosity": "high",
        },
    }
    assert _encode(text=TextConfig(format=JsonObject()))["text"] == {"format": {"type": "json_object"}}
    assert _encode(tools=(FunctionTool(name="f", description="d"),))["tools"][0]["description"] == "d"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("none", "none"),
        ("required", "required"),
        (FunctionChoice(name="f"), {"type": "function", "name": "f"}),
        (
            AllowedTools(tools=(FunctionChoice(name="f"),), mode="required"),
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
        ),
        (AllowedTools(tools=(FunctionChoice(name="f"),), mode="none"), "none"),
    ],
)
def test_tool_choices(choice: Any, expected: Any) -> None:
    assert _encode(tools=(TOOL,), tool_choice=choice).get("tool_choice") == expected


@pytest.mark.parametrize(
    ("upstream", "origin", "params", "asked"),
    [
        ("gpt-4o", OPENAI, {}, False),
        ("gpt-5-mini", OPENAI, {}, True),
        ("gpt-5-chat-latest", OPENAI, {}, False),
        ("gpt-5", OPEN, {}, False),
        ("gpt-4o", OPENAI, {"include": (ENCRYPTED,)}, True),
        ("any", OPEN, {"reasoning": ReasoningConfig(effort="low")}, True),
    ],
)
def test_encrypted_reasoning_is_asked_for_where_there_is_reasoning(
    upstream: str, origin: str, params: dict[str, Any], asked: bool
) -> None:
    assert (ENCRYPTED in _encode(upstream=upstream, origin=origin, **params).get("include", [])) is asked


def test_what_the_same_origin_gave_goes_back_to_it() -> None:
    items = (
        Reasoning(id="rs_ours", summary=(SummaryText(text="so"),), encrypted_content="enc"),
        Message(id="msg_ours", role="assistant", content=(OutputText(text="hi"),), phase="commentary"),
        FunctionCall(id="fc_ours", call_id="c", name="f", arguments="{}"),
        FunctionCallOutput(id="fco_ours", call_id="c", output="ok"),
    )
    sidecars = {
        "rs_ours": _own(id="rs_up", encrypted_content="enc"),
        "msg_ours": _own(id="msg_up"),
        "fc_ours": _own(id="fc_up"),
    }
    body = _encode(items, sidecars=sidecars)
    assert body["include"] == [ENCRYPTED]
    assert body["input"] == [
        {
            "type": "reasoning",
            "id": "rs_up",
            "summary": [{"type": "summary_text", "text": "so"}],
            "encrypted_content": "enc",
        },
        {
            "type": "message",
            "id": "msg_up",
            "role": "assistant",
            "status": "completed",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc_up", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "ok"},
    ]
    elsewhere = _encode(items, OPEN, sidecars=sidecars)
    assert elsewhere["input"] == [
        {"type": "message", "role": "assistant", "phase": "commentary", "content": "hi"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "ok"},
    ]
    assert "ours" not in str(body) + str(elsewhere)


def test_an_output_that_failed_says_so() -> None:
    call = FunctionCall(id="f", call_id="c", name="f", arguments="{}")
    failed = FunctionCallOutput(id="o", call_id="c", output="no such word", status="incomplete")
    for origin in (OPENAI, OPEN):
        sent = _encode((call, failed), origin)["input"][1]
        assert (sent["output"], sent["status"]) == ("no such word", "incomplete")


def test_reasoning_with_nothing_to_give_back_takes_the_ids_that_would_ask_for_it_along() -> None:
    items = (
        Reasoning(id="rs_ours"),
        Message(id="msg_a", role="assistant", content=(OutputText(text="hi"),)),
        Message(id="msg_b", role="user", content=(InputText(text="on"),)),
        Message(id="msg_c", role="assistant", content=(OutputText(text="yes"),)),
    )
    sidecars = {name: _own(id=f"up_{name}") for name in ("rs_ours", "msg_a", "msg_c")}
    said = [item for item in _encode(items, sidecars=sidecars)["input"] if item.get("role") == "assistant"]
    assert [item.get("id") for item in said] == [None, "up_msg_c"]


def test_an_open_models_reasoning_goes_back_as_text() -> None:
    item = Reasoning(id="rs_ours", content=(ReasoningText(text="hm"),))
    assert _encode([item], OPEN, sidecars={"rs_ours": _own(OPEN, id="rs_up")})["input"] == [
        {"type": "reasoning", "id": "rs_up", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    ]
    assert _encode([item], OPEN)["input"] == []


def test_a_client_vouches_for_the_encrypted_items_it_brings() -> None:
    items = [Reasoning(id="rs_1", encrypted_content="e"), Compaction(id="cmp_1", encrypted_content="f")]
    assert _encode(items)["input"] == [
        {"type": "reasoning", "summary": [], "encrypted_content": "e"},
        {"type": "compaction", "encrypted_content": "f"},
    ]


def test_an_answer_of_several_parts_keeps_them() -> None:
    parts = (OutputText(text="a"), Refusal(refusal="b"))
    assert _encode([Message(id="msg_1", role="assistant", content=parts)])["input"][0]["content"] == [
        {"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "b"},
    ]
    assert _encode([Message(id="msg_1", role="assistant")])["input"][0]["content"] == ""
    assert _encode([Message(id="msg_1", role="user")])["input"][0]["content"] == ""


def test_images_and_files_become_parts() -> None:
    content = (
        InputImage(image_url="https://x/y.png", detail="low"),
        InputFile(filename="a.pdf", file_data="data:application/pdf;base64,AA=="),
        InputFile(file_url="https://x/a.pdf"),
    )
    expected = [
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        {"type": "input_file", "file_url": "https://x/a.pdf"},
    ]
    items = (
        Message(id="msg_1", role="user", content=content),
        FunctionCallOutput(id="fco_1", call_id="c", output=content),
    )
    message, output = _encode(items)["input"]
    assert message["content"] == expected
    assert output["output"] == expected


_VIDEO = Message(id="m", role="user", content=(InputVideo(video_url="https://x"),))


@pytest.mark.parametrize(
    ("item", "params", "field"),
    [
        (None, {"stop": ("x",)}, "stop"),
        (None, {"seed": 0}, "seed"),
        (None, {"presence_penalty": 0.5}, "presence_penalty"),
        (None, {"frequency_penalty": 0.5}, "frequency_penalty"),
        (_VIDEO, {}, "input"),
        (Message(id="m", role="user", content=(InputImage(image_url=None),)), {}, "input"),
        (Message(id="m", role="user", content=(Refusal(refusal="x"),)), {}, "input"),
        (Message(id="m", role="assistant", content=(InputImage(image_url="https://x"),)), {}, "input"),
        (Compaction(id="theirs", encrypted_content="x"), {}, "input"),
    ],
)
def test_what_the_format_cannot_carry_is_refused_by_name(
    item: ModelItem | None, params: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        _encode([item] if item else [], sidecars={"theirs": _own(OPEN)}, **params)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)


def test_open_responses_servers_take_penalties_and_videos() -> None:
    body = _encode([_VIDEO], OPEN, presence_penalty=0.5, frequency_penalty=0.0)
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0.5, 0.0)
    assert body["input"][0]["content"] == [{"type": "input_video", "video_url": "https://x"}]


# -- answers --------------------------------------------------------------------------------------

USAGE = {
    "input_tokens": 10,
    "output_tokens": 5,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens_details": {"reasoning_tokens": 3},
}
NOTE = {"type": "url_citation", "url": "https://x", "start_index": 0, "end_index": 1, "title": "t"}


def _body(*output: dict[str, Any], **fields: Any) -> bytes:
    return msgspec.json.encode({"id": "r", "status": "completed", "output": output, "usage": USAGE} | fields)


def _stream(*events: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n" for event in events
    )


def _event(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{name}", **fields}


def _added(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return _event("output_item.added", output_index=index, item={"type": kind, "id": f"up{index}"} | fields)


def _done(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return _event("output_item.done", output_index=index, item={"type": kind, "id": f"up{index}"} | fields)


END = _event("completed", response={"id": "r", "status": "completed", "model": "up-1", "usage": USAGE})


def _decode(*events: dict[str, Any], tail: bytes = b"") -> list[ModelDelta]:
    decoder = StreamDecoder()
    deltas = decoder.feed(_stream(*events) + tail)
    return deltas if decoder.done else deltas + decoder.eof()


def test_a_whole_answer_gives_its_deltas_in_order() -> None:
    deltas = decode_response(
        _body(
            {
                "type": "reasoning",
                "id": "rs_up",
                "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}],
                "content": [{"type": "reasoning_text", "text": "c"}],
                "encrypted_content": "enc",
            },
            {"type": "web_search_call", "id": "ws_1", "action": {}, "content": 5},
            {
                "type": "message",
                "id": "msg_up",
                "phase": "final_answer",
                "content": [
                    {"type": "output_text", "text": "x", "annotations": [NOTE, {"type": "file_path"}]},
                    {"type": "output_text", "text": "y"},
                    {"type": "output_text", "text": ""},
                    {"type": "refusal", "refusal": "no"},
                ],
            },
            {"type": "function_call", "id": "fc_up", "call_id": "c", "name": "f", "arguments": "{}"},
            service_tier="flex",
            model="up-1",
        )
    )
    assert deltas == [
        ItemStart("reasoning"),
        SummaryDelta("a"),
        PartStart(),
        SummaryDelta("b"),
        ReasoningDelta("c"),
        SidecarDelta({"id": "rs_up", "encrypted_content": "enc"}),
        ItemStart("message", "final_answer"),
        SidecarDelta({"id": "msg_up"}),
        TextDelta("x"),
        AnnotationDelta(UrlCitation(url="https://x", start_index=0, end_index=1, title="t")),
        PartStart(),
        TextDelta("y"),
        RefusalDelta("no"),
        CallStart(0, "c", "f"),
        CallDelta(0, "{}"),
        SidecarDelta({"id": "fc_up"}),
        Finish(
            reason="tool_calls",
            usage=Usage(input_tokens=10, output_tokens=5, cached_tokens=4, reasoning_tokens=3),
            upstream_id="r",
            upstream_model="up-1",
            service_tier="flex",
        ),
    ]


def test_a_streamed_answer_makes_the_same_items() -> None:
    deltas = _decode(
        _event("created", response={"id": "r", "status": "in_progress"}),
        _added(0, "reasoning", encrypted_content="early"),
        _event("reasoning_summary_part.added", output_index=0, summary_index=0, part={"type": "summary_text"}),
        _event("reasoning_summary_text.delta", output_index=0, delta="a"),
        _event("reasoning_summary_text.done", output_index=0, text="a"),
        _event("reasoning_summary_part.added", output_index=0, summary_index=1, part={"type": "summary_text"}),
        _event("reasoning_summary_text.delta", output_index=0, delta="b"),
        _event("reasoning_text.delta", output_index=0, delta="c"),
        _event("reasoning.delta", output_index=0, delta="d"),
        _done(0, "reasoning", encrypted_content="late"),
        _added(1, "web_search_call"),
        _event("web_search_call.searching", output_index=1, delta={"any": "thing"}),
        _done(1, "web_search_call"),
        _added(2, "message"),
        _event("content_part.added", output_index=2, part={"type": "output_text", "text": ""}),
        _event("output_text.delta", output_index=2, delta="x", logprobs=[]),
        _event("output_text.annotation.added", output_index=2, annotation=NOTE),
        _event("content_part.added", output_index=2, part={"type": "output_text"}),
        _event("output_text.delta", output_index=2, delta="y"),
        _event("content_part.added", output_index=2, part={"type": "refusal"}),
        _event("refusal.delta", output_index=2, delta="no"),
        _done(2, "message", content=[{"type": "output_text", "text": "xy"}]),
        END,
    )
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(deltas)
    builder.take()
    items, _, _ = builder.end("incomplete")
    thought, message = items
    assert isinstance(thought, Reasoning)
    assert [part.text for part in thought.summary] == ["a", "b"]
    assert isinstance(thought.content, tuple)
    assert [part.text for part in thought.content] == ["cd"]
    assert thought.encrypted_content == "late"
    assert isinstance(message, Message)
    assert message.content == (
        OutputText(text="x", annotations=(UrlCitation(url="https://x", start_index=0, end_index=1, title="t"),)),
        OutputText(text="y"),
        Refusal(refusal="no"),
    )
    assert builder.sidecars == {
        thought.id: {"id": "up0", "encrypted_content": "late"},
        message.id: {"id": "up2"},
    }
    assert builder.finish is not None
    assert builder.finish.reason == "stop"


def test_parallel_calls_may_be_streamed_side_by_side() -> None:
    deltas = _decode(
        _added(0, "function_call", call_id="a", name="f", arguments=""),
        _added(1, "function_call", call_id="b", name="g", arguments=""),
        _event("function_call_arguments.delta", output_index=0, delta="[1"),
        _event("function_call_arguments.delta", output_index=1, delta="[2]"),
        _event("function_call_arguments.delta", output_index=0, delta="]"),
        _event("function_call_arguments.done", output_index=0, arguments="[1]"),
        _done(0, "function_call", call_id="a", name="f", arguments="[1]"),
        _done(1, "function_call", call_id="b", name="g", arguments="[2]"),
        END,
    )
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(deltas)
    builder.take()
    calls = [item for item in builder.end("incomplete")[0] if isinstance(item, FunctionCall)]
    assert [(call.call_id, call.arguments) for call in calls] == [("a", "[1]"), ("b", "[2]")]
    assert [builder.sidecars[call.id] for call in calls] == [{"id": "up0"}, {"id": "up1"}]
    assert isinstance(deltas[-1], Finish)
    assert deltas[-1].reason == "tool_calls"


def test_texts_that_come_only_when_they_are_done_are_not_lost() -> None:
    deltas = _decode(
        _event("output_item.added", item={"type": "message", "id": "m"}),
        _event("output_text.annotation.added", item_id="m", annotation=NOTE),
        _event("output_text.done", item_id="m", text="x"),
        _event("output_item.added", item={"type": "function_call", "id": "f", "call_id": "c", "name": "f"}),
        _event("function_call_arguments.done", item_id="f", arguments="{}"),
        _event("output_item.done", item={"type": "function_call", "id": "f", "call_id": "c", "arguments": "{}"}),
        _event(
            "output_item.done", item={"type": "message", "id": "n", "content": [{"type": "refusal", "refusal": "r"}]}
        ),
        END,
    )
    kept = [delta for delta in deltas if not isinstance(delta, SidecarDelta | ItemStart | AnnotationDelta)]
    assert kept[:-1] == [TextDelta("x"), CallStart(0, "c", "f"), CallDelta(0, "{}"), RefusalDelta("r")]
    assert any(isinstance(delta, AnnotationDelta) for delta in deltas)


@pytest.mark.parametrize("kind", ["refusal", "reasoning_text", "reasoning_summary_text"])
def test_other_texts_too(kind: str) -> None:
    name = "refusal" if kind == "refusal" else "text"
    deltas = _decode(_event(f"{kind}.done", **{name: "x"}), END)
    assert [delta.text for delta in deltas if isinstance(delta, RefusalDelta | ReasoningDelta | SummaryDelta)] == ["x"]


@pytest.mark.parametrize(
    ("details", "reason"),
    [({"reason": "max_output_tokens"}, "length"), ({"reason": "content_filter"}, "content_filter")],
)
def test_an_incomplete_answer_says_why(details: dict[str, str], reason: str) -> None:
    response = {"id": "r", "status": "incomplete", "incomplete_details": details}
    for deltas in (
        _decode(_event("incomplete", response=response)),
        decode_response(msgspec.json.encode(response | {"output": []})),
    ):
        assert isinstance(deltas[-1], Finish)
        assert deltas[-1].reason == reason


_FAILED = {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow"}}


@pytest.mark.parametrize(
    ("event", "code", "retryable"),
    [
        (_event("failed", response=_FAILED), "rate_limited", True),
        ({"type": "error", "code": "server_error", "message": "x", "param": None}, "upstream_error", True),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "x"}}, "upstream_rejected", False),
        (_event("incomplete", response={"status": "incomplete"}), "upstream_error", True),
        (_event("completed"), "malformed_stream", True),
        (_event("output_item.added"), "malformed_stream", True),
        (_event("output_item.done"), "malformed_stream", True),
        (_added(0, "function_call"), "malformed_stream", True),
        (_added(0, "mcp_approval_request"), "unsupported_output", False),
        (_added(0, "message", phase=3), "malformed_stream", True),
        (_event("function_call_arguments.delta", output_index=3, delta="x"), "malformed_stream", True),
        (_event("output_text.delta", delta=3), "malformed_stream", True),
        ({"type": ""}, "answer_cut", True),
    ],
)
def test_a_broken_stream_says_how_it_broke(event: dict[str, Any], code: str, retryable: bool) -> None:
    with pytest.raises(ModelError) as caught:
        _decode(event)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("tail", "code"),
    [(b"", "answer_cut"), (b"data: {", "malformed_stream"), (b"data: [DONE]\n\n", "malformed_stream")],
)
def test_a_stream_without_its_last_event_is_cut(tail: bytes, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        _decode(_added(0, "message"), tail=tail)
    assert caught.value.code == code


def test_texts_of_two_items_at_once_are_refused() -> None:
    with pytest.raises(ModelError, match="two items"):
        _decode(_added(0, "message"), _added(1, "message"), _event("output_text.delta", output_index=0, delta="x"))


def test_done_after_the_last_event_is_ignored() -> None:
    assert isinstance(_decode(END, tail=b"data: [DONE]\n\ndata: more\n\n")[-1], Finish)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_response"),
        (b"{}", "malformed_response"),
        (b"[]", "malformed_response"),
        (b"\xff", "malformed_response"),
        (_body(status="queued"), "malformed_response"),
        (_body(**_FAILED), "rate_limited"),
        (_body(error={"code": "server_error"}), "upstream_error"),
        (_body({"type": "computer_call", "id": "x"}), "unsupported_output"),
        (_body({"id": "x"}), "malformed_response"),
    ],
)
def test_a_broken_answer_says_how_it_broke(body: bytes, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        decode_response(body)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_no_bytes_of_a_provider_break_the_decoder(data: bytes) -> None:
    with pytest.raises(ModelError):
        decode_response(data)
    for tail in (data, b"data: " + data + b"\n\n"):
        with pytest.raises(ModelError):
            _decode(tail=tail)
