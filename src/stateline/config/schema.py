"""What may be set: one struct a section, with its types, bounds and defaults."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from stateline.config.schema_tools import McpOAuth, McpServer, McpServerTool, ReadBack, Tools
from stateline.core.errors import Blame, StatelineError
from stateline.core.limits import (
    DEPLOYMENT_CALLS_MAX,
    DRAIN_S,
    DRAIN_S_MAX,
    MODEL_CALL_TIMEOUT_S,
    RATE_PER_MINUTE_MAX,
    UPSTREAM_FIRST_BYTE_S,
    UPSTREAM_STALL_S,
    Retention,
    TurnLimits,
)
from stateline.core.limits_tools import SandboxLimits

FILE_NAME = "stateline.toml"
ENVIRON_PREFIX = "STATELINE_"
LOCAL_MODEL = "qwen2.5-coder-0.5b-instruct"
LOCAL_VENDOR = "qwen"
"""The model that needs no key: what is served where no deployment is configured."""

Cloud = Literal["openai", "azure", "anthropic", "aws", "google", "openai-compatible", "local"]
Format = Literal["openai-responses", "openai-chat", "anthropic-messages", "bedrock-converse", "gemini"]


class ConfigError(StatelineError):
    """The configuration cannot be used; nothing was started or changed.

    Attributes:
        code: stable, listed in docs/configuration.md.
        message: what is wrong, with the file or variable and the key.
        hint: what to write instead; empty where the message says it all.
    """

    blame: Blame = "operator"

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, code=code)
        self.hint = hint

    def __str__(self) -> str:
        """One line for a person."""
        line = f"{self.message}; {self.hint}" if self.hint else self.message
        return " ".join(line.split())


def is_loopback(host: str) -> bool:
    """Whether a listening address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Where the API listens, and who may speak for a client behind a proxy."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8700
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    drain_s: Annotated[float, Meta(ge=0, le=DRAIN_S_MAX)] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def drains_for_s(self) -> float:
        """How long a stop goes on answering; nobody balances loads over a loopback address."""
        if self.drain_s is not None:
            return self.drain_s
        return 0.0 if is_loopback(self.host) else DRAIN_S


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log is. After `load`, `url` is the one in force, wherever it was named.

    Only a PostgreSQL URL that `url_env` or `url_file` names stays there, for it may hold a password:
    `store_url` reads it.
    """

    url: str = "sqlite:///stateline.db"
    url_env: str | None = None
    url_file: str | None = None

    @property
    def path(self) -> Path | None:
        """The database file of a `sqlite:///` URL; None for PostgreSQL."""
        return Path(self.url.removeprefix("sqlite:///")) if self.url.startswith("sqlite:") else None


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call. `open` is for this machine alone."""

    mode: Literal["open", "keys", "oidc"] = "open"


TokenAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"]
"""Asymmetric ones alone: whoever can check a token of another kind can make one."""
ClaimName = Annotated[str, Meta(min_length=1, max_length=256)]


class Oidc(msgspec.Struct, frozen=True, kw_only=True):
    """Whose bearer tokens are taken, and what their claims mean. `check` asks for `tenant` or `tenant_claim`."""

    issuer: Annotated[str, Meta(min_length=1)]
    audience: Annotated[tuple[ClaimName, ...], Meta(min_length=1)]
    algorithms: Annotated[tuple[TokenAlgorithm, ...], Meta(min_length=1)] = ("RS256", "ES256")
    jwks_url: str | None = None
    tenant: ClaimName | None = None
    tenant_claim: ClaimName | None = None
    user_claim: ClaimName = "sub"
    scope_claim: ClaimName | None = None
    scope_map: dict[str, tuple[str, ...]] | None = None
    leeway_s: Annotated[float, Meta(ge=0, le=300)] = 30.0
    keys: bool = False


class Vault(msgspec.Struct, frozen=True, kw_only=True):
    """Where the master keys of tools' credentials are; one of the two. After `load`, `key_file` is anchored."""

    key_file: str | None = None
    key_env: str | None = None


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """Where the keys that sign audit chains are; one of the two. After `load`, `key_file` is an absolute path.

    A session's chain is signed within ``anchor_every_s`` after one of its turns has ended.
    """

    key_file: str | None = None
    key_env: str | None = None
    anchor_every_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0


Currency = Annotated[str, Meta(pattern="^[A-Z]{3}$")]
"""ISO 4217."""
Scope = Annotated[str, Meta(min_length=1, max_length=256)]


