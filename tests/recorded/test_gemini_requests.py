"""Requests against Google's own types, which refuse unknown fields, and answers that go back as they came."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from typing import Any

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from stateline.core.calls import (
    AllowedTools,
    FunctionChoice,
    FunctionTool,
    JsonObject,
    JsonSchema,
    ModelParams,
    ModelRequest,
    ReasoningConfig,
    TextConfig,
)
from stateline.core.errors import BadRequest
from stateline.core.items import (
    FunctionCall,
    FunctionCallOutput,
    InputContent,
    InputFile,
    InputImage,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    Sidecar,
    SummaryText,
)
from stateline.core.stream import StreamBuilder
from stateline.models.formats import FORMATS

Json = dict[str, Any]

WIRE = FORMATS["gemini"]
ORIGIN = "gemini/google"
SIGNATURE = base64.b64encode(b"signed").decode()
PNG = "data:image/png;base64," + base64.b64encode(b"png").decode()
UNSIGNED = "skip_thought_signature_validator"


def check(body: bytes) -> Json:
    """The request, once Google's types have taken every field of it."""
    sent: Json = json.loads(body)
    assert sent.keys() <= {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier"}
    types.GenerateContentConfig.model_validate({"serviceTier": sent.get("serviceTier")})
    for content in sent["contents"]:
        types.Content.model_validate(content)
        assert content["parts"]
    if "systemInstruction" in sent:
        types.Content.model_validate(sent["systemInstruction"])
    for tool in sent.get("tools", []):
        types.Tool.model_validate(tool)
    types.ToolConfig.model_validate(sent.get("toolConfig", {}))
    types.GenerationConfig.model_validate(sent.get("generationConfig", {}))
    return sent


def encode(
    *items: ModelItem, model: str = "gemini-3-pro", sidecars: dict[str, Sidecar] | None = None, **fields: Any
) -> Json:
    params = ModelParams(model="m", **fields)
    request = ModelRequest(params=params, items=items, key="k", sidecars=sidecars or {})
    return check(WIRE.encode_request(request, model, ORIGIN))


def user(text: str) -> Message:
    return Message(id="u", role="user", content=(InputText(text=text),))


TOOLS = (
    FunctionTool(name="look", description="Looks", parameters={"type": "object", "properties": {"a": {}}}),
    FunctionTool(name="go"),
)


def test_a_type_that_the_oracle_does_not_know_is_refused_by_it() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        check(b'{"contents": [{"role": "user", "parts": [{"words": "x"}]}]}')


def test_an_answer_goes_back_to_its_origin_as_it_came() -> None:
    parts: list[Json] = [
        {"text": "I will look."},
        {"functionCall": {"id": "a1", "name": "look", "args": {"a": 1}}, "thoughtSignature": SIGNATURE},
        {"functionCall": {"name": "look", "args": {"a": 2}}},
    ]
    answer = {"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": "STOP"}]}
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(WIRE.decode_response(json.dumps(answer).encode()))
    builder.take()
    items, _, _ = builder.end("incomplete")
    sidecars = {name: Sidecar(origin=ORIGIN, data=data) for name, data in builder.sidecars.items()}
    calls = [item for item in items if isinstance(item, FunctionCall)]
    outputs = [FunctionCallOutput(id=f"o{at}", call_id=call.call_id, output="ok") for at, call in enumerate(calls)]
    sent = encode(user("hi"), *items, *outputs, sidecars=sidecars)
    assert sent["contents"][1] == {"role": "model", "parts": parts}
    results = [part["functionResponse"] for part in sent["contents"][2]["parts"]]
    assert results == [
        {"id": "a1", "name": "look", "response": {"output": "ok"}},
        {"name": "look", "response": {"output": "ok"}},
    ]


@pytest.mark.parametrize("cuts", [["Hello ", "world", ""], ["Hello", " world"]])
def test_the_signature_of_a_text_goes_back_with_the_piece_that_it_signed(cuts: list[str]) -> None:
    parts: list[Json] = [{"text": text} for text in cuts]
    parts[-1]["thoughtSignature"] = SIGNATURE
    answer = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(WIRE.decode_response(json.dumps(answer).encode()))
    builder.take()
    (item,), _, _ = builder.end("incomplete")
    sidecars = {item.id: Sidecar(origin=ORIGIN, data=builder.sidecars[item.id])}
    before = {"text": "".join(cuts[:-1])}
    assert encode(item, sidecars=sidecars)["contents"][0]["parts"] == [before, parts[-1]]
    elsewhere = {item.id: Sidecar(origin="gemini/other", data=builder.sidecars[item.id])}
    assert encode(item, sidecars=elsewhere)["contents"][0]["parts"] == [{"text": "Hello world"}]


