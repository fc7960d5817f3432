"""Headers that people give for others' servers: which may be given, and what they may be made of."""

from __future__ import annotations

from stateline.core.limits import MCP_HEADER_CHARS_MAX

_OURS = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host"),
        *("idempotency-key", "keep-alive", "last-event-id", "proxy-authorization", "proxy-connection", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    }
)
_SECRET = ("authorization", "cookie", "token", "secret", "password", "credential", "key")


def is_ours(name: str) -> bool:
    """Whether the connection or the protocol sets a header by itself."""
    lower = name.lower()
    return lower in _OURS or lower.startswith(("mcp-", "sec-"))


def may_be_secret(name: str) -> bool:
    """Whether a header is one in which secrets go, by its name."""
    return any(part in name.lower() for part in _SECRET)


def fits(name: str, value: str) -> bool:
    """Whether both can stand in a request, without beginning another line there."""
    token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    plain = value.isascii() and value.isprintable() and value == value.strip()
    return token and plain and len(name) + len(value) <= MCP_HEADER_CHARS_MAX
