"""What is set of one MCP server, by the operator or by a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stateline.core.limits import TOOL_CALL_S, TOOL_CONNECT_S
from stateline.core.tools import EffectClass
from stateline.tools.credentials import Credentials, Named

Secrets = Callable[[], Mapping[str, str]]
"""Values that are read when they are needed, so that none is kept here, or shown with what holds them."""


def _none() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """A tool of the same server that proves an effect: its answer repeats the key, and says what is asked of it.

    Attributes:
        tool: which changes nothing.
        key_argument: its argument that takes the effect's key.
        key_field: the field of its answer that repeats the key.
        where: further fields that the answer must have with these values, such as ``{"status": "succeeded"}``.
    """

    tool: str
    key_argument: str
    key_field: str
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class McpServer:
    """One server and how far it is believed.

    Attributes:
        url: of its streamable HTTP endpoint; None: it is started here, with ``command``.
        command: the program, by its whole path, and its arguments. Of the operator alone.
        env: variables that it gets beside PATH, HOME and the like.
        headers: sent with each request, the token among them.
        trusted: its annotations may lower the effect class of its tools.
        allowed_tools: those to use; None: all.
        read_only: those to use by the server's hint; None: all.
        effects, read_backs: the operator's word, by tool.
        elicitation: what a server that asks for input is told: nothing is known of it, or what its form proposes.
        auth: makes what gets tokens (an ``httpx2.Auth``) for a URL.
        vault: which of its secrets are in the vault; None: none.
        credentials: those, for the one tenant that this server is called for.
    """

    label: str
    url: str | None = None
    command: tuple[str, ...] = ()
    env: Secrets = field(default=_none, repr=False)
    headers: Secrets = field(default=_none, repr=False)
    trusted: bool = False
    allowed_tools: frozenset[str] | None = None
    read_only: bool | None = None
    effects: Mapping[str, EffectClass] = field(default_factory=dict[str, EffectClass])
    read_backs: Mapping[str, ReadBack] = field(default_factory=dict[str, ReadBack])
    data_zone: str = ""
    timeout_s: float = TOOL_CALL_S
    connect_timeout_s: float = TOOL_CONNECT_S
    elicitation: Literal["decline", "defaults"] = "decline"
    auth: Callable[[str], Any] | None = field(default=None, repr=False)
    vault: Named | None = None
    credentials: Credentials | None = field(default=None, repr=False)
