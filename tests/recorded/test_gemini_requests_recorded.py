"""Every recorded request of Gemini's, read into neutral values, encoded again, and compared with itself.

Both go through Google's own types, which take camel and snake case, base64 of both alphabets and enumerations
in any case; so what is compared is what Google would have read. What neutral values do not have (tools that
Google runs, safety settings, a cache by its name) is named in ``UNKNOWN`` and left out of the comparison alone:
the rest of such a request is encoded and compared like any other's.
"""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Any, cast

import pytest
from google.genai import types

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
    FunctionCall,
    FunctionCallOutput,
    InputContent,
    InputFile,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    Sidecar,
    SummaryText,
)
from stateline.models.formats import FORMATS

Json = dict[str, Any]

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "recorded"
WIRE = FORMATS["gemini"]
ORIGIN = "gemini/google"

UNKNOWN = {
    "cachedContent", "labels", "modelArmorConfig", "safetySettings", "responseModalities", "logprobs",
    "responseLogprobs", "includeServerSideToolInvocations", "fileSearch", "codeExecution", "googleSearch",
    "urlContext", "executableCode", "codeExecutionResult", "toolCall", "toolResponse",
}  # fmt: skip
"""Fields that are only read past. Any other that is not read makes the comparison fail."""


def _rows() -> list[Any]:
    if not RECORDED.exists():
        return []
    out: list[Any] = []
    for name in ("gemini", "vertex"):
        rows: list[Json] = [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]
        chosen = [row for row in rows if row["api"] in ("generateContent", "streamGenerateContent")]
        out += [pytest.param(row, id=f"{name}-{at}") for at, row in enumerate(chosen)]
    return out


def _read(row: Json) -> Json:
    """The request as Google's types read it, whose names are those of the reference."""
    asked = row["request"]
    body: Json = json.loads(asked) if isinstance(asked, str) else asked
    return _checked(body)


def _checked(body: Json) -> Json:
    """What Google's types make of a body; a field that they do not know is an error."""
    kinds: dict[str, Any] = {
        "systemInstruction": types.Content, "toolConfig": types.ToolConfig, "generationConfig": types.GenerationConfig,
    }  # fmt: skip
    many: dict[str, Any] = {"contents": types.Content, "tools": types.Tool, "safetySettings": types.SafetySetting}
    out: Json = {}
    for key, value in body.items():
        if key in kinds:
            out[key] = _dumped(kinds[key], value)
        elif key in many:
            listed = cast("list[Any]", value if isinstance(value, list) else [value])
            out[key] = [_dumped(many[key], each) for each in listed]
        else:
            assert key in UNKNOWN, key
    return out


def _dumped(kind: Any, value: Any) -> Json:
    return kind.model_validate(value).model_dump(mode="json", by_alias=True, exclude_none=True)


class Reader:
    """Reads a request, as Google's types give it, into a ModelRequest."""

    def __init__(self, body: Json, model: str) -> None:
        self.body = body
        self.model = model
        self.items: list[ModelItem] = []
        self.sidecars: dict[str, Sidecar] = {}
        self.called: dict[str, list[str]] = {}

    def read(self) -> ModelRequest:
        body = self.body
        for content in body["contents"]:
            if content["role"] == "user":
                self._user(content["parts"])
            else:
                self._model(content["parts"])
        config: Json = body.get("generationConfig", {})
        thinking: Json | None = config.get("thinkingConfig")
        system = [Message(id="sys", role="system", content=(InputText(text=text),)) for text in self._system()]
        params = ModelParams(
            model=self.model,
            tools=tuple(
                FunctionTool(
                    name=each["name"],
                    description=each.get("description"),
                    parameters=_schema(each),
                    strict=self._calling().get("mode") == "VALIDATED" or None,
                )
                for tool in body.get("tools", ())
                for each in tool.get("functionDeclarations", ())
            ),
            tool_choice=self._choice(),
            text=TextConfig(format=_format(config)),
            reasoning=ReasoningConfig(summary="auto") if thinking else None,
            temperature=config.get("temperature"),
        )
        return ModelRequest(params=params, items=[*system, *self.items], key="k", sidecars=self.sidecars)

    def _system(self) -> list[str]:
        return [part["text"] for part in self.body.get("systemInstruction", {}).get("parts", ())]

    def _calling(self) -> Json:
        return self.body.get("toolConfig", {}).get("functionCallingConfig", {})

    def _choice(self) -> Any:
        config = self._calling()
        names = [FunctionChoice(name=name) for name in config.get("allowedFunctionNames", ())]
        if not names:
            return {"ANY": "required", "NONE": "none"}.get(config.get("mode", ""), "auto")
        if config["mode"] == "ANY" and len(names) == 1:
            return names[0]
        return AllowedTools(tools=tuple(names), mode="required" if config["mode"] == "ANY" else "auto")

    def _add(self, item: ModelItem, **kept: Any) -> None:
        self.items.append(item)
        if data := {name: value for name, value in kept.items() if value is not None}:
            self.sidecars[item.id] = Sidecar(origin=ORIGIN, data=data)

    def _id(self) -> str:
        return f"own_{len(self.items)}"

    def _user(self, parts: list[Json]) -> None:
        said: list[InputContent] = []
        for part in parts:
            if "functionResponse" in part:
                self._result(part["functionResponse"])
            else:
                said.append(_content(part))
        if said:
            self._add(Message(id=self._id(), role="user", content=tuple(said)))

    def _result(self, result: Json) -> None:
        call_id = result.get("id") or self.called[result["name"]].pop(0)
        output = (InputText(text=json.dumps(result["response"])), *(_content(each) for each in result.get("parts", ())))
        self._add(FunctionCallOutput(id=self._id(), call_id=call_id, output=output))

    def _model(self, parts: list[Json]) -> None:
        for part in parts:
            signature = part.get("thoughtSignature")
            if "functionCall" in part:
                call = part["functionCall"]
                call_id = call.get("id") or self._id()
                if "id" not in call:
                    self.called.setdefault(call["name"], []).append(call_id)
                arguments = json.dumps(call.get("args", {}))
                item = FunctionCall(id=self._id(), call_id=call_id, name=call["name"], arguments=arguments)
                self._add(item, thought_signature=signature, call_id=call.get("id"))
            elif "text" in part and part.get("thought"):
                thought = Reasoning(id=self._id(), summary=(SummaryText(text=part["text"]),))
                self._add(thought, thought_signature=signature)
            elif "text" in part:
                said = Message(id=self._id(), role="assistant", content=(OutputText(text=part["text"]),))
                signed = {"signed_from": 0, "signed_to": len(part["text"])} if signature else {}
                self._add(said, thought_signature=signature, **signed)
            else:
                assert part.keys() & UNKNOWN, part


