"""Bad requests, and what each is answered with. One table, so that a gap is seen."""

from __future__ import annotations

from typing import Any, NamedTuple

MODEL = "scripted"
GOOD: dict[str, Any] = {"model": MODEL, "input": "hello"}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
TOOL: dict[str, Any] = {"type": "function", "name": "look_up", "parameters": {"type": "object"}}
CHAT_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look_up"}}
NOTHING: dict[str, Any] = {}
UNKNOWN_RESPONSE = "resp_06h01e6hnzz6fb1mkb1vv70j000000001"
UNKNOWN_CONVERSATION = "conv_06h01e6hnzz6fb1mkb1vv70j"


class Bad(NamedTuple):
    name: str
    method: str
    path: str
    body: object
    status: int
    code: str
    param: str | None
    headers: dict[str, str] = {}  # noqa: RUF012


def _nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"properties": value}
    return value


def response(name: str, code: str, param: str | None, status: int = 400, /, **fields: Any) -> Bad:
    """A body of ``POST /v1/responses`` that is good but for ``fields``."""
    return Bad(f"responses: {name}", "POST", "/v1/responses", {**GOOD, **fields}, status, code, param)


def item(name: str, code: str, param: str | None, value: object, status: int = 400) -> Bad:
    """One input item that is wrong; ``param`` is relative to the item."""
    where = f"input[0]{param}" if param is not None else "input[0]"
    body = {**GOOD, "input": [value]}
    return Bad(f"item: {name}", "POST", "/v1/responses", body, status, code, where)


def part(name: str, code: str, param: str, value: object) -> Bad:
    """One content part of a user message that is wrong."""
    return item(f"part: {name}", code, f".content[0]{param}", {"role": "user", "content": [value]})


def raw(name: str, body: bytes, code: str = "invalid_json", param: str | None = None) -> Bad:
    return Bad(f"body: {name}", "POST", "/v1/responses", body, 400, code, param)


def chat(name: str, code: str, param: str | None, status: int = 400, /, **fields: Any) -> Bad:
    return Bad(f"chat: {name}", "POST", "/v1/chat/completions", {**CHAT, **fields}, status, code, param)


def message(name: str, code: str, param: str, value: object) -> Bad:
    body = {**CHAT, "messages": [value]}
    return Bad(f"chat message: {name}", "POST", "/v1/chat/completions", body, 400, code, f"messages[0]{param}")


def get(name: str, path: str, status: int, code: str, param: str | None) -> Bad:
    return Bad(name, "GET", path, None, status, code, param)


_RAW = [
    raw("empty", b""),
    raw("only spaces", b"   \n"),
    raw("cut", b'{"model": "scripted", "input": '),
    raw("not JSON", b"model=scripted"),
    raw("an array", b"[]", "invalid_type"),
    raw("a string", b'"hello"', "invalid_type"),
    raw("null", b"null", "invalid_type"),
    raw("a number", b"12", "invalid_type"),
    raw("two values", b'{"model": "scripted", "input": "x"} {}'),
    raw("a trailing comma", b'{"model": "scripted",}'),
    raw("single quotes", b"{'model': 'scripted'}"),
    raw("NaN", b'{"model": "scripted", "input": "x", "temperature": NaN}'),
    raw("Infinity", b'{"model": "scripted", "input": "x", "temperature": Infinity}'),
    raw("a number out of range", b'{"model": "scripted", "input": "x", "top_p": 1e999}', "invalid_value", "top_p"),
    raw("a huge integer", b'{"model": "scripted", "input": "x", "max_output_tokens": ' + b"9" * 400 + b"}",
        "integer_above_max_value", "max_output_tokens"),
    raw("invalid UTF-8", b'{"model": "scripted", "input": "\xff\xfe"}'),
    raw("a lone surrogate", b'{"model": "scripted", "input": "\\ud800"}'),
    raw("a lone surrogate in an item", b'{"model": "scripted", "input": [{"role": "user", "content": "\\udfff"}]}'),
    raw("UTF-16", '{"model": "scripted"}'.encode("utf-16")),
    raw("a byte order mark", b'\xef\xbb\xbf{"model": "scripted", "input": "x"}'),
    raw("a control character", b'{"model": "scripted", "input": "a\x01"}'),
    raw("a NUL byte", b'{"model": "scripted", "input": "x"}\x00'),
    raw("nested 100,000 deep", b'{"model": "scripted", "input": ' + b"[" * 100_000),
    raw("an item nested deep", b'{"model": "scripted", "input": [' + b'{"a":' * 50_000),
    raw("a field twice", b'{"model": "scripted", "input": "x", "model": "other"}', "duplicate_parameter", "model"),
    raw("a field twice, once escaped", b'{"model": "scripted", "input": "x", "m\\u006fdel": "other"}',
        "duplicate_parameter", "model"),
    raw("input twice", b'{"input": "y", "model": "scripted", "input": "x"}', "duplicate_parameter", "input"),
]  # fmt: skip

