"""Azure's URLs: two styles of resources, told apart by the version."""

from __future__ import annotations

import pytest

from stateline.models.clouds import CLOUDS
from stateline.ports import Deployment

HOST = "https://r.openai.azure.com"


@pytest.mark.parametrize(
    ("base_url", "version", "path", "url"),
    [
        (HOST, None, "/responses", f"{HOST}/openai/v1/responses"),
        (f"{HOST}/", None, "/chat/completions", f"{HOST}/openai/v1/chat/completions"),
        (f"{HOST}/openai/v1/", None, "/responses", f"{HOST}/openai/v1/responses"),
        (f"{HOST}/openai/v1", "preview", "/responses", f"{HOST}/openai/v1/responses?api-version=preview"),
        (HOST, "2025-04-01-preview", "/responses", f"{HOST}/openai/responses?api-version=2025-04-01-preview"),
        (
            "https://gateway.example/ai",
            "2024-10-21",
            "/chat/completions",
            "https://gateway.example/ai/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21",
        ),
    ],
)  # fmt: skip
def test_a_resource_is_found_in_either_style(base_url: str, version: str | None, path: str, url: str) -> None:
    place = Deployment(
        name="a", model="m", cloud="azure", format="openai-chat", base_url=base_url, upstream_model="my gpt",
        api_key="key", api_version=version,
    )  # fmt: skip
    cloud = CLOUDS["azure"]
    assert cloud.url(place, path) == url
    assert cloud.headers(place) == {"api-key": "key"}
