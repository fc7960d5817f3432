"""Where calls go."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from stateline.core.calls import ModelParams, ModelRequest
from stateline.core.errors import BadRequest
from stateline.engine.place import Slots, fitted, place
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment


def deployment(name: str, priority: int = 1, weight: float = 1.0, places: int | None = None) -> Deployment:
    return Deployment(
        name=name,
        model="m",
        cloud="openai",
        format="openai-chat",
        base_url="",
        upstream_model="m",
        priority=priority,
        weight=weight,
        max_concurrency=places,
    )


def test_lower_priority_goes_first_and_failures_go_round() -> None:
    catalogue = Catalogue([deployment("spare", 2), deployment("main", 1)])
    assert [place(catalogue, "m", "s", failures).name for failures in range(3)] == ["main", "spare", "main"]


def test_equal_priorities_share_by_weight_and_a_session_stays_where_it_is() -> None:
    catalogue = Catalogue([deployment("small", weight=1), deployment("large", weight=3)])
    chosen = Counter(place(catalogue, "m", f"session-{at}", 0).name for at in range(4000))
    assert 0.7 < chosen["large"] / 4000 < 0.8
    assert len({place(catalogue, "m", "one", 0).name for _ in range(10)}) == 1


def test_an_unknown_model_is_named_with_those_that_are_known() -> None:
    with pytest.raises(BadRequest) as caught:
        place(Catalogue([deployment("d")]), "other", "s", 0)
    assert caught.value.code == "model_not_found"
    assert "models: m" in caught.value.message


async def test_a_deployment_has_no_more_calls_in_flight_than_it_may() -> None:
    slots, limited = Slots(), deployment("d", places=2)
    running, most = 0, 0

    async def call() -> None:
        nonlocal running, most
        async with slots.of(limited):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(call() for _ in range(10)))
    assert most == 2


async def test_a_changed_number_of_places_counts_from_new_and_calls_under_way_keep_theirs() -> None:
    slots = Slots()
    async with slots.of(deployment("d", places=1)), slots.of(deployment("d", places=2)):
        async with slots.of(deployment("d", places=2)):
            third = asyncio.create_task(_take(slots, deployment("d", places=2)))
            await asyncio.sleep(0)
            assert not third.done()
        await third


async def _take(slots: Slots, one: Deployment) -> None:
    async with slots.of(one):
        pass


def test_a_deployments_service_tier_fills_in_where_the_request_names_none() -> None:
    flex = Deployment(
        name="d", model="m", cloud="openai", format="openai-chat", base_url="", upstream_model="m", service_tier="flex"
    )
    asked = ModelRequest(params=ModelParams(model="m"), items=[], key="k")
    assert fitted(asked, flex).params.service_tier == "flex"
    named = ModelRequest(params=ModelParams(model="m", service_tier="priority"), items=[], key="k")
    assert fitted(named, flex).params.service_tier == "priority"
    assert fitted(asked, deployment("plain")) is asked
