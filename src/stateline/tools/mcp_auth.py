"""Tokens for MCP servers that are given out to programs: OAuth's client credentials, over the SDK's own flow.

What the flow asks (metadata, tokens) goes through the connection's HTTP client, so the egress rule holds for it, too.
The issuer is configured: a server that could name its own would be sent the secret (RFC 9700, mix-up).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

MakeAuth = Callable[[str], Any]
"""From a server's URL to what authorizes requests to it (an ``httpx2.Auth``)."""


class MemoryTokens:
    """Keeps tokens as long as the process lives, so that a new connection goes on with the last one."""

    def __init__(self, client: OAuthClientInformationFull | None = None) -> None:
        self._tokens: OAuthToken | None = None
        self._client = client

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


def client_credentials(
    client_id: str,
    secret: Callable[[], str],
    issuer: str | None,
    *,
    scope: str | None = None,
    method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic",
) -> MakeAuth:
    """The grant of RFC 6749, 4.4, with a secret that is read when a connection is made."""
    tokens = MemoryTokens()

    def make(url: str) -> Any:
        from stateline.tools.mcp_auth_issuer import ClientCredentials

        auth = ClientCredentials(url, tokens, client_id, secret(), method, scope, issuer)
        auth.named_issuer = issuer
        return auth

    return make


def private_key_jwt(
    client_id: str, key: Callable[[], str], issuer: str | None, *, scope: str | None = None, algorithm: str = "RS256"
) -> MakeAuth:
    """The same, with an assertion that is signed with a private key in PEM (RFC 7523, 2.2)."""
    tokens = MemoryTokens()

    def make(url: str) -> Any:
        from mcp.client.auth.extensions.client_credentials import SignedJWTParameters

        from stateline.tools.mcp_auth_issuer import PrivateKeyJwt

        signed = SignedJWTParameters(
            issuer=client_id, subject=client_id, signing_key=key(), signing_algorithm=algorithm
        ).create_assertion_provider()
        auth = PrivateKeyJwt(url, tokens, client_id, signed, scope, issuer)
        auth.named_issuer = issuer
        return auth

    return make


# -- with a secret of the vault ----------------------------------------------------------------------

Value = Callable[[], Awaitable[str]]
"""Opens a secret, for who sends it now; raises ToolError."""


def vault_client_credentials(
    client_id: str,
    secret: Value,
    issuer: str | None,
    *,
    scope: str | None = None,
    method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic",
) -> MakeAuth:
    """`client_credentials` with a secret that is opened at each request for a token, and kept by nobody."""
    tokens = MemoryTokens()

    def make(url: str) -> Any:
        from stateline.tools.mcp_auth_vault import SealedClientCredentials

        return SealedClientCredentials(url, tokens, client_id, secret, method=method, scope=scope, issuer=issuer)

    return make


def vault_private_key_jwt(
    client_id: str, key: Value, issuer: str | None, *, scope: str | None = None, algorithm: str = "RS256"
) -> MakeAuth:
    """`private_key_jwt` with a key that is opened for each signature."""
    tokens = MemoryTokens()

    def make(url: str) -> Any:
        from mcp.client.auth.extensions.client_credentials import SignedJWTParameters

        from stateline.tools.mcp_auth_issuer import PrivateKeyJwt

        async def signed(audience: str) -> str:
            terms = SignedJWTParameters(
                issuer=client_id, subject=client_id, signing_key=await key(), signing_algorithm=algorithm
            )
            return await terms.create_assertion_provider()(audience)

        auth = PrivateKeyJwt(url, tokens, client_id, signed, scope, issuer)
        auth.named_issuer = issuer
        return auth

    return make
