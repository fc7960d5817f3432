"""The SDK's token flows, where an operator has named the issuer. Imported with the SDK, when a server is asked.

Servers of MCP's 2025-03-26 edition publish no protected resource metadata; their authorization metadata lies at the
root of their own origin. RFC 8414 (3.3) wants it to name that root as the issuer, since whoever serves it could pass
itself off as another issuer and be sent its secrets. Some name an issuer under the same origin instead. That is taken
where it is the very issuer that the operator has named, which leaves nobody to be taken for another.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider, PrivateKeyJWTOAuthProvider


class NamedIssuer(OAuthClientProvider):
    """A flow that expects ``named_issuer`` of a server without protected resource metadata, if that is its origin's."""

    named_issuer: str | None = None

    def _expected_issuer(self) -> str:
        named = self.named_issuer
        if named is not None and self.context.auth_server_url is None:
            ours, theirs = urlsplit(named), urlsplit(self.context.server_url)
            if (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc):
                return named
        return super()._expected_issuer()


class ClientCredentials(NamedIssuer, ClientCredentialsOAuthProvider):
    """RFC 6749, 4.4."""


class PrivateKeyJwt(NamedIssuer, PrivateKeyJWTOAuthProvider):
    """RFC 7523, 2.2."""
