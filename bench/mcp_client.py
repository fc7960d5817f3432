"""The client under test of the MCP conformance suite: one scenario against one server, over our adapter.

The suite starts it with the server's URL, the scenario in MCP_CONFORMANCE_SCENARIO and what the scenario gives it in
MCP_CONFORMANCE_CONTEXT. It does what an agent would: list the tools, and call each.

Where a person would log in with a browser, this program follows the redirect itself. Such a login is handed to the
adapter as its users can: as what authorizes requests (`McpServer.auth`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import warnings
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata

from stateline.core.tools import ToolCall, ToolError
from stateline.tools.egress import Egress
from stateline.tools.mcp import McpHost
from stateline.tools.mcp_auth import MakeAuth, MemoryTokens, client_credentials, private_key_jwt
from stateline.tools.mcp_auth_issuer import NamedIssuer
from stateline.tools.mcp_server import McpServer

REDIRECT = "http://localhost:3000/callback"
METADATA_URL = "https://conformance-test.local/client-metadata.json"
ARGUMENTS: dict[str, dict[str, Any]] = {"add_numbers": {"a": 5, "b": 3}}


class Login(NamedIssuer):
    """A person's login, for which the operator has named the issuer."""


def login(context: dict[str, Any], issuer: str | None) -> MakeAuth:
    """A person's login, without the person."""
    known = None
    if "client_id" in context:
        known = OAuthClientInformationFull(
            client_id=context["client_id"],
            client_secret=context.get("client_secret"),
            redirect_uris=[REDIRECT],  # type: ignore[list-item] # pydantic makes a URL of it.
            token_endpoint_auth_method="client_secret_basic",
        )
    tokens = MemoryTokens(known)
    came: list[AuthorizationCodeResult] = []

    async def redirect(url: str) -> None:
        async with httpx2.AsyncClient() as browser:
            answer = await browser.get(url, follow_redirects=False)
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        first = {name: values[0] for name, values in query.items()}
        came.append(AuthorizationCodeResult(code=first["code"], state=first.get("state"), iss=first.get("iss")))

    async def callback() -> AuthorizationCodeResult:
        return came.pop()

    def make(url: str) -> Any:
        metadata = OAuthClientMetadata(
            client_name="stateline",
            redirect_uris=[REDIRECT],  # type: ignore[list-item]
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
        )
        auth = Login(url, metadata, tokens, redirect, callback, METADATA_URL)
        auth.named_issuer = issuer
        return auth

    return make


def across_apps(context: dict[str, Any], issuer: str) -> MakeAuth:
    """A company's login (SEP-990): its identity provider changes a person's token for one that the server takes."""

    async def assertion(audience: str, resource: str) -> str:
        asked = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:id-jag",
            "audience": audience,
            "resource": resource,
            "subject_token": context["idp_id_token"],
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "client_id": context["idp_client_id"],
        }
        async with httpx2.AsyncClient() as client:
            return (await client.post(context["idp_token_endpoint"], data=asked)).json()["access_token"]

    def make(url: str) -> Any:
        return IdentityAssertionOAuthProvider(
            url, MemoryTokens(), context["client_id"], context["client_secret"], issuer, assertion,
            token_endpoint_auth_method="client_secret_basic",
        )  # fmt: skip

    return make


async def issuer_of(url: str) -> str:
    """Who gives out tokens for a server, which an operator would configure."""
    parts = urlsplit(url)
    async with httpx2.AsyncClient() as client:
        found = await client.get(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}")
        server = found.json()["authorization_servers"][0]
        base = urlsplit(str(server))
        path = base.path.rstrip("/")
        metadata = await client.get(f"{base.scheme}://{base.netloc}/.well-known/oauth-authorization-server{path}")
        return metadata.json()["issuer"]


async def root_issuer(url: str) -> str:
    """The same of a server of MCP's 2025-03-26 edition."""
    parts = urlsplit(url)
    async with httpx2.AsyncClient() as client:
        metadata = await client.get(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server")
        return metadata.json()["issuer"]


async def auth_for(scenario: str, url: str, context: dict[str, Any]) -> MakeAuth | None:
    if not scenario.startswith("auth/"):
        return None
    if scenario == "auth/client-credentials-jwt":
        algorithm, key = context["signing_algorithm"], context["private_key_pem"]
        return private_key_jwt(context["client_id"], lambda: key, await issuer_of(url), algorithm=algorithm)
    if scenario == "auth/client-credentials-basic":
        secret = context["client_secret"]
        return client_credentials(context["client_id"], lambda: secret, await issuer_of(url))
    if scenario == "auth/cross-app-access-complete-flow":
        return across_apps(context, await issuer_of(url))
    legacy = scenario == "auth/2025-03-26-oauth-metadata-backcompat"
    return login(context, await root_issuer(url) if legacy else None)


async def run(url: str) -> None:
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    context: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    server = McpServer(
        label="conformance",
        url=url,
        elicitation="defaults" if scenario.startswith("elicitation") else "decline",
        auth=await auth_for(scenario, url, context),
    )
    host = McpHost(server, Egress(["localhost"]))
    try:
        for tool in await host.tools():
            arguments = json.dumps(ARGUMENTS.get(tool.name, {}))
            call = ToolCall(tool=tool.name, arguments=arguments, key=f"conf/1/{tool.name}", tenant="t", session="s")
            print(await host.call(call))
    finally:
        await host.close()


def main() -> int:
    warnings.simplefilter("ignore")
    try:
        asyncio.run(run(sys.argv[1]))
    except ToolError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
