"""What is known of models: each fact file has a source and a day, and each name one model."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest

import stateline.models.facts as facts_module
from stateline.config import ConfigError
from stateline.config import load as load_config
from stateline.core.facts import ModelFacts
from stateline.models.catalogue import Catalogue
from stateline.models.facts import facts_of, load
from stateline.models.facts.places import knows_region, places, tiers_of
from stateline.ports import Deployment
from stateline.wiring import deployments

FOLDER = Path(facts_module.__file__).parent
ALL = list(load(FOLDER))


def test_every_model_has_a_source_and_the_day_it_was_read() -> None:
    assert len(ALL) >= 36
    for model in ALL:
        assert "https://" in model.source
        assert datetime.date.fromisoformat(model.read) > datetime.date(2026, 1, 1)
        assert model.vendor


def test_no_two_models_share_a_name() -> None:
    names = [name for model in ALL for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
def test_limits_and_modalities_make_sense(model: ModelFacts) -> None:
    assert model.input[0] == "text"
    assert 0 < (model.output_tokens or 1) <= 1_000_000
    assert 1_000 < (model.input_tokens or 10_000) <= 10_000_000
    assert facts_of(model.name) == model


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("global.anthropic.claude-opus-4-8", "claude-opus-4-8"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("us.amazon.nova-micro-v1:0", "amazon.nova-micro-v1:0"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-5-prod", None),
        ("my.gpt-5", None),
        ("", None),
    ],
)
def test_a_model_is_known_as_clouds_write_it_and_an_unknown_one_has_no_facts(name: str, model: str | None) -> None:
    found = facts_of(name)
    assert (found.name if found else None) == model


def test_a_name_that_a_cloud_chose_gives_way_to_the_models_own() -> None:
    found = facts_of("gpt-5-prod", "gpt-5")
    assert found is not None
    assert found.name == "gpt-5"


def test_what_a_model_lacks_follows_from_what_is_known_alone() -> None:
    assert ModelFacts(name="m").lacks == {"images"}
    assert ModelFacts(name="m", input=("text", "image")).lacks == frozenset()
    assert ModelFacts(name="m", input=("text", "image"), tools=False).lacks == {"tools"}


def test_a_file_with_a_key_that_there_is_not_is_refused(tmp_path: Path) -> None:
    text = 'vendor = "v"\nsource = "https://s"\nread = 2026-01-01\nmodels = []\n'
    (tmp_path / "a.toml").write_text(text)
    assert list(load(tmp_path)) == []
    (tmp_path / "a.toml").write_text(text + "colour = 1\n")
    with pytest.raises(msgspec.ValidationError):
        list(load(tmp_path))


def test_another_name_of_a_configured_model_leads_to_its_deployments() -> None:
    one = Deployment(
        name="d", model="claude-sonnet-4-5", cloud="anthropic", format="anthropic-messages", base_url="",
        upstream_model="claude-sonnet-4-5", facts=facts_of("claude-sonnet-4-5"),
    )  # fmt: skip
    other = msgspec.structs.replace(one, name="e", model="claude-sonnet-4-5-20250929")
    assert Catalogue([one]).candidates("claude-sonnet-4-5-20250929") == (one,)
    assert Catalogue([one]).names() == ("claude-sonnet-4-5",)
    # A name that is configured is that model's alone.
    assert Catalogue([one, other]).candidates("claude-sonnet-4-5-20250929") == (other,)


def test_nothing_is_refused_for_a_name_behind_an_address_of_ones_own(tmp_path: Path) -> None:
    shape = '[[deployments]]\nname = "{0}"\nmodel = "gpt-4"\ncloud = "{0}"\nauth = "none"\nbase_url = "http://127.0.0.1:9/v1"\n'
    file = tmp_path / "stateline.toml"
    file.write_text(shape.format("openai") + shape.format("openai-compatible"))
    lacks = {each.name: each.lacks for each in deployments(load_config(file, {}))}
    assert lacks == {"openai": {"images"}, "openai-compatible": frozenset()}


def test_each_fact_of_a_cloud_has_a_source_and_the_day_it_was_read() -> None:
    assert {each.cloud for each in places()} == {"openai", "anthropic", "aws", "azure", "google"}
    for place in places():
        for fact in (*place.tiers, *place.regions):
            assert "https://" in fact.source
            assert fact.read > datetime.date(2026, 1, 1)
            assert len(set(fact.names)) == len(fact.names) > 0


def _tiered(folder: Path, cloud: str, tier: str, **keys: str) -> Path:
    file = folder / "stateline.toml"
    named = {"name": "d", "model": "m", "cloud": cloud, "service_tier": tier, "api_key_env": "KEY"} | keys
    file.write_text("[[deployments]]\n" + "".join(f'{key} = "{value}"\n' for key, value in named.items()))
    return file


VERTEX = "https://aiplatform.googleapis.com/v1/projects/p"


@pytest.mark.parametrize(
    ("cloud", "tier", "keys"),
    [
        ("openai", "reserved", {}),
        ("anthropic", "flex", {}),
        ("aws", "scale", {"region": "us-east-1"}),
        ("azure", "scale", {"base_url": "https://n.openai.azure.com"}),
        ("google", "dedicated", {}),
        ("google", "flex", {"base_url": VERTEX, "format": "anthropic-messages"}),
    ],
)
def test_a_service_tier_that_the_cloud_does_not_take_is_refused_with_those_it_does(
    tmp_path: Path, cloud: str, tier: str, keys: dict[str, str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(_tiered(tmp_path, cloud, tier, **keys), {})
    assert refused.value.code == "config_invalid"
    assert "deployments[0].service_tier" in str(refused.value)
    assert '"default"' in refused.value.hint


def test_every_service_tier_that_is_known_is_taken(tmp_path: Path) -> None:
    needs = {"aws": {"region": "us-east-1"}, "azure": {"base_url": "https://n.openai.azure.com"}}
    for place in places():
        keys = {"base_url": VERTEX} if place.project else needs.get(place.cloud, {})
        for fact in place.tiers:
            for wire in fact.formats:
                for tier in fact.names:
                    file = _tiered(tmp_path, place.cloud, tier, **keys, format=wire)
                    (one,) = load_config(file, {}).deployments
                    assert one.service_tier == tier
    assert tiers_of("openai-compatible", "openai-chat", "http://127.0.0.1:9/v1") == ()


def test_a_region_that_is_not_known_is_a_warning_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "a-key")
    (one,) = deployments(load_config(_tiered(tmp_path, "aws", "flex", region="eu-moon-1"), {}))
    assert one.region == "eu-moon-1"
    assert "eu-moon-1" in caplog.text
    caplog.clear()
    deployments(load_config(_tiered(tmp_path, "aws", "flex", region="eu-west-1"), {}))
    assert caplog.text == ""
    assert knows_region("openai", "anywhere", None)
    assert not knows_region("google", "us-east-1", VERTEX)