class DeploymentPrice(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment costs, in its tier. Of input and output, a million tokens each."""

    currency: Currency
    input_per_mtok: Decimal
    output_per_mtok: Decimal = Decimal(0)
    cached_input_per_mtok: Decimal | None = None
    cache_write_per_mtok: Decimal | None = None
    reasoning_per_mtok: Decimal | None = None
    per_call: Decimal = Decimal(0)


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one cloud. Defaults that depend on the cloud are filled in by `load`."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    model: Annotated[str, Meta(min_length=1, max_length=256)]
    cloud: Cloud
    host: str
    format: Format
    upstream_model: Annotated[str, Meta(min_length=1)]
    base_url: str | None = None
    region: str | None = None
    api_version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+$", max_length=64)] | None = None
    vendor: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    data_zone: str | None = None
    accelerator: str | None = None
    product: str | None = None
    channel: str = "direct"
    service_tier: str | None = None
    billing_account: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    price: DeploymentPrice | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    auth: Literal["none", "sigv4", "adc", "entra"] | None = None
    priority: Annotated[int, Meta(ge=0, le=1000)] = 1
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = MODEL_CALL_TIMEOUT_S
    first_byte_s: Annotated[float, Meta(gt=0, le=86_400)] = UPSTREAM_FIRST_BYTE_S
    stall_s: Annotated[float, Meta(gt=0, le=86_400)] = UPSTREAM_STALL_S
    max_concurrency: Annotated[int, Meta(ge=1, le=100_000)] = DEPLOYMENT_CALLS_MAX
    rpm: Annotated[int, Meta(ge=1, le=RATE_PER_MINUTE_MAX)] | None = None
    tpm: Annotated[int, Meta(ge=1, le=RATE_PER_MINUTE_MAX)] | None = None


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """What clauses may ask of a product that deployments name."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    shipped_on: tuple[str, ...] = ()
    declined_by: tuple[str, ...] = ()


class Contracts(msgspec.Struct, frozen=True, kw_only=True):
    """The contracts that placements are held against. After `load`, `path` is anchored.

    `posture` resolves contested clauses: `strict`, or a holder of readings. With `observe` verdicts are
    recorded and block nothing. A contract may set its own of both.
    """

    path: Annotated[str, Meta(min_length=1)]
    posture: Annotated[str, Meta(min_length=1, max_length=128)] = "strict"
    mode: Literal["enforce", "observe"] = "enforce"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The policies that tool calls are held against. After `load`, `path` is anchored.

    With `log_only` rulings are recorded and stop nothing.
    """

    path: Annotated[str, Meta(min_length=1)]
    mode: Literal["enforce", "log_only"] = "enforce"


class Approvals(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that seal what persons are asked: one a line, the first seals, the others still open."""

    key_env: str | None = None
    key_file: str | None = None


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """Where traces and metrics go. Without `endpoint` there are none."""

    endpoint: Annotated[str, Meta(pattern="^https?://")] | None = None
    traces: bool = True
    metrics: bool = False
    headers_env: dict[str, str] = {}
    service_name: Annotated[str, Meta(min_length=1, max_length=128)] = "stateline"
    content: bool = False


class CurrencyRate(msgspec.Struct, frozen=True, kw_only=True, rename={"have": "from", "want": "to"}):
    """What one unit of a currency is in another, from a day on (UTC)."""

    have: Currency
    want: Currency
    rate: Decimal
    on: date


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """Where prices come from, and what becomes of calls that have none. After `load`, `path` is anchored.

    `path` holds files of rows, which go before the book that comes with Stateline (`shipped`). With `placement`
    `price`, of deployments of one priority the one that costs least in effect goes first: its list price, less what
    its use is worth to commitments by the file of marginal values (`values`; `stateline contracts plan`).
    """

    path: Annotated[str, Meta(min_length=1)] | None = None
    shipped: bool = True
    unpriced: Literal["unbudgeted", "allow", "refuse"] = "unbudgeted"
    placement: Literal["weight", "price"] = "weight"
    values: Annotated[str, Meta(min_length=1)] | None = None
    rates: tuple[CurrencyRate, ...] = ()


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What may be spent in each UTC calendar month by calls that agree with all that it names."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    usd_per_month: Decimal
    mode: Literal["hard", "warn"] = "hard"
    tenant: Scope | None = None
    key: Scope | None = None
    agent: Scope | None = None
    session: Scope | None = None
    model: Scope | None = None


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What each API key may do whose calls agree with all that it names, counted by itself."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    requests_per_minute: Annotated[int, Meta(ge=1, le=RATE_PER_MINUTE_MAX)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1, le=RATE_PER_MINUTE_MAX)] | None = None
    max_concurrency: Annotated[int, Meta(ge=1, le=RATE_PER_MINUTE_MAX)] | None = None
    tenant: Scope | None = None
    key: Scope | None = None
    model: Scope | None = None


class AgentTool(msgspec.Struct, frozen=True, kw_only=True):
    """A server whose tools an agent uses."""

    server: Annotated[str, Meta(min_length=1, max_length=64)]
    allowed_tools: tuple[str, ...] | None = None
    require_approval: Literal["always", "never"] = "never"


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent, used as the model ``agent/NAME``."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9._-]*$")]
    model: Annotated[str, Meta(min_length=1, max_length=256)]
    instructions: str | None = None
    instructions_file: str | None = None
    description: Annotated[str, Meta(max_length=1024)] = ""
    version: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    tools: tuple[AgentTool, ...] = ()
    max_output_tokens: Annotated[int, Meta(ge=16)] | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None


