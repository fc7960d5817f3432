"""What may be set of tools: where they connect to, and the MCP servers that they live at."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stateline.core.limits import (
    MCP_NAME_CHARS_MAX,
    TOOL_CALL_S,
    TOOL_CONNECT_S,
    TOOL_OUTPUT_BYTES_MAX,
    TOOL_OUTPUT_SHOWN_BYTES,
    TOOLS_MAX,
)
from stateline.core.limits_tools import (
    FUNCTION_SECRETS_MAX,
    TOOL_FUNCTION_S,
    TOOL_FUNCTIONS_AT_ONCE,
    TOOL_FUNCTIONS_MAX,
    TOOL_OUTPUT_SHOWN_BYTES_MIN,
)
from stateline.core.tools import EffectClass

Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
ToolName = Annotated[str, Meta(min_length=1, max_length=MCP_NAME_CHARS_MAX)]


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all tools of the node.

    `allow_hosts` is where they may connect to; `allow_commands` which programs may be started as MCP servers.
    `functions` are the operator's own, by entry point or `package.module:attribute`; `function_secrets` are what
    each of them may have of the vault, as `vault:NAME`. `output_shown_bytes` is what a model sees of one output of
    text.
    """

    allow_hosts: tuple[str, ...] = ()
    allow_commands: tuple[str, ...] = ()
    functions: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=TOOL_FUNCTIONS_MAX)
    ] = ()
    functions_at_once: Annotated[int, Meta(ge=1, le=1000)] = TOOL_FUNCTIONS_AT_ONCE
    function_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = TOOL_FUNCTION_S
    function_secrets: Annotated[
        dict[ToolName, Annotated[tuple[str, ...], Meta(max_length=FUNCTION_SECRETS_MAX)]],
        Meta(max_length=TOOL_FUNCTIONS_MAX),
    ] = {}
    output_shown_bytes: Annotated[int, Meta(ge=TOOL_OUTPUT_SHOWN_BYTES_MIN, le=TOOL_OUTPUT_BYTES_MAX)] = (
        TOOL_OUTPUT_SHOWN_BYTES
    )


class ReadBack(msgspec.Struct, frozen=True, kw_only=True):
    """A tool of the same server that proves what another did: its answer repeats the key, and has `where` in it."""

    tool: ToolName
    key_argument: Annotated[str, Meta(min_length=1)]
    key_field: Annotated[str, Meta(min_length=1)] | None = None
    where: dict[str, Any] = {}


class McpServerTool(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's word on one tool of a server."""

    effect: EffectClass | None = None
    read_back: ReadBack | None = None


class McpOAuth(msgspec.Struct, frozen=True, kw_only=True):
    """Client credentials with which tokens are got from an issuer: a secret, or a private key in PEM.

    `client_secret` and `private_key` are `vault:NAME`.
    """

    client_id: Annotated[str, Meta(min_length=1)]
    issuer: Annotated[str, Meta(min_length=1)]
    client_secret: str | None = None
    client_secret_env: str | None = None
    client_secret_file: str | None = None
    private_key: str | None = None
    private_key_env: str | None = None
    private_key_file: str | None = None
    algorithm: Literal["RS256", "PS256", "ES256", "EdDSA"] = "RS256"
    method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    scope: str | None = None


class McpServer(msgspec.Struct, frozen=True, kw_only=True):
    """One MCP server of the operator's.

    `authorization` and the values of `env_vault` are `vault:NAME`, and those of `headers` may be.
    """

    label: Label
    url: Annotated[str, Meta(min_length=1)] | None = None
    command: Annotated[str, Meta(min_length=1)] | None = None
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    env_vault: dict[str, str] = {}
    trusted: bool = False
    allowed_tools: Annotated[tuple[ToolName, ...], Meta(max_length=TOOLS_MAX)] | None = None
    headers: dict[str, str] = {}
    headers_env: dict[str, str] = {}
    authorization: str | None = None
    token_env: str | None = None
    token_file: str | None = None
    oauth: McpOAuth | None = None
    data_zone: str | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = TOOL_CALL_S
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600)] = TOOL_CONNECT_S
    elicitation: Literal["decline", "defaults"] = "decline"
    tools: dict[ToolName, McpServerTool] = {}
