"""A chat completion's body into a model request."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from stateline.api.chat import params as p
from stateline.api.decode import refuse_depth
from stateline.api.parse import decode_exact, require_tool, require_tools
from stateline.api.parse_items import require_url
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
    ToolChoice,
)
from stateline.core.errors import BadRequest
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
    ReasoningText,
    Refusal,
)

_decoder = msgspec.json.Decoder(p.CreateChatCompletion)
_PLAIN = TextConfig()


class ParsedChat(msgspec.Struct, frozen=True, kw_only=True):
    """``include_usage``: a stream ends with a chunk that holds the usage."""

    request: ModelRequest
    include_usage: bool = False


def parse_chat(body: bytes) -> ParsedChat:
    """``POST /v1/chat/completions``.

    Raises:
        BadRequest: the first thing that is wrong, with its code and its field.
    """
    params = decode_exact(_decoder, body)
    if params.store:
        raise BadRequest(
            "Unsupported parameter: 'store' may not be true here; use /v1/responses, which keeps what it answers.",
            code="unsupported_parameter",
            param="store",
        )
    if params.top_logprobs is not None and not params.logprobs:
        raise BadRequest("'top_logprobs' needs 'logprobs' to be true.", code="invalid_value", param="top_logprobs")
    names = {tool.function.name for tool in params.tools or ()}
    stop = (params.stop,) if isinstance(params.stop, str) else tuple(params.stop or ())
    model_params = ModelParams(
        model=params.model,
        tools=_tools(params.tools or (), body),
        tool_choice=_tool_choice(params.tool_choice, names),
        parallel_tool_calls=params.parallel_tool_calls,
        text=_text(params, body),
        reasoning=ReasoningConfig(effort=params.reasoning_effort) if params.reasoning_effort is not None else None,
        max_output_tokens=params.max_completion_tokens or params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        top_logprobs=params.top_logprobs,
        logprobs=params.logprobs or False,
        service_tier=params.service_tier,
        safety_identifier=params.safety_identifier,
        prompt_cache_key=params.prompt_cache_key,
        user=params.user,
        stop=stop,
        seed=params.seed,
    )
    items: list[ModelItem] = []
    for at, message in enumerate(params.messages):
        items += _items(message, at)
    options = params.stream_options
    return ParsedChat(
        request=ModelRequest(params=model_params, items=items, key="", stream=params.stream or False),
        include_usage=bool(options and options.include_usage),
    )


def _items(message: p.ChatMessage, at: int) -> list[ModelItem]:
    """One message as items; an assistant's may be a reasoning, a message and calls."""
    if isinstance(message, p.AssistantMessage):
        return _assistant(message)
    if isinstance(message, p.ToolMessage):
        output = message.content
        if not isinstance(output, str):
            output = tuple(InputText(text=part.text) for part in output)
        return [FunctionCallOutput(id="", call_id=message.tool_call_id, output=output)]
    content = message.content
    parts: tuple[Content, ...]
    if isinstance(content, str):
        parts = (InputText(text=content),)
    else:
        parts = tuple(_part(part, f"messages[{at}].content[{number}]") for number, part in enumerate(content))
    if isinstance(message, p.UserMessage):
        return [Message(id="", role="user", content=parts)]
    return [Message(id="", role="system" if isinstance(message, p.SystemMessage) else "developer", content=parts)]


def _part(part: p.TextPart | p.ImagePart | p.FilePart, at: str) -> Content:
    if isinstance(part, p.TextPart):
        return InputText(text=part.text)
    if isinstance(part, p.ImagePart):
        image = part.image_url
        return InputImage(image_url=require_url(image.url, f"{at}.image_url.url"), detail=image.detail or "auto")
    file = part.file
    return InputFile(filename=UNSET if file.filename is None else file.filename, file_data=file.file_data)


def _assistant(message: p.AssistantMessage) -> list[ModelItem]:
    items: list[ModelItem] = []
    if message.reasoning_content:
        items.append(Reasoning(id="", content=(ReasoningText(text=message.reasoning_content),)))
    parts: list[Content] = []
    if isinstance(message.content, str):
        parts.append(OutputText(text=message.content))
    else:
        for part in message.content or ():
            text = isinstance(part, p.TextPart)
            parts.append(OutputText(text=part.text) if text else Refusal(refusal=part.refusal))
    if message.refusal:
        parts.append(Refusal(refusal=message.refusal))
    calls = message.tool_calls or ()
    if parts and not (calls and parts == [OutputText(text="")]):
        # Providers put an empty text beside calls; as a message of its own it would say nothing.
        items.append(Message(id="", role="assistant", content=tuple(parts)))
    items += [
        FunctionCall(id="", call_id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in calls
    ]
    return items


def _tools(tools: Sequence[p.ChatTool], body: bytes) -> tuple[FunctionTool, ...]:
    for at, tool in enumerate(tools):
        refuse_depth(body, tool.function.parameters, f"tools[{at}].function.parameters")
    return tuple(
        FunctionTool(
            name=tool.function.name,
            description=tool.function.description,
            parameters=tool.function.parameters,
            strict=tool.function.strict,
        )
        for tool in tools
    )


def _tool_choice(choice: str | p.NamedChoice | p.AllowedChoice | None, names: set[str]) -> ToolChoice:
    if choice is None:
        return "auto"
    if isinstance(choice, p.NamedChoice):
        require_tool(choice.function.name, names, "tool_choice.function.name")
        return FunctionChoice(name=choice.function.name)
    if isinstance(choice, p.AllowedChoice):
        allowed = choice.allowed_tools
        for at, tool in enumerate(allowed.tools):
            require_tool(tool.function.name, names, f"tool_choice.allowed_tools.tools[{at}].function.name")
        chosen = tuple(FunctionChoice(name=tool.function.name) for tool in allowed.tools)
        return AllowedTools(tools=chosen, mode=allowed.mode)
    return require_tools(choice, names)


def _text(params: p.CreateChatCompletion, body: bytes) -> TextConfig:
    form = params.response_format
    if form is None and params.verbosity is None:
        return _PLAIN
    plain: TextPlain | JsonObject | JsonSchema = TextPlain()
    if isinstance(form, p.JsonSchemaFormat):
        spec = form.json_schema
        refuse_depth(body, spec.schema, "response_format.json_schema.schema")
        plain = JsonSchema(
            name=spec.name, description=spec.description, schema=spec.schema, strict=spec.strict or False
        )
    elif isinstance(form, p.JsonObjectFormat):
        plain = JsonObject()
    return TextConfig(format=plain, verbosity=params.verbosity)
