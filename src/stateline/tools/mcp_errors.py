"""What goes wrong with an MCP server, in our own words: a server's may repeat what it was sent."""

from __future__ import annotations

from stateline.core.limits import MCP_ANSWER_BYTES_MAX
from stateline.core.tools import ToolError
from stateline.tools.egress import UNREACHABLE

AUTH_REFUSED = "tool_auth_refused"
TIMED_OUT = "tool_timeout"
TOO_LARGE = "tool_answer_too_large"
PROTOCOL = "tool_protocol_error"
NOT_ALLOWED = "tool_not_allowed"
BUSY = "tool_busy"


def unreachable(label: str, what: str, *, sent: bool) -> ToolError:
    return ToolError(f"MCP server {label}: {what}", code=UNREACHABLE, sent=sent, retryable=True)


def auth_refused(label: str, status: int, *, sent: bool) -> ToolError:
    how = f"it answered {status}" if status else "no token was given out for it"
    message = f"MCP server {label}: {how}; check what it is sent to know the caller by, and what that may do"
    error = ToolError(message, code=AUTH_REFUSED, sent=sent)
    error.blame = "operator"
    return error


def too_large(label: str) -> ToolError:
    message = f"MCP server {label}: its answer has more than {MCP_ANSWER_BYTES_MAX} bytes"
    return ToolError(message, code=TOO_LARGE, sent=True)


def timed_out(label: str, seconds: float, *, sent: bool) -> ToolError:
    message = f"MCP server {label}: no answer within {seconds:g} s"
    return ToolError(message, code=TIMED_OUT, sent=sent, retryable=True)


def protocol(label: str, what: str, *, sent: bool) -> ToolError:
    return ToolError(f"MCP server {label}: {what}", code=PROTOCOL, sent=sent)


def unsent(error: ToolError) -> ToolError:
    """The same error of a message that is no call: whatever became of it, no tool was run."""
    same = ToolError(error.message, code=error.code, sent=False, retryable=error.retryable)
    same.blame, same.status = error.blame, error.status
    return same