@pytest.mark.parametrize(("model", "word"), [("gemini-3-pro", UNSIGNED), ("gemini-2.5-flash", None)])
def test_the_first_of_another_models_calls_is_sent_as_unsigned(model: str, word: str | None) -> None:
    calls = [FunctionCall(id=f"fc{at}", call_id=f"c{at}", name="look", arguments="{}") for at in range(2)]
    outputs = [FunctionCallOutput(id=f"o{at}", call_id=f"c{at}", output='{"t": 1}') for at in range(2)]
    sent = encode(*calls, user("and?"), *outputs, model=model)
    assert [part.get("thoughtSignature") for part in sent["contents"][0]["parts"]] == [word, None]
    # The answers come right behind their calls, whatever stood between them.
    last = sent["contents"][1]["parts"]
    assert [part.get("functionResponse", {}).get("response") for part in last] == [{"t": 1}, {"t": 1}, None]


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        ("auto", "AUTO", None),
        ("none", "NONE", None),
        ("required", "ANY", None),
        (FunctionChoice(name="go"), "ANY", ["go"]),
        (AllowedTools(tools=(FunctionChoice(name="go"),)), "VALIDATED", ["go"]),
        (AllowedTools(tools=(FunctionChoice(name="go"),), mode="required"), "ANY", ["go"]),
    ],
)
def test_which_tools_may_be_called_is_said_by_mode_and_names(choice: Any, mode: str, names: list[str] | None) -> None:
    config = encode(user("x"), tools=TOOLS, tool_choice=choice)["toolConfig"]["functionCallingConfig"]
    assert (config["mode"], config.get("allowedFunctionNames")) == (mode, names)


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-3-pro", "minimal", {"thinkingLevel": "low"}),
        ("gemini-3-flash", "minimal", {"thinkingLevel": "minimal"}),
        ("gemini-3.1-pro", "xhigh", {"thinkingLevel": "high"}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "medium", {"thinkingBudget": 8192}),
        ("gemini-2.5-pro", "none", None),
        ("gemini-3-flash", "none", None),
        ("gemini-2.0-flash", "low", None),
    ],
)
def test_how_much_to_think_is_said_as_the_model_takes_it_or_refused(
    model: str, effort: Any, config: Json | None
) -> None:
    asked = ReasoningConfig(effort=effort)
    if config is not None:
        assert encode(user("x"), model=model, reasoning=asked)["generationConfig"]["thinkingConfig"] == config
        return
    with pytest.raises(BadRequest) as caught:
        encode(user("x"), model=model, reasoning=asked)
    assert caught.value.param == "reasoning.effort"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True}, "top_logprobs"),
        ({"temperature": 2.5}, "temperature"),
        ({"stop": tuple("abcdef")}, "stop"),
        ({"tools": TOOLS, "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"user": "u"}, "user"),
        ({"safety_identifier": "u"}, "safety_identifier"),
        ({"text": TextConfig(verbosity="low")}, "text.verbosity"),
    ],
)
def test_what_the_format_cannot_carry_is_refused_by_name(fields: Json, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        encode(user("x"), **fields)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    "content",
    [InputImage(image_url="http://x/a.png"), InputImage(image_url=None), InputFile(file_data="AAAA")],
)
def test_a_file_that_cannot_be_sent_is_refused(content: InputContent) -> None:
    with pytest.raises(BadRequest):
        encode(Message(id="u", role="user", content=(content,)))


def test_files_are_sent_inline_or_by_their_address() -> None:
    content = (
        InputImage(image_url=PNG),
        InputFile(filename="a.pdf", file_data="cGRm"),
        InputImage(image_url="gs://b/a.webp"),
        InputFile(file_url="https://www.youtube.com/watch?v=1"),
    )
    assert encode(Message(id="u", role="user", content=content))["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "cG5n"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "cGRm"}},
        {"fileData": {"mimeType": "image/webp", "fileUri": "gs://b/a.webp"}},
        {"fileData": {"fileUri": "https://www.youtube.com/watch?v=1"}},
    ]


