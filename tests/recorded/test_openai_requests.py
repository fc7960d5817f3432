"""Requests against OpenAI's own description, and against the requests that were recorded.

A recorded request is read into neutral values, encoded again, and compared with itself; what the
neutral values do not know (hosted tools, moderation) is left out of the comparison by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

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
    TextPlain,
)
from stateline.core.items import (
    Content,
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    Refusal,
    Sidecar,
    SummaryText,
)
from stateline.models.formats import FORMATS

Json = dict[str, Any]

SHARED = Path(__file__).resolve().parents[3] / "shared"
RECORDINGS = SHARED / "recorded" / "openai.jsonl"
SPEC = SHARED / "spec" / "openai-2.3.0-subset.json"
CHAT, RESPONSES = "openai-chat", "openai-responses"
SCHEMAS = {CHAT: "CreateChatCompletionRequest", RESPONSES: "CreateResponse"}

pytestmark = pytest.mark.skipif(not SPEC.exists(), reason="../shared, with the description, is not here")


def _any_of(node: Any) -> Any:
    """``oneOf`` with a discriminator holds where one branch does; plain JSON Schema counts them."""
    if isinstance(node, dict):
        fields = cast("Json", node)
        return {("anyOf" if key == "oneOf" else key): _any_of(value) for key, value in fields.items()}
    return [_any_of(each) for each in cast("list[Any]", node)] if isinstance(node, list) else node


def _validators() -> dict[str, Any]:
    if not SPEC.exists():
        return {}
    spec = _any_of(json.loads(SPEC.read_text()))
    empty: Any = Registry  # Its own types are unknown to a strict checker.
    registry = empty()
    registry = registry.with_resource("urn:spec", DRAFT202012.create_resource(spec))
    return {
        wire: Draft202012Validator({"$ref": f"urn:spec#/components/schemas/{name}"}, registry=registry)
        for wire, name in SCHEMAS.items()
    }


VALIDATORS = _validators()


def _check(wire: str, body: bytes) -> Json:
    decoded = json.loads(body)
    errors = [f"{error.json_path}: {error.message[:300]}" for error in VALIDATORS[wire].iter_errors(decoded)]
    assert not errors
    return decoded


# -- recorded requests ----------------------------------------------------------------------------


class Unknown(Exception):
    """The recorded request uses what neutral values do not have."""


class Reader:
    """Reads a recorded request of either API into a ModelRequest."""

    def __init__(self, wire: str, body: Json) -> None:
        self.wire = wire
        self.body = dict(body)
        self.items: list[ModelItem] = []
        self.sidecars: dict[str, Sidecar] = {}

    def read(self) -> ModelRequest:
        body = self.body
        if self.wire == CHAT:
            for message in body["messages"]:
                self._message(message)
        else:
            context = body["input"]
            for item in [{"role": "user", "content": context}] if isinstance(context, str) else context:
                self._item(item)
        reasoning = body.get("reasoning")
        if reasoning is not None and reasoning.get("effort") is None and reasoning.get("summary") is None:
            reasoning = None
        params = ModelParams(
            model=body["model"],
            instructions=body.get("instructions"),
            tools=tuple(self._tool(tool) for tool in body.get("tools", ())),
            tool_choice=body.get("tool_choice", "auto"),
            text=self._text(),
            reasoning=msgspec.convert(reasoning, ReasoningConfig | None),
            temperature=body.get("temperature"),
            service_tier=body.get("service_tier"),
            prompt_cache_key=body.get("prompt_cache_key"),
            include=tuple(body.get("include", ())),
        )
        return ModelRequest(
            params=params, items=self.items, key="k", stream=body.get("stream", False), sidecars=self.sidecars
        )

    def _id(self) -> str:
        return f"own_{len(self.items)}"

    def _add(self, item: ModelItem, upstream: str | None = None, **data: Any) -> None:
        self.items.append(item)
        if upstream is not None:
            self.sidecars[item.id] = Sidecar(origin=f"{self.wire}/openai", data={"id": upstream, **data})

    def _tool(self, tool: Json) -> FunctionTool:
        function = tool.get("function", tool)
        if tool["type"] != "function" or "defer_loading" in tool:
            raise Unknown
        return FunctionTool(
            name=function["name"],
            description=function.get("description"),
            parameters=function.get("parameters"),
            strict=function.get("strict"),
        )

    def _text(self) -> TextConfig:
        if self.wire == CHAT:
            form: Json = self.body.get("response_format") or {"type": "text"}
            form = {"type": form["type"], **form.get("json_schema", {})}
        else:
            form = self.body.get("text", {}).get("format") or {"type": "text"}
        return TextConfig(format=msgspec.convert(form, TextPlain | JsonObject | JsonSchema))

    def _parts(self, content: Any, role: str) -> tuple[Content, ...]:
        said = OutputText if role == "assistant" else InputText
        if isinstance(content, str):
            return (said(text=content),)
        parts: list[Content] = []
        for part in content or ():
            match part:
                case {"prompt_cache_breakpoint": _}:
                    raise Unknown
                case {"type": "text" | "input_text" | "output_text", "text": text}:
                    parts.append(said(text=text))
                case {"type": "image_url", "image_url": image}:
                    parts.append(InputImage(image_url=image["url"], detail=image.get("detail", "auto")))
                case {"type": "input_image", "image_url": image}:
                    parts.append(InputImage(image_url=image, detail=part.get("detail", "auto")))
                case {"type": "file", "file": file}:
                    parts.append(msgspec.convert({"type": "input_file", **file}, InputFile))
                case {"type": "input_file"}:
                    parts.append(msgspec.convert(part, InputFile))
                case _:
                    raise Unknown
        return tuple(parts)

    def _message(self, message: Json) -> None:
        role = message["role"]
        if role == "tool":
            call_id = message["tool_call_id"]
            self._add(FunctionCallOutput(id=self._id(), call_id=call_id, output=message["content"]))
            return
        parts = self._parts(message.get("content"), role)
        if parts or "tool_calls" not in message:
            self._add(Message(id=self._id(), role=role, content=parts))
        for call in message.get("tool_calls", ()):
            self._add(FunctionCall(id=self._id(), call_id=call["id"], **call["function"]))

    def _item(self, item: Json) -> None:
        match item.get("type", "message"):
            case "message":
                role = item["role"]
                parts = self._parts(item["content"], role)
                self._add(Message(id=self._id(), role=role, content=parts), item.get("id"))
            case "function_call":
                fields = {name: item[name] for name in ("call_id", "name", "arguments")}
                self._add(FunctionCall(id=self._id(), **fields), item.get("id"))
            case "function_call_output":
                output = item["output"] if isinstance(item["output"], str) else self._parts(item["output"], "user")
                fields = {"id": self._id(), "call_id": item["call_id"], "output": msgspec.to_builtins(output)}
                self._add(msgspec.convert(fields, FunctionCallOutput))
            case "reasoning":
                summary = tuple(SummaryText(text=part["text"]) for part in item["summary"])
                self._add(
                    Reasoning(id=self._id(), summary=summary), item["id"], encrypted_content=item["encrypted_content"]
                )
            case _:
                raise Unknown


_DEFAULTS: dict[str, list[Any]] = {
    "n": [1], "stream": [False], "tool_choice": ["auto"], "store": [False], "annotations": [[]], "logprobs": [[]],
    "status": ["completed"], "type": ["message"], "detail": ["auto"], "strict": [False],
}  # fmt: skip


def _normal(value: Any, key: str = "") -> Any:
    """Without what is null or a default, and with a lone text part as its text."""
    if isinstance(value, dict):
        fields = {name: _normal(each, name) for name, each in cast("Json", value).items()}
        return {name: each for name, each in fields.items() if each is not None and each not in _DEFAULTS.get(name, ())}
    if isinstance(value, list):
        parts = [_normal(each) for each in cast("list[Any]", value)]
        texts = ("text", "input_text", "output_text")
        if key == "content" and len(parts) == 1 and parts[0].get("type") in texts:
            return parts[0]["text"]
        return parts
    return value


UNREAD = {
    "moderation",
    "prompt_cache_options",
    "web_search_options",
    "context_management",
    "previous_response_id",
    "include",
}
"""Fields that neutral values do not have, or (``include``) that we set by ourselves."""


def _recorded() -> Iterator[Any]:
    lines = RECORDINGS.read_text().splitlines() if RECORDINGS.exists() else []
    wires = {"/v1/chat/completions": CHAT, "/v1/responses": RESPONSES}
    for at, row in enumerate(map(json.loads, lines)):
        if row["api"] in wires and row["status"] == 200:
            wire, body = wires[row["api"]], json.loads(row["request"])
            try:
                yield pytest.param(wire, body, Reader(wire, body).read(), id=f"{wire}-{at}")
            except Unknown:
                continue


READABLE = list(_recorded()) if RECORDINGS.exists() else []


def test_most_recorded_requests_can_be_read() -> None:
    assert len(READABLE) >= 50


@pytest.mark.parametrize(("wire", "body", "request_"), READABLE)
def test_a_recorded_request_comes_out_as_it_went_in(wire: str, body: Json, request_: ModelRequest) -> None:
    encoded = FORMATS[wire].encode_request(request_, body["model"], f"{wire}/openai")
    ours, theirs = _normal(_check(wire, encoded)), _normal(body)
    for name in UNREAD:
        ours.pop(name, None)
        theirs.pop(name, None)
    if theirs.get("reasoning") == {}:
        del theirs["reasoning"]
    if isinstance(theirs.get("input"), str):
        theirs["input"] = [{"role": "user", "content": theirs["input"]}]
    assert ours == theirs


# -- generated requests ---------------------------------------------------------------------------

_WORD = st.text(st.characters(codec="utf-8"), max_size=12)
_NAME = st.from_regex(r"[a-zA-Z_-]{1,12}", fullmatch=True)
_IMAGE = st.builds(InputImage, image_url=st.just("https://x/y.png"), detail=st.sampled_from(["low", "high", "auto"]))
_FILE = st.builds(InputFile, filename=_NAME, file_data=st.just("data:application/pdf;base64,AA=="))
_TEXT = st.builds(InputText, text=_WORD)
_SAID = st.one_of(st.builds(OutputText, text=_WORD), st.builds(Refusal, refusal=_WORD))


def _message(role: str, part: st.SearchStrategy[Any], least: int = 1) -> st.SearchStrategy[Message]:
    return st.builds(
        Message,
        id=st.uuids().map(lambda drawn: f"ours_{drawn.hex}"),
        role=st.just(role),
        content=st.lists(part, min_size=least, max_size=3).map(tuple),
    )


_CALL_ID = st.sampled_from(["c1", "c2", "c3"])
_OURS = st.uuids().map(lambda drawn: f"ours_{drawn.hex}")
_ITEM = st.one_of(
    _message("user", st.one_of(_TEXT, _IMAGE, _FILE)),
    _message("system", _TEXT),
    _message("developer", _TEXT),
    _message("assistant", _SAID),
    st.builds(FunctionCall, id=_OURS, call_id=_CALL_ID, name=_NAME, arguments=_WORD),
    st.builds(
        FunctionCallOutput,
        id=_OURS,
        call_id=_CALL_ID,
        output=st.one_of(_WORD, st.tuples(_TEXT, _TEXT)),
        status=st.sampled_from(["completed", "incomplete"]),
    ),
    st.builds(Reasoning, id=_OURS, summary=st.lists(st.builds(SummaryText, text=_WORD), max_size=2).map(tuple)),
)
_OBJECT: Json = {"type": "object", "properties": {}}
_TOOLS = st.lists(
    st.builds(
        FunctionTool,
        name=_NAME,
        description=st.none() | _WORD,
        parameters=st.none() | st.just(_OBJECT),
        strict=st.none() | st.booleans(),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
_CHOICES = st.builds(FunctionChoice, name=_NAME)
_MODES = st.sampled_from(["none", "auto", "required"])
_FLOAT = st.none() | st.floats(0, 1)


def _some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def _params(wire: str) -> st.SearchStrategy[ModelParams]:
    chat: dict[str, st.SearchStrategy[Any]] = {
        "stop": st.lists(_NAME, max_size=4).map(tuple),
        "seed": _some(st.integers(0, 9)),
        "presence_penalty": _FLOAT,
        "frequency_penalty": _FLOAT,
        "reasoning": st.builds(ReasoningConfig, effort=_some(st.sampled_from(["none", "low", "xhigh"]))),
    }
    responses: dict[str, st.SearchStrategy[Any]] = {
        "reasoning": st.builds(
            ReasoningConfig,
            effort=_some(st.sampled_from(["minimal", "high"])),
            summary=_some(st.sampled_from(["auto", "concise", "detailed"])),
        ),
    }
    schema = st.builds(JsonSchema, name=_NAME, description=_some(_WORD), schema=st.just(_OBJECT), strict=st.booleans())
    return st.builds(
        ModelParams,
        model=st.just("m"),
        instructions=_some(_WORD),
        tools=_TOOLS,
        tool_choice=st.one_of(
            _MODES, _CHOICES, st.builds(AllowedTools, tools=st.tuples(_CHOICES), mode=_MODES)
        ),
        parallel_tool_calls=_some(st.booleans()),
        text=st.builds(
            TextConfig,
            format=st.one_of(st.just(TextPlain()), st.just(JsonObject()), schema),
            verbosity=_some(st.sampled_from(["low", "high"])),
        ),
        max_output_tokens=_some(st.integers(16, 9999)),
        temperature=_FLOAT,
        top_p=_FLOAT,
        top_logprobs=_some(st.integers(0, 20)),
        logprobs=st.booleans(),
        service_tier=_some(st.sampled_from(["auto", "flex"])),
        safety_identifier=_some(_NAME),
        prompt_cache_key=_some(_NAME),
        user=_some(_NAME),
        **(chat if wire == CHAT else responses),
    )  # fmt: skip


@pytest.mark.parametrize("wire", [CHAT, RESPONSES])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_whatever_is_asked_is_as_openai_describes_it(wire: str, data: st.DataObject) -> None:
    items = data.draw(st.lists(_ITEM, min_size=1, max_size=6))
    origin = f"{wire}/openai"
    # The description wants an id with reasoning and with answers of several parts, which the API does not.
    sidecars = {
        item.id: Sidecar(origin=origin, data={"id": f"up_{at}", "encrypted_content": "e"})
        for at, item in enumerate(items)
        if not isinstance(item, FunctionCallOutput)
    }
    request = ModelRequest(
        params=data.draw(_params(wire)), items=items, key="k", stream=data.draw(st.booleans()), sidecars=sidecars
    )
    body = FORMATS[wire].encode_request(request, "gpt-5", origin)
    if wire == CHAT and not json.loads(body)["messages"]:
        return  # Nothing but reasoning, which this format cannot carry: the engine never asks that.
    _check(wire, body)
    assert b"ours_" not in body
