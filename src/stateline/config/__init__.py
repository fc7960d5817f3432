"""The configuration: `stateline.toml`, environment overrides, and every check on them.

`load` reads one file and answers with a frozen `Config`, or raises `ConfigError`, which says in
one line which key of which file is wrong and what to write instead. Secrets never enter a
`Config`: it holds the names of the places where they are, and `api_key` reads one when needed.

Every key is described in docs/configuration.md, and a test keeps the two equal.
"""

from __future__ import annotations

from stateline.config.load import load
from stateline.config.schema import (
    LOCAL_MODEL,
    LOCAL_VENDOR,
    Agent,
    AgentTool,
    Auth,
    Budget,
    Config,
    ConfigError,
    Contracts,
    Deployment,
    DeploymentPrice,
    Policy,
    Prices,
    Server,
    Store,
    Telemetry,
    is_loopback,
)
from stateline.config.schema_tools import McpServer, Tools
from stateline.config.secrets import api_key, approval_keys, audit_keys, instructions_of, store_url, vault_keys
from stateline.core.limits import Retention

__all__ = [
    "LOCAL_MODEL",
    "LOCAL_VENDOR",
    "Agent",
    "AgentTool",
    "Auth",
    "Budget",
    "Config",
    "ConfigError",
    "Contracts",
    "Deployment",
    "DeploymentPrice",
    "McpServer",
    "Policy",
    "Prices",
    "Retention",
    "Server",
    "Store",
    "Telemetry",
    "Tools",
    "api_key",
    "approval_keys",
    "audit_keys",
    "instructions_of",
    "is_loopback",
    "load",
    "store_url",
    "vault_keys",
]
