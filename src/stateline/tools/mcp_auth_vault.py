"""The SDK's client credentials with a secret that lies in the vault. Imported with the SDK, when a server is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx2
from mcp.client.auth import TokenStorage

from stateline.tools.mcp_auth_issuer import ClientCredentials


class SealedClientCredentials(ClientCredentials):
    """Opens the secret for each request for a token; the SDK's own holds it as long as it lives.

    Args:
        secret: opens it; raises ToolError.
    """

    def __init__(
        self,
        url: str,
        storage: TokenStorage,
        client_id: str,
        secret: Callable[[], Awaitable[str]],
        *,
        method: Literal["client_secret_basic", "client_secret_post"],
        scope: str | None,
        issuer: str | None,
    ) -> None:
        super().__init__(url, storage, client_id, "", method, scope, issuer)
        self.named_issuer = issuer
        self._secret = secret

    async def _exchange_token_client_credentials(self) -> httpx2.Request:
        async with self._open():
            return await super()._exchange_token_client_credentials()

    async def _refresh_token(self) -> httpx2.Request:
        async with self._open():
            return await super()._refresh_token()

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[None]:
        held: Any = self.context.client_info or self._fixed_client_info
        self.context.client_info = held.model_copy(update={"client_secret": await self._secret()})
        try:
            yield
        finally:
            self.context.client_info = held