def _content(part: Json) -> InputContent:
    if "text" in part:
        return InputText(text=part["text"])
    source: Json = part.get("inlineData") or part["fileData"]
    kind: str = source["mimeType"]
    if "data" in source:
        return InputFile(file_data=f"data:{kind};base64,{source['data']}")
    return InputFile(filename=f"f{mimetypes.guess_extension(kind)}", file_url=source["fileUri"])


def _schema(tool: Json) -> Json | None:
    """The schema of a tool's arguments; Google's own kind of schemas writes types in capitals."""
    schema: Json | None = tool.get("parametersJsonSchema")
    return schema if schema is not None else _lowered(tool.get("parameters"))


def _lowered(schema: Any) -> Any:
    if isinstance(schema, dict):
        fields = cast("Json", schema)
        return {
            name: value.lower() if name == "type" and isinstance(value, str) else _lowered(value)
            for name, value in fields.items()
        }
    return [_lowered(each) for each in cast("list[Any]", schema)] if isinstance(schema, list) else schema


def _format(config: Json) -> Any:
    if "responseJsonSchema" in config:
        return JsonSchema(name="out", schema=config["responseJsonSchema"])
    return JsonObject() if config.get("responseMimeType") == "application/json" else TextPlain()


def _comparable(body: Json) -> Json:
    """What two ways to write the same request have in common."""
    body = _without_unknown(json.loads(json.dumps(body)))
    for tool in body.get("tools", ()):
        for each in tool["functionDeclarations"]:
            # Of a function without parameters nothing needs to be said.
            each["parametersJsonSchema"] = _schema(each)
            each.pop("parameters", None)
            if not each.get("description"):
                each.pop("description", None)
    if body.get("tools"):
        every = [each for tool in body["tools"] for each in tool["functionDeclarations"]]
        body["tools"] = [{"functionDeclarations": every}]
    calling: Json = body.get("toolConfig", {}).get("functionCallingConfig", {})
    calling.get("allowedFunctionNames", []).sort()
    if calling in ({}, {"mode": "AUTO"}):
        body.pop("toolConfig", None)
    turns: list[Json] = []
    for content in body["contents"]:
        if turns and turns[-1]["role"] == content["role"]:
            turns[-1]["parts"] += content["parts"]
        else:
            turns.append(content)
    body["contents"] = turns
    body.get("systemInstruction", {}).pop("role", None)
    if not body.get("generationConfig"):
        body.pop("generationConfig", None)
    return body


def _without_unknown(value: Any) -> Any:
    """Without what is not read, and without what is then empty; the arguments and results of calls as they are."""
    if isinstance(value, list):
        pruned = [_without_unknown(each) for each in cast("list[Any]", value)]
        return [each for each in pruned if each != {}]
    if not isinstance(value, dict):
        return value
    fields = cast("Json", value)
    whole = ("args", "response", "parametersJsonSchema", "parameters", "responseJsonSchema")
    kept = {
        name: each if name in whole else _without_unknown(each) for name, each in fields.items() if name not in UNKNOWN
    }
    return {name: each for name, each in kept.items() if name in whole or each not in ({}, [])}


@pytest.mark.skipif(not RECORDED.exists(), reason="../shared, with the recordings, is not here")
@pytest.mark.parametrize("row", _rows())
def test_a_recorded_request_is_encoded_as_it_was_sent(row: Json) -> None:
    model = row["url"].split("/models/")[1].split(":")[0]
    asked = _read(row)
    sent = _checked(json.loads(WIRE.encode_request(Reader(asked, model).read(), model, ORIGIN)))
    assert _comparable(sent) == _comparable(asked)