_FIELDS = [
    response("unknown field", "unknown_parameter", "colour", colour="red"),
    response("unknown field of a longer name", "unknown_parameter", "x" * 200 + "…", **{"x" * 300: 1}),
    response("unknown field that is null", "unknown_parameter", "colour", colour=None),
    Bad("responses: no model", "POST", "/v1/responses", {"input": "x"}, 400, "missing_required_parameter", "model"),
    Bad("responses: no input", "POST", "/v1/responses", {"model": MODEL}, 400, "missing_required_parameter", "input"),
    response("null model", "invalid_type", "model", model=None),
    response("numeric model", "invalid_type", "model", model=5),
    response("empty model", "string_below_min_length", "model", model=""),
    response("long model", "string_above_max_length", "model", model="m" * 257),
    response("unknown model", "model_not_found", "model", 404, model="gpt-99"),
    response("numeric input", "invalid_type", "input", input=5),
    response("object input", "invalid_type", "input", input={"role": "user", "content": "x"}),
    response("empty input", "missing_required_parameter", "input", input=[]),
    response("null input", "missing_required_parameter", "input", input=None),
    response("too many items", "array_above_max_length", "input", input=[{"role": "user", "content": ""}] * 10_001),
    response("numeric instructions", "invalid_type", "instructions", instructions=1),
    response("array instructions", "invalid_type", "instructions", instructions=["x"]),
    response("string stream", "invalid_type", "stream", stream="true"),
    response("numeric store", "invalid_type", "store", store=1),
    response("string background", "invalid_type", "background", background="yes"),
    response("background that is not stored", "invalid_value", "store", background=True, store=False),
    response("cold temperature", "decimal_below_min_value", "temperature", temperature=-0.1),
    response("hot temperature", "decimal_above_max_value", "temperature", temperature=2.01),
    response("string temperature", "invalid_type", "temperature", temperature="1"),
    response("boolean temperature", "invalid_type", "temperature", temperature=True),
    response("top_p below", "decimal_below_min_value", "top_p", top_p=-1),
    response("top_p above", "decimal_above_max_value", "top_p", top_p=1.5),
    response("presence_penalty above", "decimal_above_max_value", "presence_penalty", presence_penalty=2.5),
    response("frequency_penalty below", "decimal_below_min_value", "frequency_penalty", frequency_penalty=-3),
    response("few output tokens", "integer_below_min_value", "max_output_tokens", max_output_tokens=15),
    response("negative output tokens", "integer_below_min_value", "max_output_tokens", max_output_tokens=-1),
    response("fractional output tokens", "invalid_type", "max_output_tokens", max_output_tokens=16.5),
    response("no tool calls", "integer_below_min_value", "max_tool_calls", max_tool_calls=0),
    response("many logprobs", "integer_above_max_value", "top_logprobs", top_logprobs=21),
    response("negative logprobs", "integer_below_min_value", "top_logprobs", top_logprobs=-1),
    response("unknown truncation", "invalid_value", "truncation", truncation="middle"),
    response("unknown service tier", "invalid_value", "service_tier", service_tier="gold"),
    response("unknown include", "invalid_value", "include[0]", include=["everything"]),
    response("string include", "invalid_type", "include", include="reasoning.encrypted_content"),
    response("metadata list", "invalid_type", "metadata", metadata=["a"]),
    response("metadata number", "invalid_type", "metadata", metadata={"a": 1}),
    response("metadata nested", "invalid_type", "metadata", metadata={"a": {"b": "c"}}),
    response("metadata of 17", "object_above_max_properties", "metadata", metadata={str(at): "" for at in range(17)}),
    response("metadata long key", "string_above_max_length", "metadata", metadata={"k" * 65: "v"}),
    response("metadata long value", "string_above_max_length", "metadata", metadata={"k": "v" * 513}),
    response("long safety_identifier", "string_above_max_length", "safety_identifier", safety_identifier="s" * 65),
    response("long prompt_cache_key", "string_above_max_length", "prompt_cache_key", prompt_cache_key="s" * 65),
    response("numeric user", "invalid_type", "user", user=7),
    response("stream_options string", "invalid_type", "stream_options", stream_options="x"),
    response("stream_options unknown", "unknown_parameter", "stream_options.x", stream_options={"x": 1}),
    response("prompt", "unsupported_parameter", "prompt", prompt={"id": "pmpt_1"}),
    response("moderation", "unsupported_parameter", "moderation", moderation={"model": "m"}),
    response("context_management", "unsupported_parameter", "context_management",
             context_management=[{"type": "compaction"}]),
    response("prompt_cache_retention", "unsupported_parameter", "prompt_cache_retention",
             prompt_cache_retention="24h"),
    response("reasoning string", "invalid_type", "reasoning", reasoning="high"),
    response("reasoning effort", "invalid_value", "reasoning.effort", reasoning={"effort": "max"}),
    response("reasoning summary", "invalid_value", "reasoning.summary", reasoning={"summary": "long"}),
    response("reasoning unknown", "unknown_parameter", "reasoning.depth", reasoning={"depth": 3}),
    response("text string", "invalid_type", "text", text="json"),
    response("text verbosity", "invalid_value", "text.verbosity", text={"verbosity": "max"}),
    response("text format string", "invalid_type", "text.format", text={"format": "json_object"}),
    response("text format type", "invalid_value", "text.format.type", text={"format": {"type": "grammar"}}),
    response("text format without type", "missing_required_parameter", "text.format.type", text={"format": {}}),
    response("schema without name", "missing_required_parameter", "text.format.name",
             text={"format": {"type": "json_schema", "schema": {}}}),
    response("schema without schema", "missing_required_parameter", "text.format.schema",
             text={"format": {"type": "json_schema", "name": "a"}}),
    response("schema with a bad name", "invalid_value", "text.format.name",
             text={"format": {"type": "json_schema", "name": "a b", "schema": {}}}),
    response("schema that is a string", "invalid_type", "text.format.schema",
             text={"format": {"type": "json_schema", "name": "a", "schema": "{}"}}),
    response("schema nested deep", "nested_too_deep", "text.format.schema",
             text={"format": {"type": "json_schema", "name": "a", "schema": _nested(80)}}),
]  # fmt: skip

