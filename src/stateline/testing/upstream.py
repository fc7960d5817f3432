"""The scripted model over HTTP: an OpenAI-compatible upstream, which speaks the other formats too.

``/v1/chat/completions``, ``/v1/responses`` and ``/v1/messages``, JSON and SSE, ``/v1/models``,
``/v1/model/{id}/converse`` and ``converse-stream`` (Bedrock), and ``/v1/models/{id}:generateContent`` and
``:streamGenerateContent`` (Gemini). In a test::

    async with ScriptedUpstream(Answer(text="hello")) as base_url: ...

and as a process, which prints its URL as the first line::

    python -m stateline.testing.upstream --port 0 --script prompt flaky=flaky:7

``GET /_scripted/requests`` tells what was asked. It listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from aiohttp import ClientConnectionResetError, web

from stateline.core.calls import ModelDelta
from stateline.testing.anthropic_bodies import MessageBody, MessagesAsked, refused_body
from stateline.testing.converse import ConverseAsked, ConverseBody, converse_asked, converse_refusal
from stateline.testing.gemini_bodies import GeminiAsked, GeminiBody, gemini_asked, gemini_refusal
from stateline.testing.openai_bodies import ChatBody, Json, ResponseBody
from stateline.testing.scripted import (
    Answer,
    Asked,
    Ledger,
    Script,
    auto,
    deltas_of,
    embeddings_of,
    groups_of,
    parse_script,
    rule_of,
)

BODY_BYTES_MAX = 64 * 1024 * 1024
_JSON = "application/json"
_SSE = "text/event-stream; charset=utf-8"
_BROKEN_SSE = b'data: {"type": "response.output_text.delta", "delta\n\n'
Body = ChatBody | ResponseBody | MessageBody | ConverseBody | GeminiBody


def _text_of(content: Any) -> str:
    """The text of a message's content, or of a tool's output, in either API's shape."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = cast("list[Json]", content)
    return "".join([str(part.get("text", "")) for part in parts])


class BodyAsked(Asked):
    """A request as it came over HTTP."""

    __slots__ = ("body", "chat")

    def __init__(self, body: Json, key: str, *, chat: bool) -> None:
        super().__init__(key, str(body.get("model", "")), body.get("stream") is True)
        self.body = body
        self.chat = chat

    @property
    def context(self) -> list[Json]:
        """Messages, or input items (a plain text is one user message)."""
        items = self.body.get("messages" if self.chat else "input", [])
        return [{"role": "user", "content": items}] if isinstance(items, str) else items

    @property
    def user_text(self) -> str:
        for item in reversed(self.context):
            if item.get("role") == "user":
                return _text_of(item.get("content"))
        return ""

    @property
    def tool_output(self) -> str | None:
        for item in reversed(self.context):
            if item.get("role") == "tool":
                return _text_of(item.get("content"))
            if item.get("type") == "function_call_output":
                return _text_of(item.get("output"))
            if item.get("role") == "user":
                return None
        return None

    @property
    def tool(self) -> tuple[str, Mapping[str, Any]] | None:
        offered: list[Json] = [tool.get("function", tool) for tool in self.body.get("tools") or ()]
        tools: dict[str, Json] = {tool["name"]: tool.get("parameters") or {} for tool in offered}
        choice: Any = self.body.get("tool_choice", "auto")
        if isinstance(choice, dict):
            asked = cast("Json", choice)
            asked = asked.get("allowed_tools", asked)
            if "tools" in asked:
                names = [tool.get("function", tool)["name"] for tool in asked["tools"]]
                choice = asked.get("mode", "auto")
            else:
                names = [asked.get("function", asked)["name"]]
            tools = {name: tools.get(name, {}) for name in names}
        return None if choice == "none" else next(iter(tools.items()), None)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        holder: Json = self.body if self.chat else cast("Json", self.body.get("text") or {})
        form = cast("Json", holder.get("response_format" if self.chat else "format") or {})
        if form.get("type") == "json_object":
            return {"type": "object"}
        if form.get("type") != "json_schema":
            return None
        return cast("Json", form.get("json_schema", form)).get("schema") or {}


