"""A message's body into a model request.

What Anthropic has in other words becomes the nearest neutral ones: a budget of thinking an effort,
``standard_only`` the default tier, a tool result that ``is_error`` an output that is not complete, and
``cache_control``, wherever it stands, one key of the prompt's cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from stateline.api.decode import refuse_depth
from stateline.api.messages import params as p
from stateline.api.parse import decode_exact, require_tool, require_tools
from stateline.api.parse_items import require_url
from stateline.core.calls import (
    FunctionChoice,
    FunctionTool,
    JsonSchema,
    ModelParams,
    ModelRequest,
    ReasoningConfig,
    TextConfig,
    ToolChoice,
)
from stateline.core.errors import BadRequest
from stateline.core.ids import digest
from stateline.core.items import (
    Content,
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
    ReasoningText,
)

_create = msgspec.json.Decoder(p.CreateMessage)
_count = msgspec.json.Decoder(p.CountMessageTokens)
_encode = msgspec.json.Encoder().encode
_TIERS = {"auto": "auto", "standard_only": "default"}
_BUDGETS = ((2048, "minimal"), (8192, "low"), (16_384, "medium"), (24_576, "high"))
"""Below how many tokens of thinking is which effort; above the last it is ``xhigh``."""


def parse_message(body: bytes) -> ModelRequest:
    """``POST /v1/messages``.

    Raises:
        BadRequest: the first thing that is wrong, with its code and its field.
    """
    params = decode_exact(_create, body)
    fields: dict[str, object] = {
        "max_output_tokens": params.max_tokens,
        "stop": tuple(params.stop_sequences or ()),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "service_tier": _TIERS[params.service_tier] if params.service_tier is not None else None,
        "safety_identifier": params.metadata.user_id if params.metadata is not None else None,
    }
    return _request(params, body, fields, stream=params.stream or False)


def parse_count_tokens(body: bytes) -> ModelRequest:
    """``POST /v1/messages/count_tokens``.

    Raises:
        BadRequest: the first thing that is wrong, with its code and its field.
    """
    return _request(decode_exact(_count, body), body, {}, stream=False)


def _request(
    params: p.CreateMessage | p.CountMessageTokens, body: bytes, fields: dict[str, object], *, stream: bool
) -> ModelRequest:
    items: list[ModelItem] = []
    instructions = params.system if isinstance(params.system, str) else None
    if isinstance(params.system, list) and params.system:
        parts = tuple(InputText(text=block.text) for block in params.system)
        items.append(Message(id="", role="system", content=parts))
    for at, message in enumerate(params.messages):
        _Reader(message, f"messages[{at}]", items).read()
    choice = params.tool_choice
    parallel = None if choice is None or isinstance(choice, p.NoneChoice) else choice.disable_parallel_tool_use
    wanted = {
        "model": params.model,
        "instructions": instructions,
        "tools": _tools(params.tools or (), body),
        "tool_choice": _tool_choice(params),
        "parallel_tool_calls": None if parallel is None else not parallel,
        "text": _text(params, body),
        "reasoning": _reasoning(params),
        "prompt_cache_key": _cache_key(params) if b'"cache_control"' in body else None,
    }
    made: dict[str, object] = {**wanted, **fields}
    return ModelRequest(params=ModelParams(**made), items=items, key="", stream=stream)  # type: ignore[arg-type]


def _tools(tools: Sequence[p.ToolParam], body: bytes) -> tuple[FunctionTool, ...]:
    for at, tool in enumerate(tools):
        refuse_depth(body, tool.input_schema, f"tools[{at}].input_schema")
    return tuple(
        FunctionTool(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
        for tool in tools
    )


def _tool_choice(params: p.CreateMessage | p.CountMessageTokens) -> ToolChoice:
    choice = params.tool_choice
    names = {tool.name for tool in params.tools or ()}
    if isinstance(choice, p.ToolChoiceParam):
        require_tool(choice.name, names, "tool_choice.name")
        return FunctionChoice(name=choice.name)
    if isinstance(choice, p.AnyChoice):
        return require_tools("required", names)
    return "none" if isinstance(choice, p.NoneChoice) else "auto"


def _text(params: p.CreateMessage | p.CountMessageTokens, body: bytes) -> TextConfig:
    form = params.output_config.format if params.output_config is not None else None
    if form is None:
        return TextConfig()
    refuse_depth(body, form.schema, "output_config.format.schema")
    return TextConfig(format=JsonSchema(name="output", schema=form.schema, strict=True))


def _reasoning(params: p.CreateMessage | p.CountMessageTokens) -> ReasoningConfig | None:
    thinking = params.thinking
    effort = params.output_config.effort if params.output_config is not None else None
    if isinstance(thinking, p.ThinkingDisabled):
        return ReasoningConfig(effort="none")
    found = "xhigh" if effort == "max" else effort
    if thinking is None:
        return ReasoningConfig(effort=found) if found is not None else None
    if isinstance(thinking, p.ThinkingEnabled) and found is None:
        budget = thinking.budget_tokens
        found = next((name for limit, name in _BUDGETS if budget < limit), "xhigh")
    # Without an effort, adaptive thinking has the format's default.
    found = found or "high"
    shown = "auto" if thinking.display == "summarized" else None
    return msgspec.convert({"effort": found, "summary": shown}, ReasoningConfig)


def _cache_key(params: p.CreateMessage | p.CountMessageTokens) -> str:
    """The same for all requests that begin alike."""
    return "cc_" + digest(_encode(params.tools), _encode(params.system))


# -- messages to items ----------------------------------------------------------------------------------


class _Reader:
    """One message as items: what is said, called and thought stands in items of its own, in order."""

    def __init__(self, message: p.MessageParam, at: str, items: list[ModelItem]) -> None:
        self._message = message
        self._at = at
        self._items = items
        self._parts: list[Content] = []

    def read(self) -> None:
        content = self._message.content
        if isinstance(content, str):
            self._say(content)
        else:
            for number, block in enumerate(content):
                self._block(block, f"{self._at}.content[{number}]")
        self._flush()

    def _say(self, text: str) -> None:
        self._parts.append(OutputText(text=text) if self._message.role == "assistant" else InputText(text=text))

    def _flush(self) -> None:
        if self._parts:
            self._items.append(Message(id="", role=self._message.role, content=tuple(self._parts)))
            self._parts = []

    def _add(self, item: ModelItem) -> None:
        self._flush()
        self._items.append(item)

    def _block(self, block: p.ContentBlock, at: str) -> None:
        self._require(block, at)
        match block:
            case p.TextBlock():
                self._say(block.text)
            case p.ImageBlock() | p.DocumentBlock():
                self._parts.append(_part(block, at))
            case p.ToolUseBlock():
                arguments = _encode(block.input).decode()
                self._add(FunctionCall(id="", call_id=block.id, name=block.name, arguments=arguments))
            case p.ToolResultBlock():
                self._add(_output(block, at))
            case p.ThinkingBlock():
                thought = (ReasoningText(text=block.thinking),) if block.thinking else UNSET
                self._add(Reasoning(id="", content=thought, encrypted_content=block.signature or UNSET))
            case p.RedactedThinkingBlock():
                self._add(Reasoning(id="", encrypted_content=block.data))

    def _require(self, block: p.ContentBlock, at: str) -> None:
        """Refuse a block in a message of the wrong role."""
        role = self._message.role
        if isinstance(block, p.TextBlock):
            return
        theirs = isinstance(block, p.ToolUseBlock | p.ThinkingBlock | p.RedactedThinkingBlock)
        if role == "system" or theirs != (role == "assistant"):
            kind = block.__struct_config__.tag
            text = f"Invalid value for '{at}.type': a message of the role {role} has no {kind} blocks."
            raise BadRequest(text, code="invalid_value", param=f"{at}.type")


def _part(block: p.TextBlock | p.ImageBlock | p.DocumentBlock, at: str) -> InputContent:
    if isinstance(block, p.TextBlock):
        return InputText(text=block.text)
    source = block.source
    if isinstance(block, p.ImageBlock):
        if isinstance(source, p.UrlSource):
            return InputImage(image_url=require_url(source.url, f"{at}.source.url"))
        assert isinstance(source, p.Base64Source)
        return InputImage(image_url=f"data:{source.media_type};base64,{source.data}")
    name = block.title if block.title else UNSET
    if isinstance(source, p.UrlSource):
        return InputFile(filename=name, file_url=require_url(source.url, f"{at}.source.url"))
    if isinstance(source, p.TextSource):
        return InputText(text=f"{block.title}\n\n{source.data}" if block.title else source.data)
    return InputFile(filename=name, file_data=f"data:{source.media_type};base64,{source.data}")


def _output(block: p.ToolResultBlock, at: str) -> FunctionCallOutput:
    output = block.content if block.content is not None else ""
    if not isinstance(output, str):
        output = tuple(_part(part, f"{at}.content[{number}]") for number, part in enumerate(output))
    status = "incomplete" if block.is_error else "completed"
    return FunctionCallOutput(id="", call_id=block.tool_use_id, output=output, status=status)