_TOOLS = [
    response("tools object", "invalid_type", "tools", tools=TOOL),
    response("tool string", "invalid_type", "tools[0]", tools=["look_up"]),
    response("129 tools", "array_above_max_length", "tools", tools=[{**TOOL, "name": f"t{at}"} for at in range(129)]),
    response("tool without type", "missing_required_parameter", "tools[0].type", tools=[{"name": "a"}]),
    response("tool without name", "missing_required_parameter", "tools[0].name", tools=[{"type": "function"}]),
    response("tool with an empty name", "string_below_min_length", "tools[0].name", tools=[{**TOOL, "name": ""}]),
    response("tool with a long name", "string_above_max_length", "tools[0].name", tools=[{**TOOL, "name": "n" * 65}]),
    response("tool with a bad name", "invalid_value", "tools[0].name", tools=[{**TOOL, "name": "look up"}]),
    response("tool name with a newline", "invalid_value", "tools[0].name", tools=[{**TOOL, "name": "look_up\n"}]),
    response("second tool at fault", "invalid_type", "tools[1].strict", tools=[TOOL, {**TOOL, "strict": "yes"}]),
    response("parameters string", "invalid_type", "tools[0].parameters", tools=[{**TOOL, "parameters": "{}"}]),
    response("parameters nested deep", "nested_too_deep", "tools[0].parameters",
             tools=[{**TOOL, "parameters": _nested(70)}]),
    response("tool with an unknown field", "unknown_parameter", "tools[0].colour", tools=[{**TOOL, "colour": 1}]),
    response("tool with defer_loading", "unsupported_parameter", "tools[0].defer_loading",
             tools=[{**TOOL, "defer_loading": True}]),
    *(
        response(f"hosted tool {kind}", "unsupported_tool_type", "tools[0].type", tools=[{"type": kind, **more}])
        for kind, more in (
            ("web_search", {}),
            ("web_search_preview", {"search_context_size": "low"}),
            ("file_search", {"vector_store_ids": ["vs_1"]}),
            ("code_interpreter", {"container": {"type": "auto"}}),
            ("image_generation", {}),
            ("local_shell", {}),
            ("custom", {"name": "a"}),
        )
    ),
    response("hosted tool, type last", "unsupported_tool_type", "tools[0].type",
             tools=[{"server_label": "a", "type": "file_search"}]),
    response("mcp server unknown", "unknown_server", "tools[0].server_label",
             tools=[{"type": "mcp", "server_label": "a"}]),
    response("mcp server without label", "missing_required_parameter", "tools[0].server_label",
             tools=[{"type": "mcp", "server_url": "https://example.com"}]),
    response("mcp server at no URL", "invalid_url", "tools[0].server_url",
             tools=[{"type": "mcp", "server_label": "a", "server_url": "file:///etc/passwd"}]),
    response("mcp servers of one label", "duplicate_server_label", "tools[1].server_label",
             tools=[{"type": "mcp", "server_label": "a", "server_url": "https://example.com"}] * 2),
    response("mcp server of the runtime's own label", "server_label_reserved", "tools[0].server_label",
             tools=[{"type": "mcp", "server_label": "Stateline", "server_url": "https://example.com"}]),
    response("mcp header with a line break", "invalid_value", "tools[0].headers",
             tools=[{"type": "mcp", "server_label": "a", "server_url": "https://example.com",
                     "headers": {"X-A": "b\r\nC: d"}}]),
    response("mcp connector", "unsupported_parameter", "tools[0].connector_id",
             tools=[{"type": "mcp", "server_label": "a", "connector_id": "connector_gmail"}]),
    response("unknown tool_choice", "invalid_value", "tool_choice", tool_choice="always"),
    response("numeric tool_choice", "invalid_type", "tool_choice", tool_choice=1),
    response("tool_choice without type", "missing_required_parameter", "tool_choice.type", tool_choice={}),
    response("hosted tool_choice", "unsupported_tool_type", "tool_choice.type", tool_choice={"type": "file_search"}),
    response("tool_choice without name", "missing_required_parameter", "tool_choice.name",
             tool_choice={"type": "function"}),
    response("tool_choice not offered", "invalid_value", "tool_choice.name", tools=[TOOL],
             tool_choice={"type": "function", "name": "other"}),
    response("required without tools", "invalid_value", "tool_choice", tool_choice="required"),
    response("allowed_tools empty", "array_below_min_length", "tool_choice.tools", tools=[TOOL],
             tool_choice={"type": "allowed_tools", "tools": []}),
    response("allowed_tools mode", "invalid_value", "tool_choice.mode", tools=[TOOL],
             tool_choice={"type": "allowed_tools", "mode": "x", "tools": [{"type": "function", "name": "look_up"}]}),
    response("allowed_tools not offered", "invalid_value", "tool_choice.tools[0].name", tools=[TOOL],
             tool_choice={"type": "allowed_tools", "tools": [{"type": "function", "name": "other"}]}),
]  # fmt: skip

