"""Asking the server that runs on a database: it alone may use the file, and left there how to reach it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateline.core.errors import BadRequest, StatelineError

if TYPE_CHECKING:
    from stateline.identity.admin_file import AdminAccess

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
        return _request(access, method, path, body, timeout_s)
    except ConnectionError:
        return None  # A server that was killed left the file behind.


def _request(access: AdminAccess, method: str, path: str, body: Shown | None, timeout_s: float) -> Shown:
    import ssl
    import urllib.error
    import urllib.request

    import msgspec

    # The certificate is for the name that clients use, and this goes to the address that the server
    # itself wrote into a file of ours.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # Nor may it go through a proxy that is meant for providers.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    headers = {"authorization": f"Bearer {access.token}", "content-type": "application/json"}
    data = None if body is None else msgspec.json.encode(body)
    request = urllib.request.Request(local(access.url) + path, data=data, headers=headers, method=method)  # noqa: S310
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return msgspec.json.decode(answer.read())
    except urllib.error.HTTPError as error:
        if error.code == 401:
            # Another server has the port now: its token is not in our file.
            raise ConnectionError from None
        raise _refused(error.read()) from None
    except TimeoutError:
        message = f"the server did not answer within {timeout_s:.0f} s; its log may say why"
        raise BadRequest(message, code="server_silent") from None
    except urllib.error.URLError as error:
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
