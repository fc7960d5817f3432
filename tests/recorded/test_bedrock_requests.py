"""Requests against the service's own description, which botocore brings, and against recorded ones.

A recorded request is read into neutral values, encoded again, and compared with itself.
"""

from __future__ import annotations

import base64
import importlib
import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from stateline.core.calls import (
    AllowedTools,
    FunctionChoice,
    FunctionTool,
    JsonSchema,
    ModelParams,
    ModelRequest,
    ReasoningConfig,
    TextConfig,
    TextPlain,
)
from stateline.core.errors import BadRequest
from stateline.core.items import (
    Content,
    FunctionCall,
    FunctionCallOutput,
    InputContent,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    ItemStatus,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    Sidecar,
)
from stateline.core.origin import origin
from stateline.models.formats import FORMATS

Json = dict[str, Any]

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recorded" / "bedrock.jsonl"
WIRE = FORMATS["bedrock-converse"]
SERVICE: Any = importlib.import_module("botocore.session").get_session().get_service_model("bedrock-runtime")
VALIDATOR: Any = importlib.import_module("botocore.validate").ParamValidator()
SHAPE: Any = SERVICE.operation_model("ConverseStream").input_shape


def check(body: bytes, model: str) -> Json:
    """The body, accepted by botocore: fields, types, lengths, unions, and base64 where bytes belong."""
    decoded: Json = json.loads(body)
    report = VALIDATOR.validate({"modelId": model, **_with_bytes(decoded)}, SHAPE)
    assert not report.has_errors(), report.generate_report()
    roles = [message["role"] for message in decoded["messages"]]
    assert roles == [["user", "assistant"][(at + (roles[0] == "assistant")) % 2] for at in range(len(roles))]
    return decoded