# -- any history ---------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
PARTS: st.SearchStrategy[InputContent] = st.one_of(
    st.builds(InputText, text=TEXT),
    st.just(InputImage(image_url=PNG)),
    st.just(InputFile(file_data="data:text/plain;base64,dHh0")),
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[ModelItem], dict[str, Sidecar]]:
    items: list[ModelItem] = []
    sidecars: dict[str, Sidecar] = {}
    for at in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["user", "system", "said", "thought", "calls"]))
        name = f"i{at}"
        data: Json = {"thought_signature": SIGNATURE}
        match kind:
            case "user":
                items.append(Message(id=name, role="user", content=tuple(draw(st.lists(PARTS, max_size=3)))))
            case "system":
                items.append(Message(id=name, role="system", content=(InputText(text=draw(TEXT)),)))
            case "said":
                said = draw(TEXT)
                items.append(Message(id=name, role="assistant", content=(OutputText(text=said),)))
                begin = draw(st.integers(0, len(said)))
                data |= {"signed_from": begin, "signed_to": draw(st.integers(begin, len(said)))}
            case "thought":
                items.append(Reasoning(id=name, summary=(SummaryText(text=draw(TEXT)),)))
            case _:
                ids = [f"{name}-{n}" for n in range(draw(st.integers(1, 3)))]
                arguments = st.sampled_from(["{}", '{"a": 1.0}', "", "[1]", '{"cut', "null"])
                items += [FunctionCall(id=each, call_id=each, name="look", arguments=draw(arguments)) for each in ids]
                name = ids[0]
                items += [
                    FunctionCallOutput(
                        id=f"o{each}",
                        call_id=each,
                        output=draw(st.one_of(TEXT, st.lists(PARTS).map(tuple))),
                        status=draw(st.sampled_from(["completed", "incomplete"])),
                    )
                    for each in draw(st.permutations(ids))
                ]
        if draw(st.booleans()):
            sidecars[name] = Sidecar(origin=draw(st.sampled_from([ORIGIN, "openai-responses/openai"])), data=data)
    return items, sidecars


PARAMS = st.builds(
    ModelParams,
    model=st.just("m"),
    instructions=st.none() | TEXT,
    tools=st.sampled_from([(), TOOLS]),
    tool_choice=st.sampled_from(["auto", "none", "required", FunctionChoice(name="go")]),
    text=st.sampled_from(
        [
            TextConfig(),
            TextConfig(format=JsonObject()),
            TextConfig(format=JsonSchema(name="x", schema={"type": "object"})),
        ]
    ),
    reasoning=st.none()
    | st.builds(
        ReasoningConfig,
        effort=st.sampled_from([None, "none", "minimal", "low", "medium", "high", "xhigh"]),
        summary=st.sampled_from([None, "auto"]),
    ),
    max_output_tokens=st.none() | st.integers(1, 100_000),
    temperature=st.none() | st.floats(0, 2.5),
    seed=st.none() | st.integers(0, 2**31 - 1),
    presence_penalty=st.none() | st.floats(-2, 2),
    stop=st.sampled_from([(), ("END",)]),
    service_tier=st.sampled_from([None, "auto", "default", "flex", "priority"]),
)


@settings(deadline=None)
@given(histories(), PARAMS, st.sampled_from(["gemini-3-pro", "gemini-2.5-flash", "gemini-2.0-flash", "tuned"]))
def test_every_request_is_accepted_by_googles_types_or_refused_with_its_field(
    history: tuple[list[ModelItem], dict[str, Sidecar]], params: ModelParams, model: str
) -> None:
    items, sidecars = history
    request = ModelRequest(params=params, items=items, key="k", sidecars=sidecars)
    try:
        WIRE.encode_request(request, model, ORIGIN)
    except BadRequest as error:
        refused = error.param
    else:
        refused = None
    if refused is not None:
        assert refused in ("input", "temperature", "reasoning.effort")
        return
    body = WIRE.encode_request(request, model, ORIGIN)
    sent = check(body)
    roles = [content["role"] for content in sent["contents"]]
    assert all(one != other for one, other in pairwise(roles))
    calls = sum("functionCall" in part for content in sent["contents"] for part in content["parts"])
    assert calls == sum(isinstance(item, FunctionCall) for item in items)


@pytest.mark.parametrize(
    ("output", "response"),
    [
        ("no such word", {"error": "no such word"}),
        ("", {"error": ""}),
        ('{"code": 7}', {"error": {"code": 7}}),
        ('{"error": "no", "code": 7}', {"error": "no", "code": 7}),
    ],
)
def test_an_output_that_failed_is_an_error(output: str, response: Json) -> None:
    call = FunctionCall(id="f", call_id="c", name="look", arguments="{}")
    failed = FunctionCallOutput(id="o", call_id="c", output=output, status="incomplete")
    sent = encode(user("x"), call, failed)
    assert sent["contents"][2]["parts"] == [{"functionResponse": {"name": "look", "response": response}}]


def test_a_strict_tool_is_asked_for_in_the_mode_that_holds_to_schemas() -> None:
    sent = encode(user("x"), tools=(FunctionTool(name="go", strict=True),))
    assert sent["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