_ITEMS = [
    item("number", "invalid_type", None, 5),
    item("string", "invalid_type", None, "hello"),
    item("null", "invalid_type", None, None),
    item("array", "invalid_type", None, []),
    item("empty object", "missing_required_parameter", ".id", {}),
    item("numeric type", "invalid_type", ".type", {"type": 3}),
    item("unknown type", "invalid_value", ".type", {"type": "thought"}),
    item("hosted tool item", "unsupported_item_type", ".type", {"type": "web_search_call", "id": "ws_1"}),
    item("message without role", "missing_required_parameter", ".role", {"type": "message", "content": "x"}),
    item("unknown role", "invalid_value", ".role", {"role": "robot", "content": "x"}),
    item("numeric role", "invalid_type", ".role", {"role": 1, "content": "x"}),
    item("message without content", "missing_required_parameter", ".content", {"role": "user"}),
    item("null content", "invalid_type", ".content", {"role": "user", "content": None}),
    item("numeric content", "invalid_type", ".content", {"role": "user", "content": 1}),
    item("long content", "string_above_max_length", ".content", {"role": "user", "content": "x" * 10_485_761}),
    item("unknown status", "invalid_value", ".status", {"role": "user", "content": "x", "status": "odd"}),
    item("unknown field", "unknown_parameter", ".mood", {"role": "user", "content": "x", "mood": "good"}),
    item("long id", "string_above_max_length", ".id", {"role": "user", "content": "x", "id": "i" * 129}),
    item("phase of a user", "unsupported_parameter", ".phase", {"role": "user", "content": "x", "phase": "commentary"}),
    item("unknown phase", "invalid_value", ".phase", {"role": "assistant", "content": "x", "phase": "thinking"}),
    item("system image", "invalid_value", ".content[0].type",
         {"role": "system", "content": [{"type": "input_image", "image_url": "https://x"}]}),
    item("assistant input_text", "invalid_value", ".content[0].type",
         {"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}),
    item("user output_text", "invalid_value", ".content[0].type",
         {"role": "user", "content": [{"type": "output_text", "text": "x"}]}),
    item("refusal without text", "missing_required_parameter", ".content[0].refusal",
         {"role": "assistant", "content": [{"type": "refusal"}]}),
    item("annotation of another type", "invalid_value", ".content[0].annotations[0].type",
         {"role": "assistant", "content": [
             {"type": "output_text", "text": "x", "annotations": [{"type": "file_citation"}]}]}),
    item("call without call_id", "missing_required_parameter", ".call_id",
         {"type": "function_call", "name": "a", "arguments": "{}"}),
    item("call with a long call_id", "string_above_max_length", ".call_id",
         {"type": "function_call", "call_id": "c" * 65, "name": "a", "arguments": "{}"}),
    item("call with an empty call_id", "string_below_min_length", ".call_id",
         {"type": "function_call", "call_id": "", "name": "a", "arguments": "{}"}),
    item("call with object arguments", "invalid_type", ".arguments",
         {"type": "function_call", "call_id": "c", "name": "a", "arguments": {}}),
    item("call with a bad name", "invalid_value", ".name",
         {"type": "function_call", "call_id": "c", "name": "a.b", "arguments": "{}"}),
    item("call with a namespace", "unsupported_parameter", ".namespace",
         {"type": "function_call", "call_id": "c", "name": "a", "arguments": "{}", "namespace": "n"}),
    item("output without output", "missing_required_parameter", ".output",
         {"type": "function_call_output", "call_id": "c"}),
    item("output of a number", "invalid_type", ".output",
         {"type": "function_call_output", "call_id": "c", "output": 3}),
    item("output with output_text", "invalid_value", ".output[0].type",
         {"type": "function_call_output", "call_id": "c", "output": [{"type": "output_text", "text": "x"}]}),
    item("reasoning without summary", "missing_required_parameter", ".summary", {"type": "reasoning"}),
    item("reasoning summary string", "invalid_type", ".summary", {"type": "reasoning", "summary": "x"}),
    item("reasoning summary part", "invalid_value", ".summary[0].type",
         {"type": "reasoning", "summary": [{"type": "text", "text": "x"}]}),
    item("compaction without content", "missing_required_parameter", ".encrypted_content", {"type": "compaction"}),
    item("reference without id", "missing_required_parameter", ".id", {"type": "item_reference"}),
    item("reference to nothing", "item_not_found", ".id", {"type": "item_reference", "id": "msg_1"}, 404),
    item("reference to an unknown item of ours", "item_not_found", ".id",
         {"id": "msg_06h01e6hnzz6fb1mkb1vv70jt1s0i0"}, 404),
    Bad("item: call without an output", "POST", "/v1/responses",
        {**GOOD, "input": [{"type": "function_call", "call_id": "c", "name": "a", "arguments": "{}"}]},
        400, "missing_tool_output", "input"),
    part("string", "invalid_type", "", "x"),
    part("without type", "missing_required_parameter", ".type", {"text": "x"}),
    part("unknown type", "invalid_value", ".type", {"type": "input_smell"}),
    part("audio", "invalid_value", ".type", {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
    part("text without text", "missing_required_parameter", ".text", {"type": "input_text"}),
    part("numeric text", "invalid_type", ".text", {"type": "input_text", "text": 1}),
    part("image without URL", "missing_required_parameter", ".image_url", {"type": "input_image"}),
    part("image with an empty URL", "missing_required_parameter", ".image_url",
         {"type": "input_image", "image_url": ""}),
    part("image of a file scheme", "invalid_url", ".image_url",
         {"type": "input_image", "image_url": "file:///etc/passwd"}),
    part("image detail", "invalid_value", ".detail",
         {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "ultra"}),
    part("image by file id", "unsupported_parameter", ".file_id", {"type": "input_image", "file_id": "file_1"}),
    part("image URL object", "invalid_type", ".image_url",
         {"type": "input_image", "image_url": {"url": "https://example.com"}}),
    part("file without content", "missing_required_parameter", ".file_data", {"type": "input_file"}),
    part("file by id", "unsupported_parameter", ".file_id", {"type": "input_file", "file_id": "file_1"}),
    part("file of a file scheme", "invalid_url", ".file_url", {"type": "input_file", "file_url": "file:///etc"}),
]  # fmt: skip

_CONTEXT = [
    response("unknown previous response", "previous_response_not_found", "previous_response_id",
             previous_response_id=UNKNOWN_RESPONSE),
    response("previous response of no id", "previous_response_not_found", "previous_response_id",
             previous_response_id="nonsense"),
    response("numeric previous response", "invalid_type", "previous_response_id", previous_response_id=1),
    response("empty previous response", "string_below_min_length", "previous_response_id", previous_response_id=""),
    response("unknown conversation", "conversation_not_found", "conversation", 404, conversation=UNKNOWN_CONVERSATION),
    response("conversation of no id", "conversation_not_found", "conversation", 404, conversation="nonsense"),
    response("conversation object without id", "missing_required_parameter", "conversation.id", conversation={}),
    response("conversation number", "invalid_type", "conversation", conversation=1),
    response("conversation and previous response", "mutually_exclusive_parameters", "previous_response_id",
             conversation=UNKNOWN_CONVERSATION, previous_response_id=UNKNOWN_RESPONSE),
]  # fmt: skip

_HEADERS = [
    Bad("header: form", "POST", "/v1/responses", b"model=a", 415, "unsupported_media_type", None,
        {"content-type": "application/x-www-form-urlencoded"}),
    Bad("header: text", "POST", "/v1/responses", GOOD, 415, "unsupported_media_type", None,
        {"content-type": "text/plain"}),
    Bad("header: unknown dialect", "POST", "/v1/responses", GOOD, 400, "invalid_value", "Stateline-Dialect",
        {"stateline-dialect": "klingon"}),
    Bad("header: long idempotency key", "POST", "/v1/responses", GOOD, 400, "invalid_idempotency_key",
        "Idempotency-Key", {"idempotency-key": "k" * 256}),
    Bad("header: idempotency key with a tab", "POST", "/v1/responses", GOOD, 400, "invalid_idempotency_key",
        "Idempotency-Key", {"idempotency-key": "a\tb"}),
    Bad("header: too long a body", "POST", "/v1/responses", b"{}", 413, "request_too_large", None,
        {"content-length": str(32 * 1024 * 1024 + 1)}),
]  # fmt: skip

_CHAT = [
    chat("unknown field", "unknown_parameter", "colour", colour=1),
    Bad("chat: no messages", "POST", "/v1/chat/completions", {"model": MODEL}, 400, "missing_required_parameter",
        "messages"),
    chat("empty messages", "array_below_min_length", "messages", messages=[]),
    chat("string messages", "invalid_type", "messages", messages="hi"),
    chat("unknown model", "model_not_found", "model", 404, model="gpt-99"),
    chat("two choices", "integer_above_max_value", "n", n=2),
    chat("no choices", "integer_below_min_value", "n", n=0),
    chat("many stop sequences", "array_above_max_length", "stop", stop=list("abcde")),
    chat("numeric stop", "invalid_type", "stop", stop=1),
    chat("huge seed", "integer_above_max_value", "seed", seed=2**63),
    chat("fractional seed", "invalid_type", "seed", seed=1.5),
    chat("logprobs number", "invalid_type", "logprobs", logprobs=3),
    chat("top_logprobs alone", "invalid_value", "top_logprobs", top_logprobs=3),
    chat("max_tokens zero", "integer_below_min_value", "max_tokens", max_tokens=0),
    chat("audio output", "invalid_value", "modalities[0]", modalities=["audio"]),
    chat("store", "unsupported_parameter", "store", store=True),
    chat("logit_bias", "unsupported_parameter", "logit_bias", logit_bias={"1": 1}),
    chat("functions", "unsupported_parameter", "functions", functions=[{"name": "a"}]),
    chat("web_search_options", "unsupported_parameter", "web_search_options", web_search_options={}),
    chat("prediction", "unsupported_parameter", "prediction", prediction={"type": "content", "content": "x"}),
    chat("response_format string", "invalid_type", "response_format", response_format="json"),
    chat("response_format type", "invalid_value", "response_format.type", response_format={"type": "xml"}),
    chat("json_schema without name", "missing_required_parameter", "response_format.json_schema.name",
         response_format={"type": "json_schema", "json_schema": {}}),
    chat("reasoning_effort", "invalid_value", "reasoning_effort", reasoning_effort="max"),
    chat("custom tool", "unsupported_tool_type", "tools[0].type", tools=[{"type": "custom", "custom": {"name": "a"}}]),
    chat("tool without function", "missing_required_parameter", "tools[0].function", tools=[{"type": "function"}]),
    chat("tool with a bad name", "invalid_value", "tools[0].function.name",
         tools=[{"type": "function", "function": {"name": "a b"}}]),
    chat("tool_choice not offered", "invalid_value", "tool_choice.function.name", tools=[CHAT_TOOL],
         tool_choice={"type": "function", "function": {"name": "other"}}),
    chat("required without tools", "invalid_value", "tool_choice", tool_choice="required"),
    chat("stream_options unknown", "unknown_parameter", "stream_options.x", stream_options={"x": 1}),
    message("string", "invalid_type", "", "hi"),
    message("without role", "missing_required_parameter", ".role", {"content": "hi"}),
    message("unknown role", "invalid_value", ".role", {"role": "function", "name": "a", "content": "x"}),
    message("user without content", "missing_required_parameter", ".content", {"role": "user"}),
    message("empty content list", "array_below_min_length", ".content", {"role": "user", "content": []}),
    message("audio part", "invalid_value", ".content[0].type",
            {"role": "user", "content": [{"type": "input_audio", "input_audio": NOTHING}]}),
    message("image string", "invalid_type", ".content[0].image_url",
            {"role": "user", "content": [{"type": "image_url", "image_url": "https://x"}]}),
    message("image of a bad scheme", "invalid_url", ".content[0].image_url.url",
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}),
    message("system image", "invalid_value", ".content[0].type",
            {"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}),
    message("tool without call id", "missing_required_parameter", ".tool_call_id", {"role": "tool", "content": "x"}),
    message("call without id", "missing_required_parameter", ".tool_calls[0].id",
            {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "a", "arguments": ""}}]}),
    message("call with object arguments", "invalid_type", ".tool_calls[0].function.arguments",
            {"role": "assistant", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "a", "arguments": NOTHING}}]}),
]  # fmt: skip