def _with_bytes(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_bytes(each) for each in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("Json", node)
    return {
        key: base64.b64decode(value, validate=True)
        if key in ("bytes", "redactedContent") and isinstance(value, str)
        else _with_bytes(value)
        for key, value in fields.items()
    }


# -- recorded requests ------------------------------------------------------------------------------


def _rows() -> list[Any]:
    if not RECORDINGS.exists():
        return []
    rows: list[Json] = [json.loads(line) for line in RECORDINGS.read_text().splitlines()]
    chosen = [row for row in rows if row["api"].startswith("converse")]
    # Tools that the provider runs by itself are not offered here.
    return [pytest.param(row, id=str(at)) for at, row in enumerate(chosen) if "systemTool" not in json.dumps(row)]


class Reader:
    """Reads a recorded request into a ModelRequest."""

    def __init__(self, row: Json) -> None:
        self.model: str = row["url"].split("/model/")[1].split("/")[0].replace("%3A", ":")
        self.body: Json = row["request"] if isinstance(row["request"], dict) else json.loads(row["request"])
        self.items: list[ModelItem] = []
        self.sidecars: dict[str, Sidecar] = {}
        self.origin = origin("bedrock-converse", "aws", self.model)

    def read(self) -> ModelRequest:
        body = self.body
        for message in body["messages"]:
            self._message(message)
        system = [block["text"] for block in body.get("system", ()) if "text" in block]
        cached = any("cachePoint" in block for block in body.get("system", ()))
        extra: Json = body.get("additionalModelRequestFields", {})
        effort = extra.get("output_config", {}).get("effort") or ("high" if extra else None)
        config: Json = body.get("toolConfig", {})
        choice: Json = config.get("toolChoice", {"auto": {}})
        params = ModelParams(
            model=self.model,
            instructions=system[0] if system else None,
            prompt_cache_key="k" if cached else None,
            tools=tuple(
                FunctionTool(
                    name=spec["name"],
                    description=spec.get("description"),
                    parameters=spec["inputSchema"]["json"],
                    strict=spec.get("strict"),
                )
                for spec in (tool["toolSpec"] for tool in config.get("tools", ()))
            ),
            tool_choice=FunctionChoice(name=choice["tool"]["name"])
            if "tool" in choice
            else ("required" if "any" in choice else "auto"),
            text=TextConfig(format=self._format()),
            reasoning=ReasoningConfig(effort=effort) if effort and "thinking" in extra else None,
            temperature=body["inferenceConfig"].get("temperature"),
            top_p=body["inferenceConfig"].get("topP"),
        )
        return ModelRequest(params=params, items=self.items, key="k", sidecars=self.sidecars)

    def _format(self) -> Any:
        form = self.body.get("outputConfig", {}).get("textFormat")
        if form is None:
            return TextPlain()
        schema: Json = form["structure"]["jsonSchema"]
        return JsonSchema(
            name=schema["name"], description=schema.get("description"), schema=json.loads(schema["schema"])
        )

    def _id(self) -> str:
        return f"own_{len(self.items)}"

    def _message(self, message: Json) -> None:
        said: list[Any] = []
        for block in message["content"]:
            if "toolUse" in block:
                use = block["toolUse"]
                self._say(message["role"], said)
                arguments = json.dumps(use["input"])
                self.items.append(
                    FunctionCall(id=self._id(), call_id=use["toolUseId"], name=use["name"], arguments=arguments)
                )
            elif "toolResult" in block:
                result = block["toolResult"]
                output = tuple(_part(part) for part in result["content"])
                self.items.append(FunctionCallOutput(id=self._id(), call_id=result["toolUseId"], output=output))
            elif "reasoningContent" in block:
                self._reasoning(block["reasoningContent"])
            else:
                said.append(block)
        self._say(message["role"], said)

    def _say(self, role: Any, said: list[Json]) -> None:
        if said:
            parts = tuple(OutputText(text=block["text"]) if role == "assistant" else _part(block) for block in said)
            self.items.append(Message(id=self._id(), role=role, content=parts))
            said.clear()

    def _reasoning(self, block: Json) -> None:
        inner: Json = block.get("reasoningText", {})
        secret = f"signature:{inner['signature']}" if inner else f"redacted:{block['redactedContent']}"
        content = (ReasoningText(text=inner["text"]),) if inner else ()
        item = Reasoning(id=self._id(), content=content, encrypted_content=secret)
        self.sidecars[item.id] = Sidecar(origin=self.origin, data={"encrypted_content": secret})
        self.items.append(item)


def _part(block: Json) -> InputContent:
    kind, value = next(iter(block.items()))
    if kind == "text":
        return InputText(text=value)
    source: Json = value["source"]
    inline: str = source.get("bytes", "")
    s3 = source.get("s3Location", {}).get("uri")
    if kind == "image":
        return InputImage(image_url=s3 or f"data:image/{value['format']};base64,{inline}")
    if kind == "video":
        return InputVideo(video_url=s3 or f"data:video/{value['format']};base64,{inline}")
    name = f"{value['name']}.{value['format']}"
    return InputFile(filename=name, file_url=s3) if s3 else InputFile(filename=name, file_data=inline)


def _comparable(body: Json) -> Json:
    """What two ways to write the same request have in common."""
    body = json.loads(json.dumps(body))
    for message in body["messages"]:
        for block in message["content"]:
            block.get("toolResult", {}).pop("status", None)
        message["content"] = [block for block in message["content"] if "cachePoint" not in block]
    config: Json = body.get("toolConfig", {})
    if config.get("toolChoice") == {"auto": {}}:
        del config["toolChoice"]
    schema: Json | None = body.get("outputConfig", {}).get("textFormat", {}).get("structure", {}).get("jsonSchema")
    if schema is not None:
        schema["schema"] = json.loads(schema["schema"])
    extra: Json = body.get("additionalModelRequestFields", {})
    extra.get("thinking", {}).pop("budget_tokens", None)
    extra.pop("output_config", None)
    extra.pop("reasoning_config", None)
    return {key: value for key, value in body.items() if value}


@pytest.mark.skipif(not RECORDINGS.exists(), reason="../shared, with the recordings, is not here")
@pytest.mark.parametrize("row", _rows())
def test_a_recorded_request_is_encoded_as_it_was_sent(row: Json) -> None:
    reader = Reader(row)
    body = check(WIRE.encode_request(reader.read(), reader.model, reader.origin), reader.model)
    assert _comparable(body) == _comparable(reader.body)


# -- any request ------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.sampled_from(["get_weather", "lookup", "final-result"])
PNG = "data:image/png;base64," + base64.b64encode(b"png").decode()
PARTS: st.SearchStrategy[InputContent] = st.one_of(
    st.builds(InputText, text=TEXT),
    st.just(InputImage(image_url=PNG, detail="high")),
    st.just(InputFile(filename="r\u00e9sum\u00e9  v2.pdf", file_data=base64.b64encode(b"pdf").decode())),
    st.just(InputFile(file_data="data:text/plain;base64," + base64.b64encode(b"txt").decode())),
)
IDS = st.sampled_from(["call_1", "call 2 \u00e9", "x" * 90, "tooluse_Ab-9"])
ORIGINS = st.sampled_from(["bedrock-converse/aws/claude", "openai-responses/openai"])


STATUSES: st.SearchStrategy[ItemStatus] = st.sampled_from(["completed", "incomplete"])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[ModelItem], dict[str, Sidecar]]:
    items: list[ModelItem] = []
    sidecars: dict[str, Sidecar] = {}
    for _ in range(draw(st.integers(1, 6))):
        name = f"i{len(items)}"
        kind = draw(st.sampled_from(["user", "system", "said", "thought", "calls"]))
        if kind == "user":
            items.append(Message(id=name, role="user", content=tuple(draw(st.lists(PARTS, max_size=3)))))
        elif kind == "system":
            items.append(Message(id=name, role="developer", content=(InputText(text=draw(TEXT)),)))
        elif kind == "said":
            said: tuple[Content, ...] = (OutputText(text=draw(TEXT)), Refusal(refusal=draw(TEXT)))
            items.append(Message(id=name, role="assistant", content=said))
        elif kind == "thought":
            secret = draw(st.sampled_from(["signature:c2ln", "redacted:cmVk", "gAAAAforeign", None]))
            items.append(Reasoning(id=name, content=(ReasoningText(text=draw(TEXT)),)))
            if secret is not None:
                sidecars[name] = Sidecar(origin=draw(ORIGINS), data={"encrypted_content": secret})
        else:
            ids = draw(st.lists(IDS, min_size=1, max_size=3, unique=True))
            arguments = st.sampled_from(["{}", '{"a": 1.0}', "", "[1]", '{"cut', "null"])
            items += [
                FunctionCall(id=f"{name}c{call}", call_id=call, name=draw(NAMES), arguments=draw(arguments))
                for call in ids
            ]
            if draw(st.booleans()):
                items.append(Message(id=f"{name}m", role="user", content=(InputText(text="wait"),)))
            outputs = st.one_of(TEXT, st.lists(PARTS, max_size=2).map(tuple))
            for call in draw(st.permutations(ids)):
                given_back, status = draw(outputs), draw(STATUSES)
                items.append(FunctionCallOutput(id=f"{name}o{call}", call_id=call, output=given_back, status=status))
    return items, sidecars


