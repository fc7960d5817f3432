"""Google: the Gemini API by a key, and Vertex AI by Application Default Credentials.

google-auth finds the credentials (a service account's file, a user's login, the metadata server, workload
identity) and renews them; it is imported only where a deployment says ``auth = "adc"``, and only ever
asked in a thread. A `base_url` that ends in ``/projects/NAME`` is one of Vertex; the region's host and
place are filled in.
Source: https://cloud.google.com/vertex-ai/generative-ai/docs/learn/locations.

The Gemini API takes a service tier in the body, Vertex in headers, for its own models.
Source: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/flex-paygo, …/priority-paygo and
…/use-provisioned-throughput.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any

from stateline.models.clouds.cloud import Cloud, Signer
from stateline.models.clouds.tokens import BearerSigner, Missing, Token, Tokens
from stateline.models.formats.openai_shared import refused
from stateline.ports import Deployment

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GLOBAL = "global"
CLAUDE = "anthropic-messages"
"""Claude on Vertex: the model is in the URL, and the body says its version."""
_PROJECT = re.compile(r"/projects/[^/]+$")
_HOST = "https://aiplatform.googleapis.com/"
_PAID = "X-Vertex-AI-LLM-Shared-Request-Type"
_SERVED = "X-Vertex-AI-LLM-Request-Type"
_TIERS: Mapping[str, Mapping[str, str]] = {
    "auto": {},
    "default": {},
    "standard": {},
    "flex": {_PAID: "flex"},
    "priority": {_PAID: "priority"},
    "dedicated": {_SERVED: "dedicated"},
    "shared": {_SERVED: "shared"},
}
"""The first three leave it to Vertex: provisioned throughput where there is some, then the standard tier."""


class Adc:
    """Asks google-auth for a token; its credentials object is found once."""

    def __init__(self) -> None:
        self._found: Any = None

    def fetch(self) -> Token:
        """A new token. Called in a thread."""
        try:
            # By name, because it is not there where it is not used.
            auth: Any = importlib.import_module("google.auth")
            request: Any = importlib.import_module("google.auth.transport.requests").Request()
        except ImportError:
            raise Missing("google-auth is missing; install stateline[google]") from None
        if self._found is None:
            self._found, _ = auth.default(scopes=[SCOPE], request=request)
        self._found.refresh(request)
        expiry = self._found.expiry
        # It is a time in UTC that does not say so.
        lapses_at_s = expiry.replace(tzinfo=UTC).timestamp() if expiry is not None else time.time() + 300
        return Token(self._found.token, lapses_at_s)


class GoogleKeyring:
    """One token for all deployments."""

    def __init__(self, fetch: Callable[[], Token] | None = None) -> None:
        self._tokens = Tokens("Google's Application Default Credentials", fetch or Adc().fetch)

    def signer(self, deployment: Deployment, host: str) -> Signer | None:
        return None if deployment.auth != "adc" else BearerSigner(self._tokens)


def on_vertex(deployment: Deployment) -> bool:
    """Whether it leads to a project on Vertex AI."""
    return _PROJECT.search((deployment.base_url or BASE_URL).rstrip("/")) is not None


def locate(deployment: Deployment, path: str) -> str:
    """The URL of ``path`` at the Gemini API, at a project on Vertex, or at a gateway."""
    base = (deployment.base_url or BASE_URL).rstrip("/")
    if not on_vertex(deployment):
        return base + path
    region = deployment.region or GLOBAL
    if region != GLOBAL and base.startswith(_HOST):
        base = base.replace(_HOST, f"https://{region}-aiplatform.googleapis.com/", 1)
    publisher = "anthropic" if deployment.format == CLAUDE else "google"
    return f"{base}/locations/{region}/publishers/{publisher}{path}"


def tier_headers(deployment: Deployment, tier: str) -> Mapping[str, str] | None:
    """How Vertex is asked for a service tier.

    Raises:
        BadRequest: ``unsupported_parameter``: Vertex does not know it, or not for this model.
    """
    if not on_vertex(deployment):
        return None
    headers = _TIERS.get(tier)
    if headers is None or (headers and deployment.format == CLAUDE):
        raise refused("service_tier", f"The service tier {tier[:64]!r}", "Vertex AI")
    return headers


CLOUD = Cloud(
    auth_header="x-goog-api-key", auth_prefix="", locate=locate, keyring=GoogleKeyring, tier_headers=tier_headers
)
