"""Where tools connect to: `[tools] allow_hosts`, held against the very address that is connected to.

A name is resolved once. What comes of it is judged, and what was judged is connected to: a second resolution could
answer otherwise (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import SplitResult, urlsplit, urlunsplit

from stateline.core.hosts import Address, canonical, may_ask, may_reach, read_named
from stateline.core.limits import TOOL_ADDRESSES_MAX, TOOL_CONNECT_S, TOOL_URL_CHARS_MAX
from stateline.core.tools import ToolError

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, in the order in which they are to be tried; raises OSError."""

DENIED = "tool_host_denied"
UNREACHABLE = "tool_unreachable"

log = logging.getLogger(__name__)


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses that this machine's resolver knows."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class Egress:
    """The rule, for all tools of a node.

    Args:
        allow_hosts: ``host``, ``host:port`` or ``*``, as `core.hosts.read_named` reads them.

    Raises:
        ValueError: an entry cannot be read.
    """

    def __init__(self, allow_hosts: Sequence[str], resolve: Resolve = resolve) -> None:
        self._named = [read_named(each) for each in allow_hosts]
        self._resolve = resolve

    def check_url(self, url: str) -> str:
        """The URL as it is to be asked: its host canonical, so that nobody reads another one out of it.

        Raises:
            ToolError: ``tool_host_denied``.
        """
        parts = _split(url)
        try:
            host, address = canonical(_host_of(parts))
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise _denied(f"the host of a tool's URL cannot be used: {error}") from None
        if not may_ask(self._named, host, port) or (address and not may_reach(self._named, host, port, address)):
            raise _not_named(host, port)
        shown = f"[{host}]" if ":" in host else host
        netloc = shown if parts.port is None else f"{shown}:{parts.port}"
        return urlunsplit((parts.scheme, netloc, parts.path, parts.query, ""))

    async def addresses(self, host: str, port: int, timeout_s: float = TOOL_CONNECT_S) -> list[Address]:
        """What a tool may connect to of a host; at least one.

        Args:
            host: a name or an address, the latter with or without brackets.

        Raises:
            ToolError: ``tool_host_denied``, or ``tool_unreachable`` where it has no address.
        """
        try:
            name, address = canonical(f"[{host}]" if ":" in host and not host.startswith("[") else host)
        except ValueError as error:
            raise _denied(f"the host of a tool's URL cannot be used: {error}") from None
        if not may_ask(self._named, name, port):
            raise _not_named(name, port)
        found = [address] if address is not None else await self._look_up(name, port, timeout_s)
        allowed = [each for each in found if may_reach(self._named, name, port, each)]
        if allowed:
            return allowed
        if address is not None:
            raise _not_named(name, port)
        # What a name resolves to inside is for the operator alone to see.
        log.warning("a tool was kept from %s: it has the address %s", name, found[0])
        raise _denied(
            f"{name}:{port} has an address that [tools] allow_hosts lets no tool connect to by that name: name private "
            "hosts and loopback addresses there by themselves; those that give out credentials stay closed"
        )

    async def _look_up(self, name: str, port: int, timeout_s: float) -> list[Address]:
        try:
            async with asyncio.timeout(timeout_s):
                texts = await self._resolve(name, port)
        except TimeoutError:
            raise _unreachable(f"the name {name} was not resolved within {timeout_s:g} s") from None
        except (OSError, UnicodeError):
            raise _unreachable(f"the name {name} cannot be resolved") from None
        # A zone ("fe80::1%eth0") chooses an interface of this machine, which is for nobody outside to choose.
        found = [ipaddress.ip_address(text) for text in texts[:TOOL_ADDRESSES_MAX] if "%" not in text]
        if not found:
            raise _unreachable(f"the name {name} has no address")
        return found


def _split(url: str) -> SplitResult:
    if len(url) > TOOL_URL_CHARS_MAX:
        raise _denied(f"a tool's URL has more than {TOOL_URL_CHARS_MAX} characters")
    if "\\" in url or any(character.isspace() or not character.isprintable() for character in url):
        raise _denied("a tool's URL has a character that is read in different ways")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _denied("a tool's URL cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise _denied("a tool's URL begins with http:// or https://")
    if "@" in parts.netloc:
        # What stands before the @ may be a password, so it is not repeated.
        raise _denied("a tool's URL has a user or password in it; name them with token_env or headers_env")
    return parts


def _host_of(parts: SplitResult) -> str:
    """The host as it stands in the URL, with its brackets; `hostname` takes those away."""
    netloc = parts.netloc
    if netloc.startswith("["):
        return netloc[: netloc.find("]") + 1]
    return netloc.partition(":")[0]


def _denied(message: str) -> ToolError:
    error = ToolError(message, code=DENIED, sent=False)
    error.blame = "operator"
    error.status = 403
    return error


def _not_named(host: str, port: int) -> ToolError:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return _denied(f'{shown} is not in [tools] allow_hosts; add "{shown}" there if tools may connect to it')


def _unreachable(message: str) -> ToolError:
    return ToolError(message, code=UNREACHABLE, sent=False, retryable=True)