_CONVERSATIONS = "/v1/conversations"
_UNKNOWN = f"{_CONVERSATIONS}/{UNKNOWN_CONVERSATION}"
_OTHERS = [
    get("path: unknown", "/v1/nothing", 404, "unknown_url", None),
    get("path: root", "/", 404, "unknown_url", None),
    get("path: trailing slash", "/v1/models/extra/", 404, "model_not_found", "model"),
    Bad("path: method", "PUT", "/v1/responses", GOOD, 405, "method_not_allowed", None),
    Bad("path: method of an item", "POST", f"/v1/responses/{UNKNOWN_RESPONSE}", {}, 405, "method_not_allowed", None),
    get("model: unknown", "/v1/models/gpt-99", 404, "model_not_found", "model"),
    get("response: unknown", f"/v1/responses/{UNKNOWN_RESPONSE}", 404, "response_not_found", "response_id"),
    get("response: no id", "/v1/responses/nonsense", 404, "response_not_found", "response_id"),
    get("response: streamed, unknown", f"/v1/responses/{UNKNOWN_RESPONSE}?stream=true", 404, "response_not_found",
        "response_id"),
    get("response: cursor of letters", f"/v1/responses/{UNKNOWN_RESPONSE}?stream=true&starting_after=x", 400,
        "invalid_type", "starting_after"),
    get("response: negative cursor", f"/v1/responses/{UNKNOWN_RESPONSE}?stream=true&starting_after=-1", 400,
        "integer_below_min_value", "starting_after"),
    get("response: huge cursor", f"/v1/responses/{UNKNOWN_RESPONSE}?stream=true&starting_after={'9' * 30}", 400,
        "invalid_type", "starting_after"),
    get("response: cursor without stream", f"/v1/responses/{UNKNOWN_RESPONSE}?starting_after=1", 400,
        "invalid_value", "starting_after"),
    get("response: odd stream", f"/v1/responses/{UNKNOWN_RESPONSE}?stream=perhaps", 400, "invalid_type", "stream"),
    get("response: unknown include", f"/v1/responses/{UNKNOWN_RESPONSE}?include[]=all", 400, "invalid_value",
        "include"),
    get("response: bad query", f"/v1/responses/{UNKNOWN_RESPONSE}?include=%ff", 400, "invalid_query", None),
    get("response: query of many fields", f"/v1/responses/{UNKNOWN_RESPONSE}?{'a=1&' * 101}", 400, "invalid_query",
        None),
    get("response: long query", f"/v1/responses/{UNKNOWN_RESPONSE}?a={'x' * 17_000}", 400, "query_too_long", None),
    Bad("response: cancel unknown", "POST", f"/v1/responses/{UNKNOWN_RESPONSE}/cancel", None, 404,
        "response_not_found", "response_id"),
    Bad("response: delete unknown", "DELETE", f"/v1/responses/{UNKNOWN_RESPONSE}", None, 404, "response_not_found",
        "response_id"),
    get("input items: unknown", f"/v1/responses/{UNKNOWN_RESPONSE}/input_items", 404, "response_not_found",
        "response_id"),
    get("input items: limit 0", f"/v1/responses/{UNKNOWN_RESPONSE}/input_items?limit=0", 400,
        "integer_below_min_value", "limit"),
    get("input items: limit 101", f"/v1/responses/{UNKNOWN_RESPONSE}/input_items?limit=101", 400,
        "integer_above_max_value", "limit"),
    get("input items: limit of letters", f"/v1/responses/{UNKNOWN_RESPONSE}/input_items?limit=ten", 400,
        "invalid_type", "limit"),
    get("input items: order", f"/v1/responses/{UNKNOWN_RESPONSE}/input_items?order=up", 400, "invalid_value", "order"),
    get("input items: empty after", f"/v1/responses/{UNKNOWN_RESPONSE}/input_items?after=", 400, "invalid_cursor",
        "after"),
    Bad("tokens: no model", "POST", "/v1/responses/input_tokens", {"input": "x"}, 400, "missing_required_parameter",
        "model"),
    Bad("tokens: no input", "POST", "/v1/responses/input_tokens", {"model": MODEL}, 400, "missing_required_parameter",
        "input"),
    Bad("tokens: unknown previous", "POST", "/v1/responses/input_tokens",
        {**GOOD, "previous_response_id": UNKNOWN_RESPONSE}, 404, "response_not_found", "response_id"),
    Bad("conversation: unknown field", "POST", _CONVERSATIONS, {"x": 1}, 400, "unknown_parameter", "x"),
    Bad("conversation: 21 items", "POST", _CONVERSATIONS, {"items": [{"role": "user", "content": "x"}] * 21}, 400,
        "array_above_max_length", "items"),
    Bad("conversation: bad item", "POST", _CONVERSATIONS, {"items": [{"role": "user"}]}, 400,
        "missing_required_parameter", "items[0].content"),
    Bad("conversation: bad metadata", "POST", _CONVERSATIONS, {"metadata": 3}, 400, "invalid_type", "metadata"),
    get("conversation: unknown", _UNKNOWN, 404, "conversation_not_found", "conversation_id"),
    get("conversation: no id", f"{_CONVERSATIONS}/nonsense", 404, "conversation_not_found", "conversation_id"),
    Bad("conversation: update unknown", "POST", _UNKNOWN, {"metadata": {}}, 404, "conversation_not_found",
        "conversation_id"),
    Bad("conversation: update without metadata", "POST", _UNKNOWN, {}, 400, "missing_required_parameter", "metadata"),
    Bad("conversation: delete unknown", "DELETE", _UNKNOWN, None, 404, "conversation_not_found", "conversation_id"),
    Bad("conversation: add to unknown", "POST", f"{_UNKNOWN}/items", {"items": [{"role": "user", "content": "x"}]},
        404, "conversation_not_found", "conversation_id"),
    Bad("conversation: add nothing", "POST", f"{_UNKNOWN}/items", {"items": []}, 400, "array_below_min_length",
        "items"),
    get("conversation: items of unknown", f"{_UNKNOWN}/items", 404, "conversation_not_found", "conversation_id"),
    get("conversation: item of unknown", f"{_UNKNOWN}/items/msg_1", 404, "conversation_not_found", "conversation_id"),
    Bad("keys: without the token", "POST", "/v1/admin/keys", {"tenant": "a", "name": "b"}, 403, "forbidden", None),
    get("keys: list without the token", "/v1/admin/keys", 403, "forbidden", None),
]  # fmt: skip

CASES: list[Bad] = [*_RAW, *_FIELDS, *_TOOLS, *_ITEMS, *_CONTEXT, *_HEADERS, *_CHAT, *_OTHERS]
