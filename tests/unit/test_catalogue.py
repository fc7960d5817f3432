"""Which deployments serve a model, and in which order."""

from __future__ import annotations

from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment


def _deployment(name: str, model: str = "m", priority: int = 1, weight: int = 1) -> Deployment:
    return Deployment(
        name=name,
        model=model,
        cloud="openai",
        format="openai-chat",
        base_url="",
        upstream_model=model,
        priority=priority,
        weight=weight,
    )


def test_lower_priority_comes_first_then_the_heavier_then_as_configured() -> None:
    catalogue = Catalogue(
        [
            _deployment("last", priority=2, weight=9),
            _deployment("light"),
            _deployment("heavy", weight=3),
            _deployment("light-too"),
            _deployment("other", model="n"),
        ]
    )
    assert [each.name for each in catalogue.candidates("m")] == ["heavy", "light", "light-too", "last"]


def test_models_are_listed_once_in_the_order_of_the_configuration() -> None:
    catalogue = Catalogue([_deployment("a", "y"), _deployment("b", "x"), _deployment("c", "y")])
    assert catalogue.names() == ("y", "x")


def test_an_unknown_model_has_no_candidates() -> None:
    assert Catalogue([]).candidates("m") == ()
    assert Catalogue([]).names() == ()
