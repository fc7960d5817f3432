"""Chat Completions: what is asked, and what comes back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
    JsonObject,
    JsonSchema,
    ModelDelta,
    ModelParams,
    ModelRequest,
    ReasoningConfig,
    ReasoningDelta,
    RefusalDelta,
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
    Refusal,
    UrlCitation,
)
from stateline.core.stream import StreamBuilder
from stateline.models.formats.openai_chat import StreamDecoder, decode_response, encode_request

OPENAI = "openai-chat/openai"
OTHER = "openai-chat/openai-compatible"
TOOL = FunctionTool(name="f", description="d", parameters={"type": "object"}, strict=True)


def _encode(
    items: Sequence[ModelItem] = (), origin: str = OPENAI, *, stream: bool = False, **params: Any
) -> dict[str, Any]:
    request = ModelRequest(params=ModelParams(model="m", **params), items=items, key="k", stream=stream)
    return msgspec.json.decode(encode_request(request, "up", origin))


def _user(text: str) -> Message:
    return Message(id="msg_1", role="user", content=(InputText(text=text),))


def _said(text: str) -> Message:
    return Message(id="msg_2", role="assistant", content=(OutputText(text=text),))


def _call(call_id: str) -> FunctionCall:
    return FunctionCall(id="fc_1", call_id=call_id, name="f", arguments="{}")


def _output(call_id: str) -> FunctionCallOutput:
    return FunctionCallOutput(id="fco_1", call_id=call_id, output="ok")


# -- requests -----------------------------------------------------------------------------------


def test_a_plain_question_asks_for_nothing_else() -> None:
    assert _encode([_user("hi")]) == {"model": "up", "messages": [{"role": "user", "content": "hi"}]}


def test_a_stream_asks_for_its_usage() -> None:
    body = _encode([_user("hi")], stream=True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_parameters_keep_their_values() -> None:
    body = _encode(
        instructions="be brief",
        tools=(TOOL,),
        parallel_tool_calls=False,
        reasoning=ReasoningConfig(effort="low"),
        temperature=0.0,
        top_p=0.5,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        top_logprobs=2,
        service_tier="flex",
        safety_identifier="s",
        prompt_cache_key="c",
        user="u",
        stop=("x", "y"),
        seed=7,
        text=TextConfig(verbosity="low"),
        include=("reasoning.encrypted_content",),
    )
    assert body == {
        "model": "up",
        "messages": [{"role": "system", "content": "be brief"}],
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
            }
        ],
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "temperature": 0.0,
        "top_p": 0.5,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "logprobs": True,
        "top_logprobs": 2,
        "service_tier": "flex",
        "safety_identifier": "s",
        "prompt_cache_key": "c",
        "user": "u",
        "stop": ["x", "y"],
        "seed": 7,
        "verbosity": "low",
    }


@pytest.mark.parametrize(("origin", "name"), [(OPENAI, "max_completion_tokens"), (OTHER, "max_tokens")])
def test_the_output_limit_goes_by_the_name_that_the_server_knows(origin: str, name: str) -> None:
    assert _encode(origin=origin, max_output_tokens=9) == {"model": "up", "messages": [], name: 9}


@pytest.mark.parametrize(("origin", "role"), [(OPENAI, "developer"), (OTHER, "system")])
def test_the_developer_role_goes_where_it_is_known(origin: str, role: str) -> None:
    message = Message(id="msg_1", role="developer", content=(InputText(text="x"),))
    assert _encode([message], origin)["messages"] == [{"role": role, "content": "x"}]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("none", "none"),
        ("required", "required"),
        (FunctionChoice(name="f"), {"type": "function", "function": {"name": "f"}}),
        (
            AllowedTools(tools=(FunctionChoice(name="f"),)),
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        ),
        (AllowedTools(tools=(FunctionChoice(name="f"),), mode="none"), "none"),
    ],
)
def test_tool_choices(choice: Any, expected: Any) -> None:
    assert _encode(tools=(TOOL,), tool_choice=choice).get("tool_choice") == expected


def test_where_allowed_tools_are_unknown_only_those_are_offered() -> None:
    other = FunctionTool(name="g")
    choice = AllowedTools(tools=(FunctionChoice(name="g"),), mode="required")
    body = _encode(origin=OTHER, tools=(TOOL, other), tool_choice=choice)
    assert body["tools"] == [{"type": "function", "function": {"name": "g"}}]
    assert body["tool_choice"] == "required"


def test_choosing_no_tool_of_none_says_nothing() -> None:
    assert "tool_choice" not in _encode(tool_choice="none")


def test_response_formats() -> None:
    schema = JsonSchema(name="n", description="d", schema={"type": "object"}, strict=True)
    assert _encode(text=TextConfig(format=schema))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "description": "d", "schema": {"type": "object"}, "strict": True},
    }
    assert _encode(text=TextConfig(format=JsonObject()))["response_format"] == {"type": "json_object"}


def test_images_and_files_become_parts() -> None:
    content = (
        InputText(text="see"),
        InputImage(image_url="https://x/y.png", detail="low"),
        InputFile(filename="a.pdf", file_data="data:application/pdf;base64,AA=="),
    )
    assert _encode([Message(id="msg_1", role="user", content=content)])["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
    ]


def test_an_assistants_words_and_calls_are_one_message() -> None:
    thought = Reasoning(id="rs_1")
    messages = _encode(
        [thought, _said("a"), _call("c1"), thought, _call("c2"), _said("b"), _output("c1"), _output("c2")]
    )
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ("c1", "c2")]
    assert messages["messages"] == [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            "tool_calls": calls,
        },
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        {"role": "tool", "tool_call_id": "c2", "content": "ok"},
    ]


def test_two_answers_stay_two_messages() -> None:
    assert _encode([_said("a"), _said("b")])["messages"] == [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


def test_a_refusal_goes_back_as_one() -> None:
    message = Message(id="msg_1", role="assistant", content=(Refusal(refusal="no"), Refusal(refusal="!")))
    assert _encode([message])["messages"] == [{"role": "assistant", "content": None, "refusal": "no!"}]


def test_input_that_came_between_a_call_and_its_answer_follows_the_answer() -> None:
    items = [_call("c1"), _call("c2"), _output("c1"), _user("wait"), _output("c2"), _user("go")]
    roles = [(m["role"], m.get("tool_call_id") or m["content"]) for m in _encode(items)["messages"]]
    assert roles == [("assistant", None), ("tool", "c1"), ("tool", "c2"), ("user", "wait"), ("user", "go")]


def test_input_after_a_call_that_is_never_answered_is_kept() -> None:
    messages = _encode([_call("c1"), _user("a"), _call("c2"), _output("c2"), _user("b")])["messages"]
    assert [m["role"] for m in messages] == ["assistant", "user", "assistant", "tool", "user"]
    assert [m["role"] for m in _encode([_call("c1"), _user("a")])["messages"]] == ["assistant", "user"]


@pytest.mark.parametrize(
    ("item", "params", "field"),
    [
        (None, {"reasoning": ReasoningConfig(summary="auto")}, "reasoning.summary"),
        (Compaction(id="cmp_1", encrypted_content="x"), {}, "input"),
        (Message(id="m", role="user", content=(InputVideo(video_url="https://x"),)), {}, "input"),
        (Message(id="m", role="user", content=(InputFile(file_url="https://x"),)), {}, "input"),
        (Message(id="m", role="user", content=(InputImage(image_url=None),)), {}, "input"),
        (Message(id="m", role="user", content=(Refusal(refusal="x"),)), {}, "input"),
        (Message(id="m", role="system", content=(InputImage(image_url="https://x"),)), {}, "input"),
        (Message(id="m", role="assistant", content=(InputImage(image_url="https://x"),)), {}, "input"),
        (FunctionCallOutput(id="f", call_id="c", output=(InputImage(image_url="https://x"),)), {}, "input"),
    ],
)
def test_what_the_format_cannot_carry_is_refused_by_name(
    item: ModelItem | None, params: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        _encode([item] if item else [], **params)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)


# -- answers --------------------------------------------------------------------------------------

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def _answer(message: dict[str, Any], reason: str = "stop", **fields: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return msgspec.json.encode({"id": "c1", "model": "up-1", "choices": [choice | fields], "usage": USAGE})


def _stream(*events: dict[str, Any] | str) -> bytes:
    texts = [event if isinstance(event, str) else msgspec.json.encode(event).decode() for event in events]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def _chunk(delta: dict[str, Any], reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason} | fields]}


def _decode(data: bytes) -> list[ModelDelta]:
    decoder = StreamDecoder()
    return decoder.feed(data) + ([] if decoder.done else decoder.eof())


def test_a_whole_answer_gives_its_deltas_in_order() -> None:
    citation = {"url": "https://x", "start_index": 0, "end_index": 2, "title": "t"}
    message = {
        "reasoning_content": "hm",
        "content": "yes",
        "annotations": [{"type": "url_citation", "url_citation": citation}, {"type": "file"}],
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    logprob = {"token": "yes", "logprob": -0.5, "top_logprobs": [{"token": "no", "logprob": -1.0, "bytes": [1]}]}
    assert decode_response(_answer(message, "tool_calls", logprobs={"content": [logprob]})) == [
        ReasoningDelta("hm"),
        TextDelta(
            "yes",
            [
                {
                    "token": "yes",
                    "logprob": -0.5,
                    "bytes": [],
                    "top_logprobs": [{"token": "no", "logprob": -1.0, "bytes": [1]}],
                }
            ],
        ),
        AnnotationDelta(UrlCitation(url="https://x", start_index=0, end_index=2, title="t")),
        CallStart(0, "a", "f"),
        CallDelta(0, "{}"),
        Finish(
            reason="tool_calls",
            usage=Usage(input_tokens=10, output_tokens=5, cached_tokens=4, reasoning_tokens=3),
            upstream_id="c1",
            upstream_model="up-1",
        ),
    ]


def test_a_refusal_is_no_text() -> None:
    assert decode_response(_answer({"content": None, "refusal": "no"}))[0] == RefusalDelta("no")


def test_only_the_first_choice_counts() -> None:
    body = {"choices": [{"index": 1, "message": {"content": "b"}, "finish_reason": "stop"}]}
    with pytest.raises(ModelError, match="finish reason"):
        decode_response(msgspec.json.encode(body))


def test_parallel_calls_are_told_apart_by_their_index() -> None:
    def piece(index: int, arguments: str, **call: Any) -> dict[str, Any]:
        function = {"arguments": arguments} | ({"name": call.pop("name")} if "name" in call else {})
        return _chunk({"tool_calls": [{"index": index, "function": function} | call]})

    deltas = _decode(
        _stream(
            piece(0, "", id="a", name="f"), piece(1, "", id="b", name="g"),
            piece(0, "[1"), piece(1, "[2"), piece(0, "]"), piece(1, "]", id="zz"),
            _chunk({}, "tool_calls"), {"choices": [], "usage": USAGE}, "[DONE]",
        )
    )  # fmt: skip
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(deltas)
    builder.take()
    items, _, _ = builder.end("incomplete")
    assert [(item.call_id, item.name, item.arguments) for item in items if isinstance(item, FunctionCall)] == [
        ("a", "f", "[1]"),
        ("b", "g", "[2]"),
    ]
    assert builder.finish is not None
    assert builder.finish.usage is not None


@pytest.mark.parametrize("index", [{}, {"index": 0}])
def test_servers_that_number_no_calls_send_whole_ones(index: dict[str, int]) -> None:
    calls = [index | {"id": name, "function": {"name": name, "arguments": "{}"}} for name in "ab"]
    deltas = _decode(_stream(_chunk({"tool_calls": calls}), _chunk({}, "stop"), "[DONE]"))
    assert deltas[:4] == [CallStart(0, "a", "a"), CallDelta(0, "{}"), CallStart(1, "b", "b"), CallDelta(1, "{}")]
    assert isinstance(deltas[4], Finish)
    assert deltas[4].reason == "tool_calls"


def test_a_call_without_an_id_gets_one_from_the_answers() -> None:
    call = {"index": 0, "function": {"name": "f"}}
    assert _decode(_stream(_chunk({"tool_calls": [call]}), _chunk({}, "stop")))[0] == CallStart(0, "call_c1_0", "f")
    with pytest.raises(ModelError, match="without an id"):
        _decode(_stream({"choices": [{"delta": {"tool_calls": [call]}}]}))
    with pytest.raises(ModelError, match="without a name"):
        _decode(_stream(_chunk({"tool_calls": [{"index": 0}]})))


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_read_by_either_name(field: str) -> None:
    assert _decode(_stream(_chunk({field: "hm"}), _chunk({}, "stop"), "[DONE]"))[0] == ReasoningDelta("hm")


def test_a_citation_that_precedes_its_text_waits_for_it() -> None:
    note = {"type": "url_citation", "url_citation": {"url": "u"}}
    deltas = _decode(_stream(_chunk({"annotations": [note]}), _chunk({"content": "x"}), _chunk({}, "stop")))
    assert [type(delta) for delta in deltas] == [TextDelta, AnnotationDelta, Finish]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"),
        ("tool_calls", "tool_calls"), ("function_call", "tool_calls"), ("model_length", "length"),
    ],
)  # fmt: skip
def test_finish_reasons(said: str, reason: str) -> None:
    finish = decode_response(_answer({"content": "x"}, said))[-1]
    assert isinstance(finish, Finish)
    assert finish.reason == reason


def test_deepseeks_cache_hits_are_cached_tokens() -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 1, "prompt_cache_hit_tokens": 6}
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    finish = decode_response(msgspec.json.encode(body))[-1]
    assert isinstance(finish, Finish)
    assert finish.usage == Usage(input_tokens=8, output_tokens=1, cached_tokens=6)


def test_what_follows_the_end_is_ignored() -> None:
    decoder = StreamDecoder()
    deltas = decoder.feed(_stream(_chunk({"content": "x"}), _chunk({}, "stop"), "[DONE]", "garbage"))
    assert decoder.done
    assert isinstance(deltas[-1], Finish)
    assert decoder.feed(b"data: more\n\n") == []
    assert decoder.eof() == []


def test_a_stream_may_leave_out_done_once_it_gave_its_finish_reason() -> None:
    assert isinstance(_decode(_stream(_chunk({"content": "x"}), _chunk({}, "stop")))[-1], Finish)


@pytest.mark.parametrize(
    ("data", "code", "retryable"),
    [
        (b"", "answer_cut", True),
        (_stream(_chunk({"content": "x"})), "answer_cut", True),
        (_stream(_chunk({"content": "x"})) + b'data: {"cho', "malformed_stream", True),
        (_stream(_chunk({"content": "x"}), "[DONE]"), "malformed_stream", True),
        (_stream("{"), "malformed_stream", True),
        (b"data: \xff\n\n", "malformed_stream", True),
        (_stream(_chunk({"content": 5})), "malformed_stream", True),
        (_stream(_chunk({}, "insufficient_system_resource")), "upstream_error", True),
        (_stream({"error": {"message": "busy", "code": 503}}), "upstream_overloaded", True),
        (_stream({"error": "bad"}), "upstream_error", True),
        (_stream({"error": {"message": "x", "code": "context_length_exceeded"}}), "context_length_exceeded", False),
    ],
)
def test_a_broken_stream_says_how_it_broke(data: bytes, code: str, retryable: bool) -> None:
    with pytest.raises(ModelError) as caught:
        _decode(data)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"choices": []}', b'{"choices": 3}', b"\xff"])
def test_a_broken_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        decode_response(body)
    assert caught.value.code == "malformed_response"


@given(st.lists(st.text(min_size=1, max_size=8), max_size=8), st.lists(st.integers(0, 4000), max_size=8))
def test_any_text_survives_any_pieces(texts: list[str], cuts: list[int]) -> None:
    data = _stream(*[_chunk({"content": text}) for text in texts], _chunk({}, "stop"), "[DONE]")
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    decoder = StreamDecoder()
    deltas = [each for start, end in itertools.pairwise(at) for each in decoder.feed(data[start:end])]
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == "".join(texts)
    assert decoder.done


@given(st.binary(max_size=200))
def test_no_bytes_of_a_provider_break_the_decoder(data: bytes) -> None:
    for decode in (_decode, decode_response):
        with pytest.raises(ModelError):
            decode(data)
        with pytest.raises(ModelError):
            decode(b"data: " + data + b"\n\n")
