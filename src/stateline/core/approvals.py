"""What an approval binds: terms, sealed with a key that nobody outside has.

The seal is HMAC-SHA256: whoever makes it is who checks it, so nothing would be gained by a key that others may have.
It holds a tag for each term, and a code over all tags. Thus a term that has changed is known by its name, without the
terms themselves being in the seal, and neither a tag nor their order can be changed by anybody.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from hmac import compare_digest
from hmac import digest as hmac_digest

from stateline.core.arguments import ArgumentsError, canonical_arguments
from stateline.core.limits import APPROVAL_KEY_BYTES_MIN
from stateline.core.tools import Asked, Terms

_VERSION = "a1"
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_TAG_BYTES = 16
_SEAL_BYTES = 32
_TAG, _SEAL = b"stateline approval 1 tag\0", b"stateline approval 1 seal\0"

CHANGED: Mapping[str, str] = {
    "tenant": "approval_tenant_changed",
    "session": "approval_call_changed",
    "call": "approval_call_changed",
    "server": "approval_tool_changed",
    "server_url": "approval_tool_changed",
    "tool": "approval_tool_changed",
    "arguments": "approval_arguments_changed",
    "principal": "approval_principal_changed",
    "user": "approval_principal_changed",
    "agent": "approval_agent_changed",
    "demanded_by": "approval_demand_changed",
    "policy_version": "approval_policy_changed",
    "expires_ms": "approval_expiry_changed",
}
"""What it is called when a term is not what was approved; whatever a Terms has is here, and so is bound."""
assert tuple(CHANGED) == Terms._fields


class Sealer:
    """The keys of an installation: one that seals, and those before it, which still open.

    Args:
        keys: by their ids; one that is taken away voids whatever it has sealed.
        current: the id of the one that seals.

    Raises:
        ValueError: an id that is none, or a key that is too short.
    """

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        for key_id, key in keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise ValueError("a key's id has 1 to 32 letters, digits, dashes or underscores")
            if len(key) < APPROVAL_KEY_BYTES_MIN:
                raise ValueError(f"a key has {APPROVAL_KEY_BYTES_MIN} bytes at least")
        if current not in keys:
            raise ValueError(f"there is no key {current}")
        self._keys = dict(keys)
        self._current = current

    def sign(self, terms: Terms) -> Asked:
        """What a person is asked, with the seal of these terms."""
        return Asked(
            demanded_by=terms.demanded_by,
            principal=terms.principal,
            user=terms.user,
            agent=terms.agent,
            server_url=terms.server_url,
            expires_ms=terms.expires_ms,
            policy_version=terms.policy_version,
            key_id=self._current,
            signature=seal(terms, self._current, self._keys[self._current]),
        )

    def refusal(self, terms: Terms, asked: Asked, now_ms: int) -> str | None:
        """The code of why a yes to what was asked does not let go a call of these terms; None where it does."""
        return refusal(terms, asked.key_id, asked.signature, self._keys.get(asked.key_id), now_ms)


def seal(terms: Terms, key_id: str, key: bytes) -> str:
    """The seal of these terms: some 320 characters, the same at each time."""
    tags = b"".join(_tag(terms, name, key) for name in CHANGED)
    return f"{_VERSION}.{urlsafe_b64encode(tags + _over(key_id, tags, key)).decode()}"


def refusal(terms: Terms, key_id: str, signature: str, key: bytes | None, now_ms: int) -> str | None:
    """Why these are not the terms that were sealed, or no longer hold, as a code; None where they are and do.

    ``approval_key_unknown`` (there is no such key), ``approval_forged`` (it was not sealed with it), the code of the
    first term that has changed, or ``approval_expired``.
    """
    if key is None:
        return "approval_key_unknown"
    version, _, text = signature.partition(".")
    try:
        sealed = urlsafe_b64decode(text)
    except ValueError:  # Not ASCII, or cut.
        sealed = b""
    tags, over = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
    # A decoder passes over what is no base64, and over padding that it does not need: there is one way to write a seal.
    right = (
        version == _VERSION and len(tags) == _TAG_BYTES * len(CHANGED) and urlsafe_b64encode(sealed).decode() == text
    )
    if not right or not compare_digest(over, _over(key_id, tags, key)):
        return "approval_forged"
    for at, (name, code) in enumerate(CHANGED.items()):
        if not compare_digest(tags[at * _TAG_BYTES : (at + 1) * _TAG_BYTES], _tag(terms, name, key)):
            return code
    return "approval_expired" if now_ms >= terms.expires_ms else None


def by_another(asked: Asked, principal: str, user: str) -> bool:
    """Whether somebody is another than whoever the call is for: what a policy demands only such a one may let go.

    One person with two keys is no other, where both keys name that person (``user``).
    """
    return principal not in ("", asked.principal) and (not user or user != asked.user)


def _tag(terms: Terms, name: str, key: bytes) -> bytes:
    if name == "arguments":
        data = _bound(terms.arguments)
    else:
        # Half of a surrogate pair is no text, but must not be taken for another.
        data = str(getattr(terms, name)).encode("utf-8", "surrogatepass")
    return hmac_digest(key, _TAG + name.encode() + b"\0" + data, "sha256")[:_TAG_BYTES]


def _bound(arguments: str) -> bytes:
    """Their one form; where tools would read them in different ways and there is none, what was written."""
    try:
        return canonical_arguments(arguments)
    except ArgumentsError:
        return b"\0" + arguments.encode("utf-8", "surrogatepass")


def _over(key_id: str, tags: bytes, key: bytes) -> bytes:
    return hmac_digest(key, _SEAL + key_id.encode("utf-8", "surrogatepass") + b"\0" + tags, "sha256")
