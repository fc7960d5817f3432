"""Request bodies into turns: what good ones become, and that no body raises anything but a 4xx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stateline.api.chat.parse import parse_chat
from stateline.api.parse import parse_add_items, parse_count, parse_create, parse_create_conversation
from stateline.core.calls import AllowedTools, FunctionChoice, FunctionTool, JsonObject, JsonSchema, TextPlain
from stateline.core.errors import BadRequest, StatelineError
from stateline.core.ids import conversation_id
from stateline.core.items import (
    Compaction,
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    SummaryText,
    UrlCitation,
)
from stateline.core.limits import JSON_DEPTH_MAX

SESSION = "06h01e6hnzz6fb1mkb1vv70j"


def _body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "x", **fields}).encode()


def _item(value: object) -> object:
    (item,) = parse_create(_body(input=[value])).items
    return item


# -- responses ------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_specification() -> None:
    request = parse_create(_body()).request
    assert (request.store, request.background, request.stream) == (True, False, False)
    assert (request.truncation, request.tool_choice, request.parallel_tool_calls) == ("disabled", "auto", None)
    assert (request.text.format, request.metadata, request.include) == (TextPlain(), {}, ())


def test_null_is_the_same_as_nothing() -> None:
    names = ["instructions", "tools", "tool_choice", "metadata", "text", "temperature", "top_p", "reasoning", "store"]
    names += ["stream", "background", "truncation", "include", "previous_response_id", "conversation", "prompt"]
    nulls: dict[str, Any] = dict.fromkeys(names)
    assert parse_create(_body(**nulls)) == parse_create(_body())


@pytest.mark.parametrize(
    ("value", "item"),
    [
        ({"role": "user", "content": "a"}, Message(id="", role="user", content=(InputText(text="a"),))),
        ({"type": "message", "role": "system", "content": "a"},
         Message(id="", role="system", content=(InputText(text="a"),))),
        ({"role": "developer", "content": [{"type": "input_text", "text": "a"}]},
         Message(id="", role="developer", content=(InputText(text="a"),))),
        ({"role": "assistant", "content": "a"}, Message(id="", role="assistant", content=(OutputText(text="a"),))),
        ({"type": "message", "id": "msg_1", "role": "assistant", "status": "incomplete", "phase": "commentary",
          "content": [
              {"type": "output_text", "text": "a", "logprobs": [], "annotations": [
                  {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}]},
              {"type": "refusal", "refusal": "no"}]},
         Message(id="msg_1", role="assistant", status="incomplete", phase="commentary", content=(
             OutputText(text="a", annotations=(UrlCitation(url="u", title="t", start_index=0, end_index=1),)),
             Refusal(refusal="no")))),
        ({"role": "user", "content": [
            {"type": "input_image", "image_url": "https://x/a.png", "detail": None},
            {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
            {"type": "input_file", "file_url": "https://x/a.pdf"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "AA=="}]},
         Message(id="", role="user", content=(
             InputImage(image_url="https://x/a.png"), InputImage(image_url="data:image/png;base64,AA", detail="low"),
             InputFile(file_url="https://x/a.pdf"), InputFile(filename="a.pdf", file_data="AA==")))),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{", "status": None},
         FunctionCall(id="", call_id="c", name="f", arguments="{")),
        ({"type": "function_call_output", "call_id": "c", "output": "a"},
         FunctionCallOutput(id="", call_id="c", output="a")),
        ({"type": "function_call_output", "call_id": "c", "output": [
            {"type": "input_text", "text": "a"}, {"type": "input_video", "video_url": "https://x/v"}]},
         FunctionCallOutput(id="", call_id="c", output=(InputText(text="a"), InputVideo(video_url="https://x/v")))),
        ({"type": "reasoning", "summary": []}, Reasoning(id="")),
        ({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}],
          "content": [{"type": "reasoning_text", "text": "r"}], "encrypted_content": "e", "status": "completed"},
         Reasoning(id="rs_1", summary=(SummaryText(text="s"),), content=(ReasoningText(text="r"),),
                   encrypted_content="e", status="completed")),
        ({"type": "compaction", "encrypted_content": "e"}, Compaction(id="", encrypted_content="e")),
    ],
)  # fmt: skip
def test_items_become_what_the_log_keeps(value: object, item: object) -> None:
    assert _item(value) == item


@pytest.mark.parametrize("value", [{"type": "item_reference", "id": "msg_1"}, {"id": "a"}, {"type": None, "id": "a"}])
def test_references_are_left_for_the_engine(value: dict[str, Any]) -> None:
    item = _item(value)
    assert getattr(item, "id", None) == value["id"]
    assert not isinstance(item, Message)


def test_tools_and_their_choice() -> None:
    tool = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": None}
    parsed = parse_create(_body(tools=[tool], tool_choice={"type": "function", "name": "f"})).request
    assert parsed.tools == (FunctionTool(name="f", description="d", parameters={"type": "object"}),)
    assert parsed.tool_choice == FunctionChoice(name="f")
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    chosen = parse_create(_body(tools=[tool], tool_choice=allowed)).request.tool_choice
    assert chosen == AllowedTools(tools=(FunctionChoice(name="f"),), mode="required")
    assert parse_create(_body(tools=[tool], tool_choice="required")).request.tool_choice == "required"


def test_a_servers_tool_is_chosen_by_the_name_that_models_know_it_by() -> None:
    shop = {"type": "mcp", "server_label": "shop", "allowed_tools": ["refund"]}
    choice = {"type": "mcp", "server_label": "shop", "name": "refund"}
    own = {"type": "function", "name": "f"}
    assert parse_create(_body(tools=[shop], tool_choice=choice)).request.tool_choice == FunctionChoice(
        name="shop-refund"
    )
    allowed = {"type": "allowed_tools", "tools": [choice, own], "mode": "required"}
    chosen = parse_create(_body(tools=[shop, own], tool_choice=allowed)).request.tool_choice
    names = (FunctionChoice(name="shop-refund"), FunctionChoice(name="f"))
    assert chosen == AllowedTools(tools=names, mode="required")
    for odd, param in (
        ({**choice, "server_label": "other"}, "tool_choice.server_label"),
        ({**choice, "name": "other"}, "tool_choice.name"),
        (own, "tool_choice.name"),
        ({"type": "mcp", "server_label": "shop"}, "tool_choice.name"),
    ):
        with pytest.raises(BadRequest) as refused:
            parse_create(_body(tools=[shop], tool_choice=odd))
        assert refused.value.param == param


def test_text_formats() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    assert parse_create(_body(text={"format": schema})).request.text.format == JsonSchema(
        name="n", schema={"type": "object"}, strict=True
    )
    assert parse_create(_body(text={"format": {"type": "json_object"}})).request.text.format == JsonObject()
    assert parse_create(_body(text={"verbosity": "low"})).request.text.verbosity == "low"


def test_logprobs_are_asked_for_by_include_or_number() -> None:
    assert parse_create(_body(include=["message.output_text.logprobs"])).request.logprobs
    assert parse_create(_body(top_logprobs=2)).request.logprobs
    assert not parse_create(_body(top_logprobs=0)).request.logprobs


@pytest.mark.parametrize("value", [conversation_id(SESSION), {"id": conversation_id(SESSION)}])
def test_a_conversation_by_id_or_object(value: object) -> None:
    parsed = parse_create(_body(conversation=value))
    assert (parsed.conversation, parsed.request.in_conversation) == (SESSION, True)


def test_no_input_goes_on_from_a_context() -> None:
    assert parse_create(json.dumps({"model": "m", "previous_response_id": "resp_x"}).encode()).items == []


def test_a_token_count_takes_the_same_context() -> None:
    parsed = parse_count(_body(instructions="i", conversation=conversation_id(SESSION)))
    assert (parsed.request.instructions, parsed.conversation, len(parsed.items)) == ("i", SESSION, 1)


def test_conversations() -> None:
    items, metadata = parse_create_conversation(b'{"items": [{"role": "user", "content": "a"}], "metadata": null}')
    assert (len(items), metadata) == (1, {})
    assert parse_create_conversation(b"{}") == ([], {})
    assert len(parse_add_items(b'{"items": [{"role": "user", "content": "a"}]}')) == 1


@pytest.mark.parametrize(("depth", "refused"), [(JSON_DEPTH_MAX, False), (JSON_DEPTH_MAX + 1, True)])
def test_a_schema_is_nested_up_to_its_bound(depth: int, refused: bool) -> None:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"a": schema}
    body = _body(text={"format": {"type": "json_schema", "name": "n", "schema": schema}})
    if refused:
        with pytest.raises(BadRequest, match="nested") as error:
            parse_create(body)
        assert error.value.code == "nested_too_deep"
    else:
        parse_create(body)


# -- chat -------------------------------------------------------------------------------------------------


def _chat(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode()


def test_chat_messages_become_items() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 0}
    parts = [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}}]
    parts.append({"type": "file", "file": {"filename": "a.pdf", "file_data": "AA=="}})
    messages: list[Any] = [
        {"role": "system", "content": "a", "name": "n"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "r", "refusal": None},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "out"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "t"}, {"type": "refusal", "refusal": "no"}]},
    ]
    assert list(parse_chat(_chat(messages=messages)).request.items) == [
        Message(id="", role="system", content=(InputText(text="a"),)),
        Message(
            id="",
            role="user",
            content=(
                InputText(text="b"),
                InputImage(image_url="https://x", detail="low"),
                InputFile(filename="a.pdf", file_data="AA=="),
            ),
        ),
        Reasoning(id="", content=(ReasoningText(text="r"),)),
        FunctionCall(id="", call_id="c", name="f", arguments="{}"),
        FunctionCallOutput(id="", call_id="c", output=(InputText(text="out"),)),
        Message(id="", role="assistant", content=(OutputText(text="t"), Refusal(refusal="no"))),
    ]


def test_chat_parameters() -> None:
    parsed = parse_chat(
        _chat(
            max_tokens=5,
            stop="END",
            seed=7,
            reasoning_effort="low",
            verbosity="high",
            logprobs=True,
            top_logprobs=2,
            n=1,
            stream=True,
            stream_options={"include_usage": True},
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        )
    )
    params = parsed.request.params
    assert (params.max_output_tokens, params.stop, params.seed, params.top_logprobs) == (5, ("END",), 7, 2)
    assert params.reasoning is not None
    assert (params.reasoning.effort, params.text.verbosity) == ("low", "high")
    assert params.text.format == JsonSchema(name="n", schema={})
    assert (parsed.request.stream, parsed.include_usage) == (True, True)
    assert parse_chat(_chat(max_tokens=5, max_completion_tokens=6)).request.params.max_output_tokens == 6


# -- whatever comes -------------------------------------------------------------------------------------------


def test_recorded_requests_are_read_or_refused_by_what_is_not_served(shared: Path) -> None:
    parsers: dict[str, Any] = {
        "/v1/responses": parse_create,
        "/v1/chat/completions": parse_chat,
        "/v1/responses/input_tokens": parse_count,
    }
    read = 0
    for line in (shared / "recorded" / "openai.jsonl").read_text().splitlines():
        recording = json.loads(line)
        parse = parsers.get(recording["api"])
        if parse is None:
            continue
        request = recording["request"]
        error = _refusal(parse, (request if isinstance(request, str) else json.dumps(request)).encode())
        read += error is None
        if error is not None:
            refused = error.code.startswith("unsupported_")
            assert refused or recording["status"] == 400, (recording["source"], error.message)
    assert read > 50


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "id", "text", "name", "call_id"]), inner, max_size=4
        )
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
_FIELDS = st.sampled_from(
    ["input", "tools", "tool_choice", "text", "metadata", "reasoning", "conversation", "include", "messages", "x"]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_FIELDS, _VALUES, max_size=4), st.sampled_from([parse_create, parse_chat, parse_count]))
def test_any_json_is_read_or_refused_with_a_client_error(fields: dict[str, Any], parse: Any) -> None:
    _is_read_or_refused(parse, json.dumps({"model": "m", **fields}).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_with_a_client_error(body: bytes) -> None:
    for parse in (parse_create, parse_chat, parse_add_items):
        _is_read_or_refused(parse, body)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_good_body_with_a_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(_body(input=[{"role": "user", "content": [{"type": "input_text", "text": "é"}]}], stream=True))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    _is_read_or_refused(parse_create, bytes(body))


def _refusal(parse: Any, body: bytes) -> StatelineError | None:
    try:
        parse(body)
    except StatelineError as error:
        return error
    return None


def _is_read_or_refused(parse: Any, body: bytes) -> None:
    error = _refusal(parse, body)
    if error is not None:
        assert 400 <= error.status < 500
        assert error.code != "internal_error"
        error.message.encode()
