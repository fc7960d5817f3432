"""Azure OpenAI and Foundry, whose resources are spoken to in two styles.

The `v1` API has the model in the body and needs no version. The older one has the deployment in the path
and a dated `api-version` in the query. A deployment whose ``api_version`` is a date speaks the older.
Source: Microsoft Learn, "Azure OpenAI in Microsoft Foundry Models v1 API", and the REST reference.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from stateline.models.clouds.cloud import Cloud
from stateline.ports import Deployment

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
_V1 = "/openai/v1"


def locate(deployment: Deployment, path: str) -> str:
    """The URL of ``path`` at the resource that ``base_url`` names, with or without the path of the `v1` API."""
    base = deployment.base_url.rstrip("/")
    version = deployment.api_version
    query = f"?api-version={quote(version, safe='')}" if version else ""
    if base.endswith(_V1) or version is None or not _DATED.match(version):
        return base.removesuffix(_V1) + _V1 + path + query
    if path == "/responses":
        return f"{base}/openai{path}{query}"
    return f"{base}/openai/deployments/{quote(deployment.upstream_model, safe='')}{path}{query}"


CLOUD = Cloud(auth_header="api-key", auth_prefix="", locate=locate)