class Sandbox(SandboxLimits, frozen=True, kw_only=True):
    """Where code of models runs, if anywhere. After `load`, `path` is anchored."""

    enabled: bool = False
    path: Annotated[str, Meta(min_length=1)] = "workspaces"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an operator may set; see docs/configuration.md."""

    server: Server = msgspec.field(default_factory=Server)
    store: Store = msgspec.field(default_factory=Store)
    auth: Auth = msgspec.field(default_factory=Auth)
    oidc: Oidc | None = None
    vault: Vault | None = None
    audit: Audit | None = None
    deployments: tuple[Deployment, ...] = ()
    products: tuple[Product, ...] = ()
    contracts: Contracts | None = None
    policy: Policy | None = None
    prices: Prices = msgspec.field(default_factory=Prices)
    budgets: tuple[Budget, ...] = ()
    rate_limits: tuple[RateLimit, ...] = ()
    tools: Tools = msgspec.field(default_factory=Tools)
    mcp_servers: tuple[McpServer, ...] = ()
    sandbox: Sandbox = msgspec.field(default_factory=Sandbox)
    limits: TurnLimits = msgspec.field(default_factory=TurnLimits)
    retention: Retention = msgspec.field(default_factory=Retention)
    agents: tuple[Agent, ...] = ()
    approvals: Approvals = msgspec.field(default_factory=Approvals)
    telemetry: Telemetry = msgspec.field(default_factory=Telemetry)

    @property
    def uses_tools(self) -> bool:
        """Whether any tool can be called: there is a host of the operator's, or requests may name one."""
        tools = self.tools
        return bool(self.mcp_servers or tools.allow_hosts or tools.functions or self.sandbox.enabled)


SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "server": Server,
    "store": Store,
    "auth": Auth,
    "oidc": Oidc,
    "vault": Vault,
    "audit": Audit,
    "deployments": Deployment,
    "products": Product,
    "contracts": Contracts,
    "policy": Policy,
    "prices": Prices,
    "budgets": Budget,
    "rate_limits": RateLimit,
    "tools": Tools,
    "mcp_servers": McpServer,
    "sandbox": Sandbox,
    "limits": TurnLimits,
    "retention": Retention,
    "agents": Agent,
    "approvals": Approvals,
    "telemetry": Telemetry,
}

LISTS = frozenset({"agents", "budgets", "deployments", "mcp_servers", "products", "rate_limits"})
"""Sections of which there may be several, each with a name."""

TABLES: Mapping[tuple[str, str], type[msgspec.Struct]] = {
    ("agents", "tools"): AgentTool,
    ("deployments", "price"): DeploymentPrice,
    ("prices", "rates"): CurrencyRate,
    ("mcp_servers", "oauth"): McpOAuth,
    ("mcp_servers", "tools"): McpServerTool,
}
"""Keys whose values are tables themselves, or lists of them."""

BY_NAME = frozenset({("mcp_servers", "tools")})
"""Those of them whose tables have names that the operator chooses."""

WITHIN: Mapping[tuple[type[msgspec.Struct], str], type[msgspec.Struct]] = {(McpServerTool, "read_back"): ReadBack}
"""Keys of such tables whose values are tables in their turn."""

BUDGET_SCOPES = ("tenant", "key", "agent", "session", "model")
RATE_SCOPES = ("tenant", "key", "model")
RATES = ("requests_per_minute", "tokens_per_minute", "max_concurrency")

CLOUD_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "openai": {"format": "openai-responses", "base_url": "https://api.openai.com/v1"},
    "azure": {"format": "openai-responses"},
    "aws": {"format": "bedrock-converse", "auth": "sigv4"},
    "anthropic": {"format": "anthropic-messages", "base_url": "https://api.anthropic.com/v1"},
    "google": {"format": "gemini", "base_url": "https://generativelanguage.googleapis.com/v1beta"},
    "openai-compatible": {"format": "openai-chat"},
    "local": {"format": "openai-chat", "auth": "none"},
}


class Source(msgspec.Struct, frozen=True):
    """Where values came from, so that an error names the place to mend."""

    file: str
    variables: Mapping[str, str]

    def at(self, key_path: str) -> str:
        """`stateline.toml: server.port`, or `STATELINE_SERVER__PORT`."""
        return self.variables.get(key_path) or f"{self.file}: {key_path}"


def declared(section: str, key: str) -> list[Any]:
    """The members of the type of a key, a union's each; none for an unknown key."""
    for field in msgspec.structs.fields(SECTIONS[section]):
        if field.name == key:
            union = isinstance(field.type, UnionType) or get_origin(field.type) is Union
            return list(get_args(field.type)) if union else [field.type]
    return []


def choices_of(section: str, key: str) -> str:
    """The values that a key of fixed values may have, for a person."""
    literals = [part for part in declared(section, key) if get_origin(part) is Literal]
    return ", ".join(f'"{value}"' for part in literals for value in get_args(part))
