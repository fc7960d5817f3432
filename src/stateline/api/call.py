"""One HTTP request and its answer, without the layers of a web framework between.

A handler gets a Call, reads what it needs and answers once: ``reply`` for a whole body, ``start`` and
``write`` for a stream. Everything goes to ASGI as bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from types import TracebackType
from typing import cast

import msgspec
from starlette.types import Receive, Scope, Send

from stateline.api.auth import Principal
from stateline.api.errors import ClientGone, Header, Shape
from stateline.api.exchange import Exchange
from stateline.core.errors import BadRequest, StatelineError
from stateline.core.limits import BODY_BYTES_MAX, IDEMPOTENCY_KEY_CHARS_MAX
from stateline.core.response import Dialect
from stateline.core.spans import traced

_JSON: Header = (b"content-type", b"application/json")
_DIALECTS: dict[bytes | None, Dialect] = {
    None: "open-responses",
    b"open-responses": "open-responses",
    b"openai": "openai",
}
_encode = msgspec.json.Encoder().encode


def dialect_of(headers: Mapping[bytes, bytes]) -> Dialect | None:
    """Whose names the client wants; None: it asks for a dialect that there is not."""
    return _DIALECTS.get(headers.get(b"stateline-dialect"))


class BodyTooLarge(StatelineError):
    code = "request_too_large"
    status = 413
    blame = "client"


class UnsupportedMediaType(StatelineError):
    code = "unsupported_media_type"
    status = 415
    blame = "client"


class Call:
    """``headers`` have lower-case names; of a repeated one the last counts.

    ``durable`` is set once the request's turn is in the log: from then on no answer invites a retry.
    ``rates`` gives headers of what the caller has left, where it is limited.
    ``anthropic``: the path is one of Anthropic's API, and so are the errors.
    """

    __slots__ = (
        "anthropic",
        "bytes_sent",
        "dialect",
        "dialect_is_known",
        "durable",
        "headers",
        "method",
        "path",
        "principal",
        "query",
        "rates",
        "receive",
        "request_id",
        "route",
        "scope",
        "send",
        "started_at",
        "status",
    )

    principal: Principal

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str, headers: Mapping[bytes, bytes]):
        self.scope = scope
        self.receive = receive
        self.send = send
        self.request_id = request_id
        self.headers = headers
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        dialect = dialect_of(headers)
        self.dialect: Dialect = dialect or "open-responses"
        self.dialect_is_known = dialect is not None
        self.durable = False
        self.anthropic = False
        self.rates: Callable[[], Awaitable[list[Header]]] | None = None
        self.route = ""
        self.status = 0
        self.bytes_sent = 0
        self.started_at = perf_counter()

    @property
    def shape(self) -> Shape:
        """Whose errors it is answered with."""
        return "anthropic" if self.anthropic else self.dialect

    @property
    def path_params(self) -> dict[str, str]:
        return cast(dict[str, str], self.scope["path_params"])

    @property
    def tenant(self) -> str:
        return self.principal.tenant

    # -- the request ------------------------------------------------------------------------------

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: more than BODY_BYTES_MAX; the rest is not read.
            UnsupportedMediaType: it is said to be something else than JSON.
            ClientGone: the client hung up first.
        """
        kind = self.headers.get(b"content-type")
        if kind is not None and not _is_json(kind):
            raise UnsupportedMediaType("The body must be JSON: send 'Content-Type: application/json'.")
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > BODY_BYTES_MAX:
            raise _too_large()
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                raise _too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def idempotency_key(self) -> str | None:
        """The header, or None.

        Raises:
            BadRequest: empty, longer than IDEMPOTENCY_KEY_CHARS_MAX, or not printable ASCII.
        """
        raw = self.headers.get(b"idempotency-key")
        if raw is None:
            return None
        key = raw.decode("latin-1")
        if not 0 < len(key) <= IDEMPOTENCY_KEY_CHARS_MAX or not (key.isascii() and key.isprintable()):
            raise BadRequest(
                f"The Idempotency-Key header must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters.",
                code="invalid_idempotency_key",
                param="Idempotency-Key",
            )
        return key

    def traceparent(self) -> str:
        """The caller's trace; empty where it names none, or what is none (W3C: then it is as if it were not there)."""
        raw = self.headers.get(b"traceparent")
        return "" if raw is None or traced(text := raw.decode("latin-1")) is None else text

    def is_retry(self) -> bool:
        """The official SDKs count their own retries in a header."""
        count = self.headers.get(b"x-stainless-retry-count", b"0")
        return count.isdigit() and int(count[:9]) >= 1

    # -- the answer -----------------------------------------------------------------------------------

    async def reply_json(self, value: object, status: int = 200) -> None:
        await self.reply(_encode(value), status)

    async def reply(
        self, body: bytes, status: int = 200, headers: tuple[Header, ...] | list[Header] = (), kind: Header = _JSON
    ) -> None:
        """The whole answer in two ASGI messages."""
        await self.start(status, [kind, (b"content-length", b"%d" % len(body)), *headers])
        await self.write(body, last=True)

    async def start(self, status: int, headers: list[Header]) -> None:
        headers.append((b"x-request-id", self.request_id.encode("latin-1")))
        if self.anthropic:
            headers.append((b"request-id", self.request_id.encode("latin-1")))
        if self.durable and status == 200:
            headers.append((b"x-should-retry", b"false"))
        if self.rates is not None:
            headers += await self.rates()
        self.status = status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes | bytearray, *, last: bool = False) -> None:
        self.bytes_sent += len(body)
        await self.send({"type": "http.response.body", "body": body, "more_body": not last})


class WhileConnected:
    """Ends its block quietly when the client hangs up. ``gone`` tells the two ends apart.

    Our own server says so by itself. ASGI has no word for it but what ``receive`` returns after the body, so under
    any other a task waits there.
    """

    __slots__ = ("_exchange", "_receive", "_task", "_watcher", "gone")

    def __init__(self, call: Call) -> None:
        self._receive = call.receive
        owner = getattr(call.receive, "__self__", None)
        self._exchange = owner if type(owner) is Exchange and not owner.disconnected else None
        self._watcher: asyncio.Task[None] | None = None
        self.gone = False

    async def __aenter__(self) -> WhileConnected:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        if self._exchange is not None:
            self._exchange.watch(self._leave)
        else:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if not self.gone:
            self.gone = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._exchange is not None:
            self._exchange.watch(None)
        if self._watcher is not None:
            self._watcher.cancel()
        return self.gone and kind is asyncio.CancelledError and self._task.uncancel() == 0


def _is_json(kind: bytes) -> bool:
    media = kind.partition(b";")[0].strip().lower()
    return media == b"application/json" or (media.startswith(b"application/") and media.endswith(b"+json"))


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {BODY_BYTES_MAX} bytes.")