class ScriptedUpstream:
    """Serves a script while its context lasts; entering gives the base URL, ``/v1`` included."""

    def __init__(self, script: Script = auto, *, models: Sequence[str] = (), port: int = 0) -> None:
        self._rule = rule_of(script)
        names = list(cast("Mapping[str, Script]", script)) if isinstance(script, Mapping) else []
        self._models = list(models) or names or ["scripted"]
        self._port = port
        self._ledger = Ledger()
        self._runner: web.ServerRunner | None = None
        self.base_url = ""

    @property
    def requests(self) -> Sequence[Asked]:
        """The last requests, oldest first; bounded like ``ScriptedModel.requests``."""
        return self._ledger.requests

    async def __aenter__(self) -> str:
        # A client that hangs up cancels its answer, as a provider's would.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024)
        await site.start()
        _, port = self._runner.addresses[0][:2]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self.base_url

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = _path(request.path)
        paths = ("/chat/completions", "/responses", "/messages")
        if request.method == "POST" and (path in paths or path.startswith(("/model/", "/models/"))):
            return await self._call(request, _path(request.raw_path))
        if request.method == "POST" and path == "/embeddings":
            return _embeddings(msgspec.json.decode(await _read(request), type=dict[str, Any]))
        if path == "/models":
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "stateline"} for name in self._models]
            return _reply({"object": "list", "data": data})
        if path == "/_scripted/requests":
            return _reply(self.report())
        return _reply(_error("no such path", "not_found"), status=404)

    def report(self) -> Json:
        """Counts by outcome, and the requests kept: serial, attempt, key, model, outcome."""
        kept = self._ledger.requests
        shown = [
            {name: getattr(asked, name) for name in ("serial", "attempt", "key", "model", "outcome")} for asked in kept
        ]
        outcomes = Counter(asked.outcome for asked in kept)
        return {"total": self._ledger.serial, "outcomes": dict(outcomes), "requests": shown}

    async def _call(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        raw = await _read(request)
        try:
            body = msgspec.json.decode(raw, type=dict[str, Any])
        except msgspec.DecodeError:
            return _reply(_error("the body is no JSON object", "invalid_json"), status=400)
        key = request.headers.get("Idempotency-Key", "")
        asked: _AnyAsked | None = converse_asked(path, body, key) or gemini_asked(path, body, key)
        if asked is None:
            asked = MessagesAsked(body, key) if path == "/messages" else BodyAsked(body, key, chat=path != "/responses")
        self._ledger.take(asked, hash(raw))
        answer = self._rule(asked, asked.attempt)
        if isinstance(asked, MessagesAsked | GeminiAsked) and (problem := asked.problem()):
            answer = Answer(status=400, error_message=problem)
        try:
            return await _perform(request, asked, answer)
        except (ClientConnectionResetError, ConnectionResetError):
            asked.outcome = "closed"
            return web.Response(status=499)  # Nobody reads it.
        finally:
            if asked.outcome == "running":
                asked.outcome = "closed"


def _path(path: str) -> str:
    """A path without its version, and without Azure's word before that."""
    return path.removeprefix("/openai").removeprefix("/v1")


def _embeddings(body: Json) -> web.Response:
    vectors, used = embeddings_of(body["input"], body.get("dimensions"), body.get("encoding_format"))
    usage = {"prompt_tokens": used, "total_tokens": used}
    return _reply({"object": "list", "data": vectors, "model": body["model"], "usage": usage})


_AnyAsked = BodyAsked | MessagesAsked | ConverseAsked | GeminiAsked


def _body(asked: _AnyAsked) -> Body:
    if isinstance(asked, ConverseAsked):
        return ConverseBody()
    if isinstance(asked, GeminiAsked):
        return GeminiBody(asked.serial, asked.model)
    if isinstance(asked, MessagesAsked):
        return MessageBody(asked.serial, asked.model)
    if not asked.chat:
        return ResponseBody(asked.serial, asked.model, asked.body)
    options: Json = asked.body.get("stream_options") or {}
    return ChatBody(asked.serial, asked.model, with_usage=bool(options.get("include_usage")))


async def _perform(request: web.BaseRequest, asked: _AnyAsked, answer: Answer) -> web.StreamResponse:
    if answer.first_byte_ms > 0:
        await asyncio.sleep(answer.first_byte_ms / 1000)
    if answer.status >= 400:
        asked.outcome = "error"
        return _refused(answer, asked)
    deltas = deltas_of(answer, asked.serial)
    body = _body(asked)
    if asked.stream:
        return await _stream(request, asked, answer, body, deltas)
    return await _whole(request, asked, answer, body, deltas)


async def _stream(
    request: web.BaseRequest,
    asked: Asked,
    answer: Answer,
    body: Body,
    deltas: list[ModelDelta],
) -> web.StreamResponse:
    kind = body.content_type if isinstance(body, ConverseBody) else _SSE
    response = web.StreamResponse(headers={"content-type": kind, "cache-control": "no-cache"})
    await response.prepare(request)
    begin = body.begin()
    for at, group in enumerate(groups_of(answer, deltas)):
        if begin and answer.paced:
            await response.write(begin)
            begin = b""
        await _pace(answer, at)
        await response.write(begin + body.events(group))
        begin = b""
    if begin:
        await response.write(begin)
    asked.outcome = "finished" if answer.end == "finish" else answer.end
    if answer.end == "stall":
        await asyncio.Event().wait()
    if answer.end == "malformed":
        await response.write(body.malformed if isinstance(body, ConverseBody) else _BROKEN_SSE)
    if answer.end == "cut" and request.transport is not None:
        # Without the last chunk: the client sees that the body is not whole.
        request.transport.close()
        return response
    await response.write_eof()
    return response


async def _whole(
    request: web.BaseRequest,
    asked: Asked,
    answer: Answer,
    body: Body,
    deltas: list[ModelDelta],
) -> web.StreamResponse:
    if answer.paced:
        for at, _ in enumerate(groups_of(answer, deltas)):
            await _pace(answer, at)
    asked.outcome = "finished" if answer.end == "finish" else answer.end
    if answer.end == "finish":
        return web.Response(body=body.whole(deltas), content_type=_JSON)
    if answer.end == "stall":
        await asyncio.Event().wait()
    half = b'{"id": "scripted", "object": "'
    if answer.end == "malformed":
        return web.Response(body=half, content_type=_JSON)
    response = web.StreamResponse(headers={"content-type": _JSON, "content-length": "4096"})
    await response.prepare(request)
    await response.write(half)
    if request.transport is not None:
        request.transport.close()
    return response


async def _pace(answer: Answer, at: int) -> None:
    if answer.gate is not None:
        await answer.gate.passing()
    if at and answer.delay_ms > 0:
        await asyncio.sleep(answer.delay_ms / 1000)


async def _read(request: web.BaseRequest) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise web.HTTPRequestEntityTooLarge(max_size=BODY_BYTES_MAX, actual_size=size)
        chunks.append(chunk)
    return b"".join(chunks)


def _error(message: str, code: str | None, kind: str = "invalid_request_error") -> Json:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _refused(answer: Answer, asked: _AnyAsked) -> web.Response:
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    if answer.status == 429:
        kind = "rate_limit_error"
    message = answer.error_message or f"scripted error {answer.status}"
    if isinstance(asked, MessagesAsked):
        response = web.Response(body=refused_body(answer), status=answer.status, content_type=_JSON)
    elif isinstance(asked, ConverseAsked):
        body, headers = converse_refusal(answer)
        response = _reply(body, status=answer.status)
        response.headers.update(headers)
    elif isinstance(asked, GeminiAsked):
        response = _reply(gemini_refusal(answer), status=answer.status)
    else:
        response = _reply(_error(message, answer.error_code, kind), status=answer.status)
    if answer.retry_after_s is not None:
        response.headers["retry-after"] = f"{answer.retry_after_s:g}"
        response.headers["retry-after-ms"] = f"{answer.retry_after_s * 1000:g}"
    return response


def _reply(body: Json, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type=_JSON)


# -- as a process ---------------------------------------------------------------------------------


def script_of(words: Sequence[str]) -> Script:
    """The script that a command line names: rules in turn, or ``MODEL=RULE`` for each model."""
    named = [word.split("=", 1) for word in words if "=" in word.partition(":")[0]]
    if named and len(named) < len(words):
        raise ValueError("either every rule names its model, or none does")
    if named:
        return {model: parse_script(rule) for model, rule in named}
    rules = [rule_of(parse_script(word)) for word in words]
    if not rules:
        return auto
    left = deque(rules)

    def in_turn(asked: Asked, attempt: int) -> Answer:
        rule = left.popleft() if len(left) > 1 else left[0]
        return rule(asked, attempt)

    return in_turn


async def _serve(script: Script, models: Sequence[str], port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ScriptedUpstream(script, models=models, port=port) as base_url:
        print(base_url, flush=True)  # noqa: T201 - the process's one answer
        await stop.wait()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m stateline.testing.upstream")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", default=[], help="a name for /v1/models")
    parser.add_argument("--script", nargs="*", default=[], metavar="RULE", help="rules in turn, or MODEL=RULE")
    args = parser.parse_args()
    try:
        script = script_of(args.script)
    except ValueError as error:
        parser.error(str(error))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(script, args.model, args.port))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
