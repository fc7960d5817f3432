"""The demo's client: plain HTTP and server-sent events, with nothing but the standard library.

It is short on purpose. What it does, any client in any language can do.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from stateline.core.errors import StatelineError
from stateline.core.limits import ANSWER_BYTES_MAX, ANSWER_EVENT_BYTES_MAX, UPSTREAM_FIRST_BYTE_S

Json = dict[str, Any]


class Gone(Exception):
    """The server could not be reached, or broke its answer off."""


class ApiError(StatelineError):
    """The server answered with an error."""


class Api:
    """Calls to one server; a connection for each, so that a restart of the server needs no care."""

    def __init__(self, root: str) -> None:
        self._url = urlsplit(root)

    def get(self, path: str, *, timeout_s: float = UPSTREAM_FIRST_BYTE_S) -> Json | None:
        """The JSON answer, or None where the answer is something else."""
        return self._call("GET", path, None, timeout_s)

    def post(self, path: str, body: Json) -> Json:
        return self._call("POST", path, body, UPSTREAM_FIRST_BYTE_S) or {}

    def stream(self, path: str, body: Json | None = None) -> Iterator[Json]:
        """The events of a stream, one by one, as they come.

        Raises:
            Gone: the server could not be reached, or the stream ended without its `[DONE]`.
            ApiError: the server refused the request.
        """
        connection = _connect(self._url, UPSTREAM_FIRST_BYTE_S)
        try:
            reply = _send(connection, "POST" if body is not None else "GET", self._url.path + path, body)
            if reply.status >= 400:
                raise _error(reply.status, _body(reply))
            yield from _events(reply)
        except (OSError, http.client.HTTPException) as error:
            raise Gone(_reason(error)) from error
        finally:
            connection.close()

    def _call(self, method: str, path: str, body: Json | None, timeout_s: float) -> Json | None:
        connection = _connect(self._url, timeout_s)
        try:
            reply = _send(connection, method, self._url.path + path, body)
            raw = _body(reply)
        except (OSError, http.client.HTTPException) as error:
            raise Gone(_reason(error)) from error
        finally:
            connection.close()
        if reply.status >= 400:
            raise _error(reply.status, raw)
        try:
            return json.loads(raw)
        except ValueError:
            return None


def _connect(url: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname or "", url.port, timeout=timeout_s)


def _send(
    connection: http.client.HTTPConnection, method: str, path: str, body: Json | None
) -> http.client.HTTPResponse:
    headers = {"content-type": "application/json"} if body is not None else {}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection.getresponse()


def _body(reply: http.client.HTTPResponse) -> bytes:
    return reply.read(ANSWER_BYTES_MAX)


def _events(reply: http.client.HTTPResponse) -> Iterator[Json]:
    """Server-sent events: the `data:` lines up to `[DONE]`; comments and names are passed over."""
    while line := reply.readline(ANSWER_EVENT_BYTES_MAX):
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
    raise Gone("the stream broke off")


def _error(status: int, raw: bytes) -> ApiError:
    """An error from its JSON body, or from its status alone."""
    code, message = "http_error", raw.decode(errors="replace")[:200].strip()
    try:
        error = json.loads(raw)["error"]
    except (ValueError, KeyError, TypeError):
        error = None
    if isinstance(error, dict):
        fields = cast("Json", error)
        code, message = str(fields.get("code") or code), str(fields.get("message") or message)
    return ApiError(f"the server answered {status} {code}: {message}", code=code, status=status)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
