"""Bedrock's Converse, the cases that no recording has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import UNSET

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
    SidecarDelta,
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
    Sidecar,
    UrlCitation,
)
from stateline.core.origin import family, origin
from stateline.models.formats import FORMATS
from stateline.models.formats.bedrock_converse import StreamDecoder, decode_error, decode_response, encode_request
from stateline.testing.converse import event, exception, message

Json = dict[str, Any]
CLAUDE = "us.anthropic.claude-opus-4-8"
OLD_CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


def streamed(*events: bytes) -> list[ModelDelta]:
    decoder = StreamDecoder()
    return [delta for each in events for delta in decoder.feed(each)]


def delta(at: int, **said: Any) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": at, "delta": said})


def stop(at: int) -> bytes:
    return event("contentBlockStop", {"contentBlockIndex": at})


def ended(reason: str = "end_turn", **fields: Any) -> bytes:
    return event("messageStop", {"stopReason": reason}) + event("metadata", fields)


def whole(*content: Json, reason: str = "end_turn") -> list[ModelDelta]:
    return decode_response(json.dumps({"output": {"message": {"content": content}}, "stopReason": reason}).encode())


# -- answers ------------------------------------------------------------------------------------------


def test_texts_behind_one_another_are_parts_and_each_thought_is_an_item_with_its_signature() -> None:
    out = streamed(
        delta(0, reasoningContent={"text": "a"}), delta(0, reasoningContent={"signature": "s1"}), stop(0),
        delta(1, reasoningContent={"signature": "s2"}), stop(1),
        delta(2, text="x"), stop(2), delta(3, text="y"), stop(3), ended(),
    )  # fmt: skip
    assert out == [
        ItemStart("reasoning"), ReasoningDelta("a"), SidecarDelta({"encrypted_content": "signature:s1"}),
        ItemStart("reasoning"), SidecarDelta({"encrypted_content": "signature:s2"}),
        TextDelta("x"), PartStart(), TextDelta("y"), Finish(reason="stop"),
    ]  # fmt: skip
    thought: Json = {"reasoningContent": {"reasoningText": {"text": "a", "signature": "s1"}}}
    empty: Json = {"reasoningContent": {"reasoningText": {"text": "", "signature": "s2"}}}
    assert whole(thought, empty, {"text": "x"}, {"text": "y"}) == out


def test_pieces_of_redacted_reasoning_are_one() -> None:
    pieces = [delta(0, reasoningContent={"redactedContent": each}) for each in ("YWI=", "Yw==")]
    assert streamed(*pieces, stop(0))[1:] == [SidecarDelta({"encrypted_content": "redacted:YWJj"})]
    with pytest.raises(ModelError) as caught:
        streamed(*pieces, delta(0, reasoningContent={"redactedContent": "?"}), stop(0))
    assert caught.value.code == "malformed_stream"


def test_calls_side_by_side_are_told_apart_and_one_without_arguments_has_an_empty_object() -> None:
    def start(at: int, name: str, **more: Any) -> bytes:
        use = {"toolUseId": f"t{at}", "name": name, **more}
        return event("contentBlockStart", {"contentBlockIndex": at, "start": {"toolUse": use}})

    out = streamed(
        start(0, "a"), stop(0), start(1, "run", type="server_tool_use"), delta(1, toolUse={"input": "{}"}), stop(1),
        event("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolResult": {"toolUseId": "t1"}}}),
        delta(2, toolResult=[{"text": "x"}]), stop(2),
        start(3, "b"), delta(3, toolUse={"input": '{"x":'}), delta(3, toolUse={"input": "1.0}"}), stop(3),
        ended("end_turn"),
    )  # fmt: skip
    assert out == [
        CallStart(0, "t0", "a"), CallDelta(0, "{}"),
        CallStart(1, "t3", "b"), CallDelta(1, '{"x":'), CallDelta(1, "1.0}"), Finish(reason="tool_calls"),
    ]  # fmt: skip
    # Only the provider's own tools ran: nobody waits for an answer.
    ran = whole({"toolUse": {"toolUseId": "t", "name": "r", "input": {}, "type": "server_tool_use"}}, reason="tool_use")
    assert ran == [Finish(reason="stop")]
    use = b'{"toolUse":{"toolUseId":"t","name":"n","input":{"x":7006652.0}}}'
    raw = b'{"output":{"message":{"content":[%b]}},"stopReason":"tool_use"}' % use
    assert decode_response(raw)[1] == CallDelta(0, '{"x":7006652.0}')


def test_a_cited_web_page_is_an_annotation_and_other_citations_are_skipped() -> None:
    web = {"title": "T", "location": {"web": {"url": "https://a"}}}
    page = {"title": "D", "location": {"documentPage": {"documentIndex": 0, "start": 1, "end": 2}}}
    note = AnnotationDelta(UrlCitation(url="https://a", start_index=0, end_index=4, title="T"))
    said = streamed(delta(0, text="said"), delta(0, citation=web), delta(0, citation=page), stop(0), ended())
    assert said == [TextDelta("said"), note, Finish(reason="stop")]
    assert whole({"citationsContent": {"content": [{"text": "said"}], "citations": [web, page]}}) == said


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("tool_use", "stop"), ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"), ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
    ],
)  # fmt: skip
def test_every_stop_reason_has_its_neutral_one(said: str, reason: Any) -> None:
    assert streamed(delta(0, text="x"), stop(0), ended(said))[-1] == Finish(reason=reason)
    assert whole({"text": "x"}, reason=said)[-1] == Finish(reason=reason)


@pytest.mark.parametrize("said", ["malformed_model_output", "malformed_tool_use", "new_thing"])
def test_an_answer_that_the_provider_calls_broken_is_no_answer(said: str) -> None:
    for read in (lambda: streamed(ended(said)), lambda: whole({"text": "x"}, reason=said)):
        with pytest.raises(ModelError) as caught:
            read()
        assert caught.value.retryable
        assert said in caught.value.message


def test_what_was_read_from_and_written_to_the_cache_is_part_of_the_input() -> None:
    usage = {"inputTokens": 5, "outputTokens": 7, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 20}
    trace = {"promptRouter": {"invokedModelId": "arn:x"}}
    (finish,) = streamed(ended(usage=usage, serviceTier={"type": "flex"}, trace=trace))
    counts = Usage(input_tokens=125, output_tokens=7, cached_tokens=100, cache_write_tokens=20)
    assert finish == Finish(reason="stop", usage=counts, upstream_model="arn:x", service_tier="flex")
    assert counts + counts == Usage(input_tokens=250, output_tokens=14, cached_tokens=200, cache_write_tokens=40)


def test_a_stream_without_its_last_event_still_ends_well_once_its_message_has() -> None:
    decoder = StreamDecoder()
    decoder.feed(delta(0, text="x") + event("messageStop", {"stopReason": "end_turn"}))
    assert not decoder.done
    assert decoder.eof() == [Finish(reason="stop")]
    assert decoder.eof() == []
    assert decoder.feed(delta(0, text="late")) == []


@pytest.mark.parametrize(
    "events",
    [
        delta(0, toolUse={"input": "{}"}),
        event("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": {"name": "n"}}}),
        delta(0, text="x") + delta(0, reasoningContent={"text": "y"}),
        delta(0, reasoningContent={"text": "y"}) + delta(0, text="x"),
        event("metadata", {}),
        event("messageStop", {}),
        message({":message-type": "event", ":event-type": "contentBlockDelta"}, b"{"),
        event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": {"input": {}}}}),
    ],
    ids=["no start", "no id", "text and thought", "thought and text", "no end", "no reason", "cut", "object"],
)  # fmt: skip
def test_a_stream_that_breaks_the_format_is_malformed(events: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        streamed(events)
    assert (caught.value.code, caught.value.retryable) == ("malformed_stream", True)


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"output": {"message": {"content": []}}}', b"\xff"])
def test_an_answer_that_breaks_the_format_is_malformed(body: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        decode_response(body)
    assert caught.value.code == "malformed_response"


def test_a_block_that_cannot_be_passed_on_is_said_and_an_unknown_event_is_skipped() -> None:
    with pytest.raises(ModelError) as caught:
        streamed(event("contentBlockStart", {"contentBlockIndex": 0, "start": {"image": {"format": "png"}}}))
    assert (caught.value.code, caught.value.retryable) == ("unsupported_output", False)
    with pytest.raises(ModelError):
        whole({"audio": {"format": "mp3"}})
    assert streamed(event("somethingNew", {"a": 1}), delta(0, text="", other=1), ended()) == [Finish(reason="stop")]


# -- errors -------------------------------------------------------------------------------------------

ERRORS = [
    (429, "ThrottlingException", "Too many requests", "rate_limited", True),
    (400, "ServiceQuotaExceededException", "quota", "insufficient_quota", False),
    (403, "AccessDeniedException", "User: arn:x is not authorized", "upstream_permission_denied", False),
    (403, "AccessDeniedException", "Authentication failed: is your API Key valid?", "upstream_auth_failed", False),
    (403, "UnrecognizedClientException", "The security token is invalid", "upstream_auth_failed", False),
    (403, "ExpiredTokenException", "The security token is expired", "upstream_auth_failed", False),
    (404, "ResourceNotFoundException", "no such model", "upstream_model_not_found", False),
    (408, "ModelTimeoutException", "too slow", "upstream_timeout", True),
    (424, "ModelErrorException", "failed", "upstream_error", True),
    (429, "ModelNotReadyException", "warming up", "upstream_overloaded", True),
    (500, "InternalServerException", "sorry", "upstream_error", True),
    (503, "ServiceUnavailableException", "busy", "upstream_overloaded", True),
    (400, "ValidationException", "Input is too long for requested model.", "context_length_exceeded", False),
    (400, "ValidationException", "The model returned: prompt is too long: 9 > 8", "context_length_exceeded", False),
    (400, "ValidationException", "The output was blocked by our content filters", "content_filter", False),
    (400, "ValidationException", "The provided model identifier is invalid.", "upstream_model_not_found", False),
    (400, "ValidationException", "temperature must be at most 1", "upstream_rejected", False),
    (418, "SomethingNew", "hm", "upstream_rejected", False),
]  # fmt: skip


@pytest.mark.parametrize(("status", "name", "words", "code", "retryable"), ERRORS)
def test_every_kind_of_refusal_has_one_code_and_keeps_its_words(
    status: int, name: str, words: str, code: str, retryable: bool
) -> None:
    body = json.dumps({"message": words}).encode()
    headers = {"x-amzn-errortype": f"{name}:http://internal/", "x-amzn-requestid": "r-1", "retry-after": "3"}
    in_body = json.dumps({"__type": f"com.amazon.coral#{name}", "Message": words}).encode()
    for error in (decode_error(status, headers, body), decode_error(status, {}, in_body)):
        assert (error.code, error.retryable, error.provider_message) == (code, retryable, words)
        assert error.provider_status == status
    error = decode_error(status, headers, body)
    assert "r-1" in error.message
    assert error.retry_after_s == (3.0 if retryable else None)


def test_an_exception_in_a_stream_is_translated_like_an_answer() -> None:
    for name, code, retryable in (
        ("throttlingException", "rate_limited", True),
        ("serviceUnavailableException", "upstream_overloaded", True),
        ("modelStreamErrorException", "upstream_error", True),
        ("internalServerException", "upstream_error", True),
        ("validationException", "upstream_rejected", False),
    ):
        with pytest.raises(ModelError) as caught:
            streamed(delta(0, text="x"), exception(name, "words"))
        error = caught.value
        assert (error.code, error.retryable, error.provider_message) == (code, retryable, "words")
    body = json.dumps({"message": "m", "originalMessage": "o", "originalStatusCode": 502}).encode()
    with pytest.raises(ModelError) as caught:
        streamed(message({":message-type": "exception", ":exception-type": "modelStreamErrorException"}, body))
    assert (caught.value.provider_status, caught.value.provider_message) == (502, "m o")
    with pytest.raises(ModelError) as caught:
        streamed(message({":message-type": "error", ":error-code": "Broken", ":error-message": "words"}, b""))
    assert caught.value.provider_message == "words"


def test_an_error_that_is_no_json_keeps_its_text() -> None:
    error = decode_error(502, {}, b"<html>bad gateway</html>")
    assert (error.code, error.provider_message) == ("upstream_error", "<html>bad gateway</html>")
    assert decode_error(429, {"x-amzn-errortype": "ThrottlingException"}, b"").provider_message == "ThrottlingException"


# -- requests -----------------------------------------------------------------------------------------

HELLO = Message(id="u", role="user", content=(InputText(text="hello"),))
TOOLS = (FunctionTool(name="a", description="A"), FunctionTool(name="b", parameters={"type": "object"}, strict=True))
CALL = FunctionCall(id="f", call_id="c", name="a", arguments='{"x": 1.0}')
OUTPUT = FunctionCallOutput(id="o", call_id="c", output="done")


def encoded(*items: ModelItem, model: str = CLAUDE, sidecars: dict[str, Sidecar] | None = None, **params: Any) -> Json:
    request = ModelRequest(
        params=ModelParams(model="m", **params), items=items or (HELLO,), key="k", sidecars=sidecars or {}
    )
    return json.loads(encode_request(request, model, origin("bedrock-converse", "aws", model)))


def test_the_model_is_in_the_path_and_the_rest_in_its_place() -> None:
    assert FORMATS["bedrock-converse"].path == "/model/{model}/converse"
    told = Message(id="s", role="developer", content=(InputText(text="late"),))
    body = encoded(
        HELLO, told, instructions="be brief", max_output_tokens=9, temperature=0.5, top_p=0.9, stop=("END",),
        service_tier="flex", user="u-1", safety_identifier="s 1",
    )  # fmt: skip
    assert body == {
        "messages": [{"role": "user", "content": [{"text": "hello"}]}],
        "system": [{"text": "be brief"}, {"text": "late"}],
        "inferenceConfig": {"maxTokens": 9, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "serviceTier": {"type": "flex"},
        "requestMetadata": {"user": "u-1", "safety_identifier": "s 1"},
    }


def test_what_stands_between_calls_and_their_answers_comes_behind_them() -> None:
    other = FunctionCall(id="g", call_id="d", name="b", arguments="{}")
    answer = FunctionCallOutput(id="p", call_id="d", output="")
    said = Message(id="a", role="assistant", content=(OutputText(text="calling"),))
    wait = Message(id="w", role="user", content=(InputText(text="wait"),))
    body = encoded(HELLO, said, CALL, other, OUTPUT, wait, answer, tools=TOOLS)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    _, made, answered = (message["content"] for message in body["messages"])
    assert made == [
        {"text": "calling"},
        {"toolUse": {"toolUseId": "c", "name": "a", "input": {"x": 1.0}}},
        {"toolUse": {"toolUseId": "d", "name": "b", "input": {}}},
    ]
    assert answered == [
        {"toolResult": {"toolUseId": "c", "content": [{"text": "done"}]}},
        {"toolResult": {"toolUseId": "d", "content": []}},
        {"text": "wait"},
    ]
    # A call that was never answered holds nothing back for ever.
    body = encoded(HELLO, CALL, wait, other, answer, tools=TOOLS)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize("model", [CLAUDE, "us.amazon.nova-pro-v1:0", "openai.gpt-oss-120b-1:0"])
def test_an_output_that_failed_says_so_to_the_makers_whose_models_read_it(model: str) -> None:
    failed = FunctionCallOutput(id="o", call_id="c", output="no such word", status="incomplete")
    (result,) = encoded(HELLO, CALL, failed, model=model)["messages"][2]["content"]
    expected: Json = {"toolUseId": "c", "content": [{"text": "no such word"}]}
    told = {} if "gpt-oss" in model else {"status": "error"}
    assert result == {"toolResult": expected | told}


def test_numbers_in_arguments_are_sent_as_they_were_written() -> None:
    call = FunctionCall(id="f", call_id="c", name="a", arguments='{"x":7006652.0,"y":1e400}')
    request = ModelRequest(params=ModelParams(model="m", tools=TOOLS), items=(HELLO, call, OUTPUT), key="k")
    assert b'"input":{"x":7006652.0,"y":1e400}' in encode_request(request, CLAUDE, "x")


def test_tools_are_named_to_the_provider_where_the_history_has_calls() -> None:
    body = encoded(HELLO, CALL, OUTPUT)
    (tool,) = body["toolConfig"]["tools"]
    assert tool["toolSpec"]["name"] == "a"
    assert "toolConfig" not in encoded(HELLO)
    assert "toolConfig" not in encoded(HELLO, tools=TOOLS, tool_choice="none")


@pytest.mark.parametrize(
    ("params", "choice", "names"),
    [
        ({}, None, ["a", "b"]),
        ({"tool_choice": "required"}, {"any": {}}, ["a", "b"]),
        ({"tool_choice": FunctionChoice(name="b")}, {"tool": {"name": "b"}}, ["a", "b"]),
        ({"tool_choice": AllowedTools(tools=(FunctionChoice(name="b"),), mode="required")}, {"any": {}}, ["b"]),
    ],
)
def test_every_tool_choice_has_its_form(params: Json, choice: Json | None, names: list[str]) -> None:
    config = encoded(tools=TOOLS, **params)["toolConfig"]
    assert config.get("toolChoice") == choice
    assert [tool["toolSpec"]["name"] for tool in config["tools"]] == names
    assert config["tools"][-1]["toolSpec"] == {"name": "b", "inputSchema": {"json": {"type": "object"}}, "strict": True}


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        (FunctionChoice(name="b"), {"type": "tool", "name": "b"}),
    ],
)
def test_one_call_at_a_time_is_asked_of_claude_in_its_own_words(choice: Any, kind: Json) -> None:
    body = encoded(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert "toolChoice" not in body["toolConfig"]
    assert body["additionalModelRequestFields"] == {"tool_choice": {**kind, "disable_parallel_tool_use": True}}


@pytest.mark.parametrize(
    ("model", "effort", "fields"),
    [
        (CLAUDE, "minimal", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ("anthropic.claude-opus-5", "xhigh", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}),
        (OLD_CLAUDE, "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        ("anthropic.claude-sonnet-4-20250514-v1:0", "high", {"thinking": {"type": "enabled", "budget_tokens": 16384}}),
        (CLAUDE, "none", None),
        ("us.amazon.nova-2-lite-v1:0", "xhigh", {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}),
        ("us.amazon.nova-2-lite-v1:0", "none", {"reasoningConfig": {"type": "disabled"}}),
        ("openai.gpt-oss-120b-1:0", "minimal", {"reasoning_effort": "low"}),
        ("openai.gpt-5.6-sol", "none", {"reasoning": {"effort": "none"}}),
        ("moonshot.kimi-k2-thinking", "high", {"reasoning_effort": "high"}),
    ],
)  # fmt: skip
def test_every_family_is_asked_to_reason_in_its_own_words(model: str, effort: Any, fields: Json | None) -> None:
    assert encoded(model=model, reasoning=ReasoningConfig(effort=effort)).get("additionalModelRequestFields") == fields


def test_an_alias_does_not_say_what_the_model_behind_it_is() -> None:
    request = ModelRequest(
        params=ModelParams(model="claude-sonnet-4", reasoning=ReasoningConfig(effort="low")), items=(HELLO,), key="k"
    )
    for upstream, kind in ((CLAUDE, "adaptive"), ("arn:aws:bedrock:us-east-1:1:inference-profile/x", "enabled")):
        body = json.loads(encode_request(request, upstream, "x"))
        assert body["additionalModelRequestFields"]["thinking"]["type"] == kind


def test_a_budget_of_thinking_stays_inside_the_limit_of_output() -> None:
    def budget(limit: int) -> int:
        body = encoded(model=OLD_CLAUDE, reasoning=ReasoningConfig(effort="high"), max_output_tokens=limit)
        return body["additionalModelRequestFields"]["thinking"]["budget_tokens"]

    assert [budget(limit) for limit in (1025, 4096, 100_000)] == [1024, 2048, 16384]


def test_a_summary_of_thoughts_is_asked_of_claude_alone() -> None:
    asked = ReasoningConfig(summary="auto")
    shown = {"thinking": {"type": "adaptive", "display": "summarized"}}
    assert encoded(reasoning=asked)["additionalModelRequestFields"] == shown
    thinking = encoded(model=OLD_CLAUDE, reasoning=asked)["additionalModelRequestFields"]["thinking"]
    assert thinking == {"type": "enabled", "budget_tokens": 8192}


def _thought(secret: str | None, text: str = "hm") -> Reasoning:
    content = (ReasoningText(text=text),) if text else ()
    return Reasoning(id="r", content=content, encrypted_content=UNSET if secret is None else secret)


def _replayed(item: Reasoning, sidecar: Sidecar | None, model: str = CLAUDE) -> list[Json]:
    said = Message(id="a", role="assistant", content=(OutputText(text="so"),))
    body = encoded(HELLO, item, said, HELLO, model=model, sidecars={} if sidecar is None else {"r": sidecar})
    return [block["reasoningContent"] for block in body["messages"][1]["content"] if "reasoningContent" in block]


def test_reasoning_goes_back_to_its_own_family_alone() -> None:
    signed = {"encrypted_content": "signature:s"}
    own = Sidecar(origin=origin("bedrock-converse", "aws", CLAUDE), data=signed)
    block = {"reasoningText": {"text": "hm", "signature": "s"}}
    assert _replayed(_thought("signature:s"), own) == [block]
    assert _replayed(_thought("signature:s"), own, OLD_CLAUDE) == [block]
    assert _replayed(_thought("signature:s", ""), own) == [{"reasoningText": {"text": "", "signature": "s"}}]
    assert _replayed(_thought("signature:s"), own, "us.amazon.nova-2-lite-v1:0") == []
    assert _replayed(_thought("signature:s"), Sidecar(origin="anthropic-messages/aws", data=signed)) == []
    redacted = Sidecar(origin=own.origin, data={"encrypted_content": "redacted:cmVk"})
    assert _replayed(_thought("redacted:cmVk", ""), redacted) == [{"redactedContent": "cmVk"}]
    # What the client brings itself it vouches for; what is no secret of this format's is left out.
    assert _replayed(_thought("signature:s"), None) == [block]
    assert _replayed(_thought("signature:s"), None, "us.amazon.nova-2-lite-v1:0") == []
    assert _replayed(_thought("gAAAAopenai"), None) == []
    assert _replayed(_thought(None), None) == []


def test_a_chain_of_calls_that_began_without_thinking_goes_on_without() -> None:
    asked = ReasoningConfig(effort="low")
    after = encoded(HELLO, CALL, OUTPUT, model=OLD_CLAUDE, reasoning=asked, tools=TOOLS)
    assert "additionalModelRequestFields" not in after
    thought = _thought("signature:s")
    after = encoded(HELLO, thought, CALL, OUTPUT, model=OLD_CLAUDE, reasoning=asked, tools=TOOLS)
    assert "thinking" in after["additionalModelRequestFields"]
    # Models that decide by themselves may begin at any time.
    assert "thinking" in encoded(HELLO, CALL, OUTPUT, reasoning=asked, tools=TOOLS)["additionalModelRequestFields"]


def test_a_cache_key_marks_what_may_be_cached_where_a_mark_is_needed() -> None:
    mark = {"cachePoint": {"type": "default"}}
    body = encoded(instructions="be brief", prompt_cache_key="k")
    assert body["system"][-1] == body["messages"][-1]["content"][-1] == mark
    assert mark not in encoded(instructions="x", prompt_cache_key="k", model="meta.llama3")["system"]


def test_media_and_documents_have_their_forms_and_names() -> None:
    parts = (
        InputImage(image_url="data:image/jpeg;base64,aW1n", detail="high"),
        InputImage(image_url="s3://bucket/a/kiwi.jpg"),
        InputVideo(video_url="data:video/mp4;base64,dmlk"),
        InputFile(filename="re/port  v2!.pdf", file_data="cGRm"),
        InputFile(filename="re/port  v2!.pdf", file_data="data:application/octet-stream;base64,cGRm"),
        InputFile(file_data="data:text/markdown;charset=utf-8;base64,bWQ="),
    )
    (message,) = encoded(Message(id="u", role="user", content=parts))["messages"]
    assert message["content"] == [
        {"image": {"format": "jpeg", "source": {"bytes": "aW1n"}}},
        {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/a/kiwi.jpg"}}}},
        {"video": {"format": "mp4", "source": {"bytes": "dmlk"}}},
        {"document": {"name": "re port v2", "format": "pdf", "source": {"bytes": "cGRm"}}},
        {"document": {"name": "re port v2 (2)", "format": "pdf", "source": {"bytes": "cGRm"}}},
        {"document": {"name": "Document", "format": "md", "source": {"bytes": "bWQ="}}},
        {"text": "See the attached document."},
    ]


def _user(part: Any) -> Message:
    return Message(id="u", role="user", content=(part,))


DEMANDED = AllowedTools(tools=(FunctionChoice(name="b"),), mode="required")
REFUSED: list[tuple[str, Json]] = [
    ("presence_penalty", {"presence_penalty": 0.5}),
    ("frequency_penalty", {"frequency_penalty": 0.5}),
    ("seed", {"seed": 1}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("top_logprobs", {"logprobs": True}),
    ("temperature", {"temperature": 1.5}),
    ("service_tier", {"service_tier": "scale"}),
    ("user", {"user": "café"}),
    ("safety_identifier", {"safety_identifier": "x" * 257}),
    ("text.format", {"text": TextConfig(format=JsonObject())}),
    ("text.verbosity", {"text": TextConfig(verbosity="low")}),
    ("reasoning.effort", {"reasoning": ReasoningConfig(effort="low"), "model": "meta.llama3"}),
    ("reasoning.effort", {"reasoning": ReasoningConfig(effort="none"), "model": "openai.gpt-oss-20b-1:0"}),
    ("reasoning.summary", {"reasoning": ReasoningConfig(summary="auto"), "model": "openai.gpt-5.6-sol"}),
    ("max_output_tokens", {"reasoning": ReasoningConfig(effort="low"), "model": OLD_CLAUDE, "max_output_tokens": 1024}),
    ("tool_choice", {"reasoning": ReasoningConfig(effort="low"), "tools": TOOLS, "tool_choice": "required"}),
    ("tool_choice", {"reasoning": ReasoningConfig(effort="low"), "tools": TOOLS, "tool_choice": DEMANDED}),
    ("tool_choice", {"items": (HELLO, CALL, OUTPUT), "tools": TOOLS, "tool_choice": "none"}),
    ("parallel_tool_calls", {"tools": TOOLS, "parallel_tool_calls": False, "model": "us.amazon.nova-pro-v1:0"}),
    ("input", {"items": (Compaction(id="c", encrypted_content="x"),)}),
    ("input", {"items": (_user(InputImage(image_url="https://a/b.png")),)}),
    ("input", {"items": (_user(InputImage(image_url=None)),)}),
    ("input", {"items": (_user(InputImage(image_url="data:image/tiff;base64,eA==")),)}),
    ("input", {"items": (_user(InputFile(file_url="https://a/b.pdf")),)}),
    ("input", {"items": (_user(InputFile(filename="x.bin", file_data="eA==")),)}),
    ("input", {"items": (Message(id="a", role="assistant", content=(InputImage(image_url="s3://b/x.png"),)),)}),
]


@pytest.mark.parametrize(("param", "asked"), REFUSED)
def test_what_the_format_cannot_carry_is_refused_by_name(param: str, asked: Json) -> None:
    with pytest.raises(BadRequest) as caught:
        encoded(*asked.get("items", ()), **{name: value for name, value in asked.items() if name != "items"})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)
    assert "Bedrock Converse" in caught.value.message


def test_a_schema_for_the_answer_is_sent_as_text() -> None:
    form = JsonSchema(name="city", description="A city", schema={"type": "object"}, strict=True)
    schema = encoded(text=TextConfig(format=form))["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert schema == {"name": "city", "description": "A city", "schema": '{"type":"object"}'}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("us.anthropic.claude-opus-4-8", "m"), "claude"),
        (("arn:aws:bedrock:us-east-1:1:application-inference-profile/x", "claude-sonnet"), "claude"),
        (("openai.gpt-oss-20b-1:0",), "gpt-oss"),
        (("openai.gpt-5.6-sol",), "gpt"),
        (("gpt-5",), "gpt"),
        (("us.amazon.nova-pro-v1:0",), "nova"),
        (("moonshot.kimi-k2-thinking",), "kimi"),
        (("openai.gpt-oss-20b-1:0", "claude-replacement"), "gpt-oss"),
        (("meta.llama3",), "other"),
    ],
)
def test_a_family_is_found_by_any_of_a_models_names(names: tuple[str, ...], found: str) -> None:
    assert family(*names) == found
    assert origin("bedrock-converse", "aws", *names) == f"bedrock-converse/aws/{found}"
    assert origin("openai-chat", "aws", *names) == "openai-chat/aws"
