"""Requests against Anthropic's own description, and against the requests that were recorded.

A recorded request is read by our own ``/v1/messages``, encoded again, and compared with itself; what
Stateline does not serve (hosted tools, containers) it refuses, and those are left out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from stateline.api.messages.parse import parse_message
from stateline.core.calls import (
    AllowedTools,
    FunctionChoice,
    FunctionTool,
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
    InputFile,
    InputImage,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    Sidecar,
)
from stateline.models.formats.anthropic_messages import encode_request

Json = dict[str, Any]

SHARED = Path(__file__).resolve().parents[3] / "shared"
RECORDINGS = SHARED / "recorded" / "anthropic.jsonl"
SPEC = SHARED / "spec" / "anthropic.json"
ORIGIN = "anthropic-messages/anthropic"

pytestmark = pytest.mark.skipif(not SPEC.exists(), reason="../shared, with the description, is not here")


def _any_of(node: Any) -> Any:
    """``oneOf`` with a discriminator holds where one branch does; plain JSON Schema counts them."""
    if isinstance(node, dict):
        fields = cast("Json", node)
        return {("anyOf" if key == "oneOf" else key): _any_of(value) for key, value in fields.items()}
    return [_any_of(each) for each in cast("list[Any]", node)] if isinstance(node, list) else node


def _validator() -> Any:
    spec: Json = _any_of(json.loads(SPEC.read_text())) if SPEC.exists() else {"components": {}}
    schema = {"$ref": "#/components/schemas/CreateMessageParams", "components": spec["components"]}
    return Draft202012Validator(schema)


VALIDATOR = _validator()


def _check(body: bytes) -> Json:
    decoded: Json = json.loads(body)
    assert [f"{error.json_path}: {error.message[:300]}" for error in VALIDATOR.iter_errors(decoded)] == []
    return decoded


# -- recorded requests ----------------------------------------------------------------------------


def _sealed(body: Json) -> bytes:
    """As a client of ours would send it: with signatures and redacted thinking as we give them out."""
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            if "signature" in block:
                block["signature"] = "signature:" + block["signature"]
            elif block["type"] == "redacted_thinking":
                block["data"] = "redacted:" + block["data"]
    return json.dumps(body).encode()


def _recorded() -> Iterator[Any]:
    lines = RECORDINGS.read_text().splitlines() if RECORDINGS.exists() else []
    for at, row in enumerate(map(json.loads, lines)):
        if row["api"] == "/v1/messages":
            try:
                request = parse_message(_sealed(json.loads(row["request"])))
            except BadRequest:
                continue
            yield pytest.param(json.loads(row["request"]), request, id=f"anthropic-{at}")


READABLE = list(_recorded())


def _normal(value: Any, key: str = "") -> Any:
    """Without defaults and caching hints, with a lone text block as its text."""
    if isinstance(value, dict):
        fields = cast("Json", value)
        kept = {name: _normal(each, name) for name, each in fields.items() if name != "cache_control"}
        return {name: each for name, each in kept.items() if each not in (None, False, {"type": "auto"})}
    if isinstance(value, list):
        blocks = [_normal(each) for each in cast("list[Any]", value)]
        lone = key in ("content", "system") and len(blocks) == 1 and blocks[0].get("type") == "text"
        return blocks[0]["text"] if lone else blocks
    return value


def _system(body: Json) -> list[str]:
    inside = [message["content"] for message in body["messages"] if message["role"] == "system"]
    return [body["system"], *inside]


def test_most_recorded_requests_without_hosted_tools_can_be_read() -> None:
    assert len(READABLE) >= 30


@pytest.mark.parametrize(("body", "request_"), READABLE)
def test_a_recorded_request_comes_out_as_it_went_in(body: Json, request_: ModelRequest) -> None:
    ours, theirs = _normal(_check(encode_request(request_, body["model"], ORIGIN))), _normal(body)
    asked, thinking = theirs.pop("thinking", None), ours.pop("thinking", None)
    # An effort asks for thinking, and thinking has one: a budget becomes it, and a budget again for older models.
    assert (thinking is None) == (asked is None and "effort" not in theirs.get("output_config", {}))
    for each in (ours, theirs):
        config = each.get("output_config", {})
        if config.get("effort") in ("xhigh", "max") or asked is not None:
            # No model in the recordings that is asked for so much knows `xhigh`.
            config.pop("effort", None)
        if not config:
            each.pop("output_config", None)
    if any(message["role"] == "system" for message in body["messages"]):
        # System messages in between are put together at the front.
        theirs["system"] = [{"type": "text", "text": text} for text in _system(theirs)]
        theirs.pop("messages")
        assert all(message["role"] != "system" for message in ours.pop("messages"))
    assert ours == theirs


# -- generated requests ---------------------------------------------------------------------------

_WORD = st.text(st.characters(codec="utf-8"), max_size=12)
_NAME = st.from_regex(r"[a-zA-Z_-]{1,12}", fullmatch=True)
_PIXEL = "data:image/png;base64,AAAA"
_IMAGE = st.builds(InputImage, image_url=st.sampled_from(["https://x.test/y.png", _PIXEL]))
_FILE = st.builds(
    InputFile,
    filename=_NAME,
    file_data=st.sampled_from(["data:application/pdf;base64,AAAA", "data:text/plain;base64,aGk=", "AAAA"]),
)
_TEXT = st.builds(InputText, text=_WORD)
_SAID = st.one_of(st.builds(OutputText, text=_WORD), st.builds(Refusal, refusal=_WORD))
_SECRETS = st.sampled_from(["signature:s", "redacted:d", "gAAAAother"])


def _message(role: str, part: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    content = st.lists(part, min_size=1, max_size=3).map(tuple)
    return st.builds(Message, id=st.just("m"), role=st.just(role), content=content)


@st.composite
def _loop(draw: st.DrawFn) -> list[ModelItem]:
    """Calls and their outputs, in any order that has each output behind its call, with words between."""
    ids = draw(st.lists(st.sampled_from(["toolu_1", "call.2:0", "c3"]), min_size=1, max_size=3, unique=True))
    items: list[ModelItem] = []
    for call_id in ids:
        arguments = draw(st.sampled_from(['{"a": 1}', "", "[1]", "{cut"]))
        items.append(FunctionCall(id="f", call_id=call_id, name=draw(_NAME), arguments=arguments))
    for call_id in draw(st.permutations(ids)):
        items += draw(st.lists(st.one_of(_message("user", _TEXT), _message("assistant", _SAID)), max_size=1))
        output = draw(st.one_of(_WORD, st.tuples(_TEXT, _IMAGE)))
        items.append(FunctionCallOutput(id="o", call_id=call_id, output=output))
    return items


_THOUGHT = st.builds(
    Reasoning,
    id=st.sampled_from(["own", "foreign", "none"]),
    content=st.tuples(st.builds(ReasoningText, text=_WORD)),
    encrypted_content=_SECRETS,
)
_ITEMS = st.lists(
    st.one_of(
        _message("user", st.one_of(_TEXT, _IMAGE, _FILE)).map(lambda item: [item]),
        _message("developer", _TEXT).map(lambda item: [item]),
        _message("assistant", _SAID).map(lambda item: [item]),
        _THOUGHT.map(lambda item: [item]),
        _loop(),
    ),
    max_size=5,
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
    max_size=3,
).map(tuple)
_CHOICES = st.builds(FunctionChoice, name=_NAME)
_PARAMS = st.builds(
    ModelParams,
    model=st.just("m"),
    instructions=st.none() | _WORD,
    tools=_TOOLS,
    tool_choice=st.one_of(
        st.sampled_from(["none", "auto", "required"]),
        _CHOICES,
        st.builds(AllowedTools, tools=st.tuples(_CHOICES), mode=st.sampled_from(["none", "auto", "required"])),
    ),
    parallel_tool_calls=st.none() | st.booleans(),
    text=st.builds(
        TextConfig,
        format=st.builds(
            JsonSchema, name=_NAME, description=st.none() | _WORD, schema=st.none() | st.just({"type": "object"})
        ),
    ),
    reasoning=st.none()
    | st.builds(
        ReasoningConfig,
        effort=st.sampled_from([None, "none", "minimal", "low", "medium", "high", "xhigh"]),
        summary=st.none() | st.just("auto"),
    ),
    max_output_tokens=st.none() | st.integers(1025, 100_000),
    temperature=st.none() | st.floats(0, 1),
    top_p=st.none() | st.floats(0, 1),
    stop=st.lists(_WORD, max_size=2).map(tuple),
    service_tier=st.sampled_from([None, "auto", "default"]),
    safety_identifier=st.none() | _WORD,
    prompt_cache_key=st.none() | _NAME,
)


@settings(max_examples=150, deadline=None)
@given(params=_PARAMS, groups=_ITEMS, stream=st.booleans(), model=st.sampled_from(["claude-opus-4-6", "claude-3-7-x"]))
def test_whatever_is_asked_fits_the_description(
    params: ModelParams, groups: Sequence[list[ModelItem]], stream: bool, model: str
) -> None:
    items = [item for group in groups for item in group]
    sidecars = {
        "own": Sidecar(origin=ORIGIN, data={"encrypted_content": "signature:own"}),
        "foreign": Sidecar(origin="openai-responses/openai", data={"encrypted_content": "signature:foreign"}),
    }
    request = ModelRequest(params=params, items=items, key="k", stream=stream, sidecars=sidecars)
    body = _check(encode_request(request, model, ORIGIN))
    roles = [message["role"] for message in body["messages"]]
    assert all(before != after for before, after in itertools.pairwise(roles))
    waiting: list[str] = []
    for message in body["messages"]:
        blocks: list[Json] = [] if isinstance(message["content"], str) else message["content"]
        kinds = [block["type"] for block in blocks]
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert sorted(results) == sorted(waiting)
        assert "tool_result" not in kinds[len(results) :]
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert not waiting
    text = msgspec.json.encode(body)
    assert b"foreign" not in text
    assert b"gAAAAother" not in text
