"""Values of a model call: what is asked, what comes back, and in which pieces.

Everything is neutral: a wire format turns a ModelRequest into bytes and bytes into deltas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import msgspec

from stateline.core.items import ModelItem, Phase, Sidecar, UrlCitation

ToolMode = Literal["none", "auto", "required"]
FinishReason = Literal[
    "stop",
    "tool_calls",
    "length",
    "content_filter",
    "cancelled",
    "max_output_bytes",
    "max_wall_time",
]


class FunctionTool(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="function"):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="function"):
    name: str


class AllowedTools(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="allowed_tools"):
    """All tools stay in the prompt (and its cache); only these may be called."""

    tools: tuple[FunctionChoice, ...]
    mode: ToolMode = "auto"


ToolChoice = ToolMode | FunctionChoice | AllowedTools


class TextPlain(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="text"):
    pass


class JsonObject(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="json_object"):
    pass


class JsonSchema(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="json_schema"):
    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool = False


class TextConfig(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    format: TextPlain | JsonObject | JsonSchema = TextPlain()
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["concise", "detailed", "auto"] | None = None


class ModelParams(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a call asks of a model, its items apart. ``None`` means: the model's own default."""

    model: str
    instructions: str | None = None
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool | None = None
    text: TextConfig = TextConfig()
    reasoning: ReasoningConfig | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_logprobs: int | None = None
    logprobs: bool = False
    include: tuple[str, ...] = ()
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


class EmbeddingParams(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What to make vectors of: ``input`` is JSON, a text, texts, tokens, or lists of tokens."""

    input: msgspec.Raw
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None


class ModelRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One model call.

    ``sidecars`` maps item ids to what their providers need back. ``key`` is the effect's key;
    ``stream`` asks the provider for a stream. ``embed`` asks for vectors, and for nothing else.
    """

    params: ModelParams
    items: Sequence[ModelItem]
    key: str
    stream: bool = True
    sidecars: Mapping[str, Sidecar] = {}
    embed: EmbeddingParams | None = None


class Usage(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Tokens of a call. ``cached`` (read from a cache) and ``cache_write`` are parts of input, ``reasoning``
    of output."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


# -- what a model says, piece by piece --------------------------------------------------------------
# A text opens the item and part that it needs; ItemStart and PartStart force a new one where two of
# a kind follow one another. Function calls may be open side by side, told apart by `index`.


@final
class ItemStart(msgspec.Struct, frozen=True, gc=False):
    """A new message or reasoning item begins, whatever was open."""

    kind: Literal["message", "reasoning"]
    phase: Phase | None = None


@final
class PartStart(msgspec.Struct, frozen=True, gc=False):
    """A new part of the same kind as the open one begins."""


@final
class TextDelta(msgspec.Struct, frozen=True, gc=False):
    text: str
    logprobs: list[dict[str, Any]] | None = None


@final
class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    text: str


@final
class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    text: str


@final
class SummaryDelta(msgspec.Struct, frozen=True, gc=False):
    text: str


@final
class AnnotationDelta(msgspec.Struct, frozen=True, gc=False):
    """Belongs to the open output text."""

    annotation: UrlCitation


@final
class CallStart(msgspec.Struct, frozen=True, gc=False):
    index: int
    call_id: str
    name: str


@final
class CallDelta(msgspec.Struct, frozen=True, gc=False):
    index: int
    arguments: str


@final
class SidecarDelta(msgspec.Struct, frozen=True, gc=False):
    """Data for the origin alone. It is kept beside the open item, or the last one closed.

    The key ``encrypted_content`` of a reasoning item is shown in the item as well.
    """

    data: dict[str, Any]


@final
class Finish(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The last delta of every call that did not fail. ``usage`` is None where the provider gave none.

    ``embeddings`` are OpenAI's embedding objects, a JSON array, where vectors were asked for.
    """

    reason: FinishReason
    usage: Usage | None = None
    upstream_id: str | None = None
    upstream_model: str | None = None
    service_tier: str | None = None
    embeddings: msgspec.Raw | None = None


ModelDelta = (
    ItemStart
    | PartStart
    | TextDelta
    | RefusalDelta
    | ReasoningDelta
    | SummaryDelta
    | AnnotationDelta
    | CallStart
    | CallDelta
    | SidecarDelta
    | Finish
)
