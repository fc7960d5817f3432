"""MCP servers to call: one made with the official SDK, over HTTP or stdio, and one that misbehaves as it is told.

As a program (`python -m tests.tools.mcp_servers`) the first one speaks over its standard input and output.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PNG = base64.b64encode(b"\x89PNG\r\n").decode()


class Seen:
    """What the server was asked, as counted at the tool."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []
        self.metas: list[str | None] = []
        self.refunds: dict[str, int] = {}
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.headers: list[dict[str, str]] = []


def tools_server(seen: Seen) -> MCPServer:
    """A shop: refunds that can be looked up, and a tool for each kind of answer."""
    server = MCPServer("shop", log_level="CRITICAL")
    _add_kinds(server, seen)

    def note(context: Context) -> str:
        request: Any = context.request_context.request
        headers = dict(request.headers) if request is not None else {}
        seen.headers.append(headers)
        seen.keys.append(headers.get("idempotency-key"))
        meta: Any = context.request_context.meta or {}
        seen.metas.append(meta.get("stateline.dev/idempotency-key"))
        return str(seen.metas[-1])

    @server.tool()
    async def refund(cents: int, context: Context) -> str:
        """Give money back."""
        seen.refunds[note(context)] = cents
        return "done"

    @server.tool(annotations=types.ToolAnnotations(read_only_hint=True))
    async def find_refund(idempotency_key: str, context: Context) -> dict[str, Any]:
        """Look a refund up."""
        note(context)
        if idempotency_key not in seen.refunds:
            return {"idempotency_key": idempotency_key, "found": False}
        return {"idempotency_key": idempotency_key, "found": True, "cents": seen.refunds[idempotency_key]}

    @server.tool(annotations=types.ToolAnnotations(idempotent_hint=True))
    async def put(value: str) -> str:
        """Set a value."""
        return value

    @server.tool(annotations=types.ToolAnnotations(read_only_hint=True, destructive_hint=True))
    async def confused() -> str:
        """Its hints contradict each other."""
        return "?"

    return server


def _add_kinds(server: MCPServer, seen: Seen) -> None:
    """A tool for each kind of answer."""

    @server.tool()
    async def fails() -> str:
        """Says that it did not."""
        raise ToolError("no such order")

    @server.tool()
    async def waits(context: Context) -> str:
        """Never answers, and sees that it is cancelled."""
        seen.started.set()
        try:
            for step in range(1_000_000):
                await context.report_progress(step, 10.0)
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            seen.cancelled.set()
            raise
        return "never"

    @server.tool()
    async def secrets_back(context: Context) -> str:
        """Repeats the headers that it got, as some do."""
        request: Any = context.request_context.request
        return json.dumps(dict(request.headers))

    @server.tool()
    async def environment(name: str) -> str:
        """A variable of the server's environment."""
        return os.environ.get(name, "(none)")

    @server.tool()
    async def process() -> int:
        """The server's process."""
        return os.getpid()

    @server.tool()
    async def exits() -> str:
        """Ends the server's process."""
        os._exit(3)

    @server.tool(structured_output=False)
    async def everything() -> list[types.ContentBlock]:
        """One part of each kind."""
        resource = types.TextResourceContents(uri="file:///a.txt", text="inside", mime_type="text/plain")
        blob = types.BlobResourceContents(uri="file:///b.bin", blob=PNG, mime_type="application/zip")
        pdf = types.BlobResourceContents(uri="file:///c.pdf", blob=PNG, mime_type="application/pdf")
        picture = types.BlobResourceContents(uri="file:///d.png", blob=PNG, mime_type="image/png")
        return [
            types.TextContent(type="text", text="hello"),
            types.ImageContent(type="image", data=PNG, mime_type="image/png"),
            types.AudioContent(type="audio", data=PNG, mime_type="audio/wav"),
            types.ResourceLink(type="resource_link", name="doc", uri="https://docs.example/x", description="a page"),
            *(types.EmbeddedResource(type="resource", resource=each) for each in (resource, blob, pdf, picture)),
        ]

    @server.tool()
    async def large(size: int) -> str:
        """A text of a size."""
        return "x" * size


@contextlib.asynccontextmanager
async def serving(app: Any, **tls: Any) -> AsyncGenerator[str]:
    """The app on a port of 127.0.0.1; gives its base URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws="none", lifespan="on", **tls)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    sock = config.bind_socket()
    task = asyncio.create_task(server._serve([sock]))  # pyright: ignore[reportPrivateUsage]
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it in no other way.
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task
        sock.close()


@contextlib.asynccontextmanager
async def shop(seen: Seen, **options: Any) -> AsyncGenerator[str]:
    """The tools' server over streamable HTTP; gives the URL of its endpoint."""
    async with serving(tools_server(seen).streamable_http_app(**options)) as url:
        yield f"{url}/mcp"


Rule = Callable[[dict[str, Any], Request], Awaitable[Response | None]]


class Odd:
    """A server over HTTP that speaks as the specification of 2025-06-18 says, but for what a rule answers itself."""

    def __init__(self, rule: Rule, tools: list[dict[str, Any]] | None = None) -> None:
        self.rule = rule
        self.tools = tools or [{"name": "act", "inputSchema": {"type": "object"}}]
        self.asked: list[str] = []
        self.calls = 0
        self.session = "one"

    async def answer(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status_code=405)
        message = json.loads(await request.body())
        method = message["method"]
        self.asked.append(method)
        self.calls += method == "tools/call"
        found = await self.rule(message, request)
        if found is not None:
            return found
        if "id" not in message:
            return Response(status_code=202)
        if method == "server/discover":
            return said(message, error={"code": -32601, "message": "no such method"})
        if method == "initialize":
            result: dict[str, Any] = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "odd", "version": "1"},
            }
            return said(message, result, {"mcp-session-id": self.session})
        if request.headers.get("mcp-session-id") != self.session:
            return Response(status_code=404)
        if method == "tools/list":
            return said(message, {"tools": self.tools})
        if method == "tools/call":
            return said(message, {"content": [{"type": "text", "text": "ok"}]})
        return said(message, {})

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/mcp", self.answer, methods=["GET", "POST", "DELETE"])])


def said(
    message: dict[str, Any],
    result: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    error: dict[str, Any] | None = None,
) -> Response:
    body = {"jsonrpc": "2.0", "id": message["id"]}
    return JSONResponse({**body, "error": error} if error else {**body, "result": result}, headers=headers)


@contextlib.asynccontextmanager
async def odd(rule: Rule, tools: list[dict[str, Any]] | None = None) -> AsyncGenerator[tuple[str, Odd]]:
    server = Odd(rule, tools)
    async with serving(server.app()) as url:
        yield f"{url}/mcp", server


if __name__ == "__main__":
    sys.stdout.write("a line that is no message\n")
    sys.stderr.write(f"started with {os.environ.get('SHOP_TOKEN')}\n")
    sys.stdout.flush()
    sys.stderr.flush()

    async def main() -> None:
        await tools_server(Seen()).run_stdio_async()

    asyncio.run(main())