TOOLS = (
    FunctionTool(name="get_weather", parameters={"type": "object", "properties": {"a": {"type": "number"}}}),
    FunctionTool(name="lookup", description="Finds", strict=True),
)
PARAMS = st.builds(
    ModelParams,
    model=st.just("m"),
    instructions=st.none() | TEXT,
    tools=st.sampled_from([(), TOOLS]),
    tool_choice=st.sampled_from(
        [
            "auto",
            "none",
            "required",
            FunctionChoice(name="lookup"),
            AllowedTools(tools=(FunctionChoice(name="lookup"),)),
        ]
    ),
    parallel_tool_calls=st.sampled_from([None, None, True, False]),
    text=st.sampled_from([TextConfig(), TextConfig(format=JsonSchema(name="x", schema={"type": "object"}))]),
    reasoning=st.none()
    | st.builds(
        ReasoningConfig,
        effort=st.sampled_from([None, "none", "minimal", "low", "high", "xhigh"]),
        summary=st.sampled_from([None, None, None, "auto"]),
    ),
    max_output_tokens=st.none() | st.integers(1, 100_000),
    temperature=st.none() | st.floats(0, 1),
    top_p=st.none() | st.floats(0, 1),
    stop=st.sampled_from([(), ("END",)]),
    user=st.sampled_from([None, "user-1"]),
    prompt_cache_key=st.sampled_from([None, "k"]),
    service_tier=st.sampled_from([None, "auto", "priority"]),
)
MODELS = st.sampled_from(
    [
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-opus-4-8", "us.amazon.nova-2-lite-v1:0",
        "openai.gpt-oss-120b-1:0", "openai.gpt-5.6-sol", "meta.llama3-70b-instruct-v1:0",
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(histories(), PARAMS, MODELS)
def test_every_request_is_accepted_by_the_description_or_refused_with_its_field(
    history: tuple[list[ModelItem], dict[str, Sidecar]], params: ModelParams, model: str
) -> None:
    items, sidecars = history
    request = ModelRequest(params=params, items=items, key="k", sidecars=sidecars)
    where = origin("bedrock-converse", "aws", model)
    refusal: BadRequest | None = None
    try:
        encoded = WIRE.encode_request(request, model, where)
    except BadRequest as error:
        encoded, refusal = b"", error
    event("refused" if refusal else "encoded")
    if refusal is not None:
        assert (refusal.code, refusal.param is None) == ("unsupported_parameter", False)
        return
    body = check(encoded, model)
    uses = [
        block["toolUse"]["toolUseId"]
        for message in body["messages"]
        for block in message["content"]
        if "toolUse" in block
    ]
    results = [
        block["toolResult"]["toolUseId"]
        for message in body["messages"]
        for block in message["content"]
        if "toolResult" in block
    ]
    assert sorted(uses) == sorted(results)
    if uses:
        assert body["toolConfig"]["tools"]
    _check_answered_at_once(body["messages"])


def _check_answered_at_once(messages: list[Json]) -> None:
    """Each call has its result in the message behind it, before anything else there."""
    for at, message in enumerate(messages):
        uses = {block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block}
        if uses:
            behind = messages[at + 1]["content"]
            first = behind[: sum("toolResult" in block for block in behind)]
            assert uses <= {block["toolResult"]["toolUseId"] for block in first}
