"""OpenAI itself."""

from __future__ import annotations

from stateline.models.clouds.cloud import Cloud

CLOUD = Cloud(base_url="https://api.openai.com/v1")
