"""``/v1/models`` says what is known of a model, and where it runs."""

from __future__ import annotations

import openai
import pytest
from tests.api.conftest import MODEL, Served

from stateline.core.limits import TurnLimits
from stateline.models.catalogue import Catalogue
from stateline.models.facts import facts_of
from stateline.ports import Deployment


def test_a_known_model_shows_its_facts_under_each_of_its_names(server: Served, client: openai.OpenAI) -> None:
    before = server.engine.catalogue
    known = Deployment(
        name="here", model="claude-sonnet-4-5", cloud="anthropic", format="anthropic-messages", base_url="",
        upstream_model="claude-sonnet-4-5", region="eu", facts=facts_of("claude-sonnet-4-5"),
    )  # fmt: skip
    server.engine.configure(Catalogue([known, *before.candidates(MODEL)]), TurnLimits())
    try:
        assert [model.id for model in client.models.list()] == ["claude-sonnet-4-5", MODEL]
        one = client.models.retrieve("claude-sonnet-4-5")
        shown = one.to_dict()["stateline"]
        assert isinstance(shown, dict)
        assert one.owned_by == "anthropic"
        assert shown["deployments"] == [{"name": "here", "cloud": "anthropic", "region": "eu"}]
        assert shown["aliases"] == ["claude-sonnet-4-5-20250929"]
        assert shown["input"] == ["text", "image", "pdf"]
        assert (shown["tools"], shown["input_tokens"]) == (True, 200_000)
        assert shown["read"] == "2026-11-26"
        assert client.models.retrieve("claude-sonnet-4-5-20250929").id == "claude-sonnet-4-5-20250929"
    finally:
        server.engine.configure(before, TurnLimits())
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("claude-sonnet-4-5")
