"""Anthropic itself, and gateways that speak its API.

A base URL may end in ``/v1``, as the others' do, or before it, as Anthropic's own SDKs have it.
"""

from __future__ import annotations

import re

from stateline.models.clouds.cloud import Cloud
from stateline.ports import Deployment

VERSION = "2023-06-01"
"""The API's version, which every request names: https://platform.claude.com/docs/en/api/versioning."""

_VERSIONED = re.compile(r"/v\d+$")


class _Anthropic(Cloud):
    __slots__ = ()

    def url(self, deployment: Deployment, path: str) -> str:
        base = (deployment.base_url or self.base_url).rstrip("/")
        return base + ("" if _VERSIONED.search(base) else "/v1") + path

    def headers(self, deployment: Deployment) -> dict[str, str]:
        return {**super().headers(deployment), "anthropic-version": VERSION}


CLOUD = _Anthropic(base_url="https://api.anthropic.com/v1", auth_header="x-api-key", auth_prefix="")
