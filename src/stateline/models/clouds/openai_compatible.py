"""Any server that speaks OpenAI's API: vLLM, llama.cpp, Ollama, a gateway.

It has no URL of its own, and often no key.
"""

from __future__ import annotations

from stateline.models.clouds.cloud import Cloud

CLOUD = Cloud()
