"""Where calls go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest

from stateline.core.calls import ModelParams, ModelRequest
from stateline.core.errors import BadRequest
from stateline.core.items import InputImage, Message
from stateline.core.placing import Passed
from stateline.engine.health import Monitor
from stateline.engine.place import Placement, Slots, fitted, place
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


class Placer:
    """A catalogue and what was seen of it, under a clock that the test moves."""

    def __init__(self, *deployments: Deployment) -> None:
        self.now_ms = 1_000_000
        self.catalogue = Catalogue(deployments)
        self.monitor = Monitor(lambda: self.now_ms)

    def place(self, affinity: str = "s", tried: Sequence[str] = (), request: ModelRequest | None = None) -> Placement:
        asked = request or ModelRequest(params=ModelParams(model="m"), items=[], key="k")
        return place(self.catalogue, self.monitor, "m", affinity=affinity, request=lambda: asked, tried=tried)

    def name(self, affinity: str = "s", tried: Sequence[str] = ()) -> str | None:
        """Where a call goes that ends at once."""
        placement = self.place(affinity, tried)
        if placement.permit is not None:
            placement.permit.end("good")
        return placement.deployment.name if placement.deployment else None


def test_lower_priority_goes_first_and_the_next_where_it_was_tried() -> None:
    placer = Placer(deployment("spare", 2), deployment("main", 1))
    assert placer.name() == "main"
    assert placer.name(tried=["main"]) == "spare"
    assert placer.name(tried=["main", "spare"]) is None


def test_equal_priorities_share_by_weight_and_a_session_stays_where_it_is() -> None:
    placer = Placer(deployment("small", weight=1), deployment("large", weight=3))
    chosen = Counter(placer.name(f"session-{at}") for at in range(4000))
    assert 0.7 < chosen["large"] / 4000 < 0.8
    assert len({placer.name("one") for _ in range(10)}) == 1


def test_a_full_deployment_spills_over_and_the_record_says_so() -> None:
    placer = Placer(deployment("a", 1, places=1), deployment("b", 2, places=1))
    first = placer.place()
    assert (first.deployment, first.passed) == (placer.catalogue.candidates("m")[0], (Passed("b", "behind"),))
    second = placer.place()
    assert second.deployment is not None
    assert (second.deployment.name, second.passed) == ("b", (Passed("a", "max_concurrency"),))
    # Where all are full, a call waits at the first.
    third = placer.place()
    assert third.deployment is not None
    assert (third.deployment.name, third.passed) == ("a", (Passed("b", "max_concurrency"),))


def test_a_limit_of_requests_spills_over_until_it_has_room_again() -> None:
    placer = Placer(msgspec.structs.replace(deployment("a", 1), rpm=1), deployment("b", 2))
    assert [placer.name() for _ in range(3)] == ["a", "b", "b"]
    placer.now_ms += 60_000
    assert placer.name() == "a"


def test_a_limit_of_tokens_counts_what_a_request_may_take() -> None:
    placer = Placer(msgspec.structs.replace(deployment("a", 1), tpm=1_000), deployment("b", 2))
    large = ModelRequest(params=ModelParams(model="m", max_output_tokens=900), items=[], key="k")
    assert [placer.place(request=large).deployment for _ in range(2)] == list(placer.catalogue.candidates("m"))


def test_with_no_deployment_left_it_says_when_the_first_takes_calls_again() -> None:
    placer = Placer(msgspec.structs.replace(deployment("a"), rpm=1), msgspec.structs.replace(deployment("b"), rpm=2))
    assert {placer.name() for _ in range(3)} == {"a", "b"}
    nowhere = placer.place()
    assert nowhere.deployment is nowhere.permit is None
    assert nowhere.until_ms == placer.now_ms + 30_000
    assert dict(each[:2] for each in nowhere.passed) == {"a": "rpm", "b": "rpm"}


def test_what_a_model_does_not_take_goes_to_one_that_does() -> None:
    blind = msgspec.structs.replace(deployment("blind", 1), lacks=frozenset({"images"}))
    placer = Placer(blind, deployment("sees", 2))
    look = Message(id="i", role="user", content=(InputImage(image_url="https://example.org/a.png"),))
    placed = placer.place(request=ModelRequest(params=ModelParams(model="m"), items=[look], key="k"))
    assert placed.deployment is not None
    assert (placed.deployment.name, placed.passed) == ("sees", (Passed("blind", "cannot_carry"),))
    assert placer.name() == "blind"


def test_a_model_with_one_deployment_without_limits_is_not_weighed() -> None:
    placer = Placer(deployment("only", places=1))

    def never() -> ModelRequest:
        raise AssertionError("nobody has to look at the request")

    for _ in range(3):
        placed = place(placer.catalogue, placer.monitor, "m", affinity="s", request=never, tried=["only"])
        assert placed == Placement(placer.catalogue.candidates("m")[0])
    assert placer.monitor.seen() == {}


def test_an_unknown_model_is_named_with_those_that_are_known() -> None:
    placer = Placer(deployment("d"))
    request = ModelRequest(params=ModelParams(model="other"), items=[], key="k")
    with pytest.raises(BadRequest) as caught:
        place(placer.catalogue, placer.monitor, "other", affinity="s", request=lambda: request)
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
    left_to_us = ModelRequest(params=ModelParams(model="m", service_tier="auto"), items=[], key="k")
    assert fitted(left_to_us, flex).params.service_tier == "flex"
    assert fitted(asked, deployment("plain")) is asked
