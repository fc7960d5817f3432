"""The lines of an audit export, and what is kept of a chain whose session was erased.

`core.audit` makes and checks them. A line is its struct as JSON in msgspec's own form, so one that reads the same but
is written otherwise is found.
"""

from __future__ import annotations

import msgspec


class _Line(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    pass


class Header(_Line, tag="audit", frozen=True, gc=False, kw_only=True):
    """The first line. ``keys`` are the Ed25519 public keys (32 bytes, RFC 8032) that its anchors are signed with."""

    form: int
    keys: tuple[bytes, ...]


class Chain(_Line, tag="chain", frozen=True, gc=False, kw_only=True):
    """A session's chain begins. ``erased``: its content and salts are destroyed."""

    tenant: str
    session: str
    erased: bool = False


class Record(_Line, tag="record", frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One link. What may be kept for ever is all but ``salt`` and ``content``.

    Attributes:
        session: whose event it is: of a fork's prefix, the parent's.
        seq, at_ms: the event's.
        kind: ``prompt``, ``placement``, ``answer``, ``cost``, ``tools``, ``policy``, ``approval``, ``effect``, ``end``,
            ``session``, ``deletion``.
        leaf: HMAC-SHA256 of the content under the salt.
        link: SHA-256 of the link before, and of all the above.
    """

    session: str
    seq: int
    at_ms: int
    kind: str
    leaf: bytes
    link: bytes
    salt: bytes | None = None
    content: str | None = None


class Anchor(_Line, tag="anchor", frozen=True, gc=False, kw_only=True):
    """A signature over a chain as far as it went: ``count`` records, the last one's ``link``."""

    count: int
    link: bytes
    at_ms: int
    key: bytes
    signature: bytes


class End(_Line, tag="end", frozen=True, gc=False, kw_only=True):
    """The last line: a signature over all lines before it, so that none is cut off."""

    chains: int
    records: int
    digest: bytes
    at_ms: int
    key: bytes
    signature: bytes


Line = Header | Chain | Record | Anchor | End
