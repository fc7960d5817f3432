"""Clouds: who is called, with which headers and at which URL; one file a cloud."""

from __future__ import annotations

from stateline.models.clouds import anthropic, aws, azure, google, openai, openai_compatible
from stateline.models.clouds.cloud import Cloud

CLOUDS: dict[str, Cloud] = {
    "openai": openai.CLOUD,
    "anthropic": anthropic.CLOUD,
    "openai-compatible": openai_compatible.CLOUD,
    "aws": aws.CLOUD,
    "azure": azure.CLOUD,
    "google": google.CLOUD,
}
"""By the name that a deployment's ``cloud`` has."""
