"""Asking the server that runs on a database: it alone may use the file, and left there how to reach it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateline.core.errors import BadRequest, StatelineError, Unauthorized

if TYPE_CHECKING:
    import ssl

TIMEOUT_S = 30.0

Shown = dict[str, Any]


def ask_server(
    database: Path, method: str, path: str, body: Shown | None = None, *, timeout_s: float = TIMEOUT_S
) -> Shown | None:
    """The server's answer, or None where none runs.

    Raises:
        BadRequest: the server refused, in its own words.
    """
    from stateline.identity.admin_file import read_admin_file

    access = read_admin_file(database)
    if access is None:
        return None
    try:
        return _request(local(access.url), access.token, method, path, body, context=_unchecked(), timeout_s=timeout_s)
    except ConnectionError:
        return None  # A server that was killed left the file behind.
    except Unauthorized:
        return None  # Another server has the port now: its token is not in our file.


def ask_as_client(
    url: str, key: str | None, method: str, path: str, body: Shown | None = None, *, ours: bool
) -> Shown | None:
    """What a server answers to a client, or None where none runs.

    Args:
        url: without ``/v1``.
        key: the client's API key, or None.
        ours: the server itself wrote ``url`` into a file of ours, so that its certificate need not name that.

    Raises:
        BadRequest: the server refused, in its own words.
        Unauthorized: the key is not good, or one is needed.
    """
    try:
        return _request(url, key, method, path, body, context=_unchecked() if ours else None)
    except ConnectionError:
        return None


def _unchecked() -> ssl.SSLContext:
    """The certificate is for the name that clients use, and this goes to where the server itself says it listens."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _request(
    url: str,
    token: str | None,
    method: str,
    path: str,
    body: Shown | None,
    *,
    context: ssl.SSLContext | None,
    timeout_s: float = TIMEOUT_S,
) -> Shown:
    import urllib.error
    import urllib.request

    import msgspec

    # It may not go through a proxy that is meant for providers.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    headers = {"content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    data = None if body is None else msgspec.json.encode(body)
    request = urllib.request.Request(url + path, data=data, headers=headers, method=method)  # noqa: S310
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return msgspec.json.decode(answer.read())
    except urllib.error.HTTPError as error:
        refused = _refused(error.read())
        if error.code == 401:
            raise Unauthorized(refused.message, code=refused.code) from None
        raise refused from None
    except TimeoutError:
        message = f"the server did not answer within {timeout_s:.0f} s; its log may say why"
        raise BadRequest(message, code="server_silent") from None
    except urllib.error.URLError as error:
        if type(error.reason).__name__ == "SSLCertVerificationError":
            raise BadRequest(f"{url}: {error.reason}", code="certificate_refused") from None
        if isinstance(error.reason, OSError):
            raise ConnectionError from None
        raise


def local(url: str) -> str:
    """Where a server that listens on every address of this machine is asked."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _refused(answer: bytes) -> StatelineError:
    import msgspec

    try:
        error = msgspec.json.decode(answer)["error"]
        return BadRequest(str(error["message"]), code=str(error["code"]))
    except (msgspec.DecodeError, KeyError, TypeError):
        return BadRequest("the server answered something that is no error of ours", code="bad_answer")
