"""Azure OpenAI and Foundry, whose resources are spoken to in two styles.

The `v1` API has the model in the body and needs no version. The older one has the deployment in the path
and a dated `api-version` in the query. A deployment whose ``api_version`` is a date speaks the older.
Claude has a path of its own there, and takes the key as Anthropic does.
Source: Microsoft Learn, "Azure OpenAI in Microsoft Foundry Models v1 API", and the REST reference.

Entra tokens come from azure-identity's default chain (environment, workload identity, managed identity,
the login of the command line); it is imported only where a deployment says ``auth = "entra"``, and only ever
asked in a thread.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from stateline.models.clouds.anthropic import VERSION
from stateline.models.clouds.cloud import Cloud, Signer
from stateline.models.clouds.tokens import BearerSigner, Missing, Token, Tokens
from stateline.ports import Deployment

SCOPE = "https://cognitiveservices.azure.com/.default"
CLAUDE = "anthropic-messages"

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
_V1 = "/openai/v1"
_ANTHROPIC = re.compile(r"/anthropic(/v1)?$")


class Entra:
    """Asks azure-identity for a token; its chain is made once."""

    def __init__(self) -> None:
        self._chain: Any = None

    def fetch(self) -> Token:
        """A new token. Called in a thread."""
        try:
            # By name, because it is not there where it is not used.
            identity: Any = importlib.import_module("azure.identity")
        except ImportError:
            raise Missing("azure-identity is missing; install stateline[azure]") from None
        if self._chain is None:
            self._chain = identity.DefaultAzureCredential()
        token = self._chain.get_token(SCOPE)
        return Token(token.token, float(token.expires_on))


class AzureKeyring:
    """One token for all deployments."""

    def __init__(self, fetch: Callable[[], Token] | None = None) -> None:
        self._tokens = Tokens("an Entra token", fetch or Entra().fetch)

    def signer(self, deployment: Deployment, host: str) -> Signer | None:
        return BearerSigner(self._tokens) if deployment.auth == "entra" else None


def locate(deployment: Deployment, path: str) -> str:
    """The URL of ``path`` at the resource that ``base_url`` names, with or without the path of the `v1` API."""
    base = deployment.base_url.rstrip("/")
    if deployment.format == CLAUDE:
        return f"{_ANTHROPIC.sub('', base.removesuffix(_V1))}/anthropic/v1{path}"
    version = deployment.api_version
    query = f"?api-version={quote(version, safe='')}" if version else ""
    if base.endswith(_V1) or version is None or not _DATED.match(version):
        return base.removesuffix(_V1) + _V1 + path + query
    if path == "/responses":
        return f"{base}/openai{path}{query}"
    return f"{base}/openai/deployments/{quote(deployment.upstream_model, safe='')}{path}{query}"


class _Azure(Cloud):
    __slots__ = ()

    def headers(self, deployment: Deployment) -> dict[str, str]:
        if deployment.format != CLAUDE:
            return super().headers(deployment)
        key = {"x-api-key": deployment.api_key} if deployment.api_key else {}
        return {**key, "anthropic-version": VERSION}


CLOUD = _Azure(auth_header="api-key", auth_prefix="", locate=locate, keyring=AzureKeyring)
