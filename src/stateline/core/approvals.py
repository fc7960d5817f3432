"""What an approval binds: terms, sealed with a key that nobody outside has.

The seal is HMAC-SHA256: whoever makes it is who checks it, so nothing would be gained by a key that others may have.
It holds a tag for each term, and a code over all tags. Thus a term that has changed is known by its name, without the
terms themselves being in the seal, and neither a tag nor their order can be changed by anybody.
"""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from hmac import compare_digest
from hmac import digest as hmac_digest
from typing import Literal

import msgspec

from stateline.core.errors import Forbidden
from stateline.core.limits import APPROVAL_KEY_BYTES_MIN

Demand = Literal["client", "policy"]
"""Who wants it: what a client asked to be asked, its own principal may answer; what a policy demands, another must."""

_VERSION = "a1"
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_TAG_BYTES = 16
_SEAL_BYTES = 32
_TAG, _SEAL = b"stateline approval 1 tag\0", b"stateline approval 1 seal\0"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says yes to; all of it, and nothing else.

    Attributes:
        call: the effect's key.
        arguments: in the one form of ``core.arguments.canonical_arguments``.
        principal, agent: who asked for the call, and the agent that acts for them; empty where there is none.
        policy_version: of the ruling; empty where no policies are set.
        expires_ms: Unix time from which on it is worth nothing.
    """

    tenant: str
    session: str
    turn: str
    call: str
    server: str
    tool: str
    arguments: bytes
    principal: str
    agent: str
    demand: Demand
    policy_version: str
    expires_ms: int


_CHANGED: dict[str, str] = {
    "tenant": "approval_tenant_changed",
    "session": "approval_call_changed",
    "turn": "approval_call_changed",
    "call": "approval_call_changed",
    "server": "approval_tool_changed",
    "tool": "approval_tool_changed",
    "arguments": "approval_arguments_changed",
    "principal": "approval_principal_changed",
    "agent": "approval_agent_changed",
    "demand": "approval_demand_changed",
    "policy_version": "approval_policy_changed",
    "expires_ms": "approval_expiry_changed",
}
"""What it is called when a term is not what was approved."""
assert tuple(_CHANGED) == Terms.__struct_fields__


class ApprovalRefused(Forbidden):
    """An approval that does not let this call go; ``code`` says why."""

    code = "approval_forged"


def sign(terms: Terms, key_id: str, key: bytes) -> str:
    """The seal of these terms, some 330 characters.

    Raises:
        ValueError: an id that is none, or a key that is too short.
    """
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError("a key's id has 1 to 32 letters, digits, dashes or underscores")
    _check(key)
    tags = b"".join(_tag(terms, name, key) for name in _CHANGED)
    return f"{_VERSION}.{key_id}.{urlsafe_b64encode(tags + _seal(key_id, tags, key)).decode()}"


def verify(terms: Terms, signature: str, keys: Mapping[str, bytes], now_ms: int) -> None:
    """Whether these are the terms that were sealed, and still hold.

    Args:
        keys: by their ids; those that were used before are kept for as long as their approvals may be used.

    Raises:
        ApprovalRefused: ``approval_forged``, ``approval_key_unknown``, the code of the first term that has changed,
            or ``approval_expired``.
        ValueError: a key that is too short.
    """
    version, _, rest = signature.partition(".")
    key_id, _, text = rest.partition(".")
    if version != _VERSION or not _KEY_ID.fullmatch(key_id):
        raise ApprovalRefused("this is no seal of an approval")
    key = keys.get(key_id)
    if key is None:
        raise ApprovalRefused("the key that sealed this approval is no longer here", code="approval_key_unknown")
    _check(key)
    try:
        sealed = b64decode(text, altchars=b"-_", validate=True)
    except ValueError:  # Characters that base64 does not have, or that are not ASCII.
        sealed = b""
    tags, seal = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
    if len(tags) != _TAG_BYTES * len(_CHANGED) or not compare_digest(seal, _seal(key_id, tags, key)):
        raise ApprovalRefused("this approval was not sealed here")
    for at, (name, code) in enumerate(_CHANGED.items()):
        if not compare_digest(tags[at * _TAG_BYTES : (at + 1) * _TAG_BYTES], _tag(terms, name, key)):
            raise ApprovalRefused(f"the {name} is not the one that was approved; ask for another approval", code=code)
    if now_ms >= terms.expires_ms:
        raise ApprovalRefused("the approval has expired; ask for another", code="approval_expired")


def may_answer(terms: Terms, tenant: str, principal: str) -> str | None:
    """Why somebody may not answer, as a code; None where they may.

    Whoever asks must belong to the tenant: another's approvals do not exist for them.
    """
    if tenant != terms.tenant:
        return "approval_not_found"
    if not principal:
        return "approval_nobody"
    if terms.demand == "policy" and principal == terms.principal:
        return "approval_own_request"
    return None


def _check(key: bytes) -> None:
    if len(key) < APPROVAL_KEY_BYTES_MIN:
        raise ValueError(f"a key has {APPROVAL_KEY_BYTES_MIN} bytes at least")


def _tag(terms: Terms, name: str, key: bytes) -> bytes:
    value = getattr(terms, name)
    # Half of a surrogate pair is no text, but must not be taken for another.
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return hmac_digest(key, _TAG + name.encode() + b"\0" + data, "sha256")[:_TAG_BYTES]


def _seal(key_id: str, tags: bytes, key: bytes) -> bytes:
    return hmac_digest(key, _SEAL + key_id.encode() + b"\0" + tags, "sha256")
