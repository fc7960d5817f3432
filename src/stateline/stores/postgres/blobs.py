"""Large content in a table of its own, once per content and tenant.

It is written with the events that refer to it, and deleted with the last of them.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable, Sequence

from stateline.core.blobs import MARK, blob_name, join, may_hold, references, split, tenant_key
from stateline.core.errors import StoreUnavailable
from stateline.stores.postgres.connecting import Connection
from stateline.stores.postgres.lookup import TENANT
from stateline.stores.postgres.requests import Request


class Blobs:
    """Takes content out of bodies, and puts it back."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    async def move_out(self, requests: Sequence[Request]) -> None:
        """Leave references in the bodies; off the event loop, for naming content takes time."""
        large = [request for request in requests if request.large]
        await asyncio.get_running_loop().run_in_executor(None, self._move_out, large)

    def _move_out(self, requests: Sequence[Request]) -> None:
        for request in requests:
            key = tenant_key(self._secret, request.session.tenant)
            blobs = request.blobs

            def keep(content: bytes, key: bytes = key, blobs: dict[str, bytes] = blobs) -> str:
                name = blob_name(key, content)
                blobs[name] = content
                return name

            request.bodies = [split(raw, keep) if may_hold(raw) else raw for raw in request.bodies]
            request.large = False

    async def fetch(self, db: Connection, tenant: str, bodies: Iterable[bytes]) -> dict[str, bytes]:
        """The content that bodies of a tenant refer to, by name."""
        names = sorted({name for raw in bodies if raw.startswith(MARK) for name in references(raw)})
        if not names:
            return {}
        rows = await db.fetch(
            f"SELECT b.name, b.content FROM stateline_blobs b WHERE b.tenant = {TENANT.format(name='$1')}"
            " AND b.name = ANY($2::text[])",
            tenant,
            names,
        )
        return {row[0]: row[1] for row in rows}

    def put_back(self, tenant: str, raw: bytes, contents: dict[str, bytes]) -> bytes:
        """A stored body as it was appended.

        Raises:
            StoreUnavailable: content is missing or changed.
        """
        if not raw.startswith(MARK):
            return raw
        key = tenant_key(self._secret, tenant)

        def load(name: str) -> bytes:
            content = contents.get(name)
            if content is None:
                raise _lost(name, "it is missing")
            if not hmac.compare_digest(blob_name(key, content), name):
                raise _lost(name, "it has changed")
            return content

        return join(raw, load)


def _lost(name: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"stored content {name[:16]}… cannot be read ({why}); restore the database from a backup", code="blob_lost"
    )
