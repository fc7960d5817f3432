"""The dispute of the worked example, run: one session under both readings, on real placements.

A real server over HTTP upstreams that stand for two clouds; its clock says the day of the dispute.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import pytest_asyncio
from tests.api.conftest import Served

from stateline.contract_files import load_folder
from stateline.contracts import parse_at
from stateline.contracts.facts import micros
from stateline.core.limits import TurnLimits
from stateline.engine.rules import ContractRules
from stateline.models.catalogue import Catalogue
from stateline.models.client import HttpModelClient
from stateline.ports import Deployment, Product
from stateline.stores.clock import SystemClock
from stateline.testing import Answer, ScriptedUpstream
from stateline.testing.scripted import Asked

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ai-cloud-contracts" / "contracts"
CLAUSE = "microsoft-openai/stateless-exclusive"
DISPUTE, AMENDED = "2026-03-18T12:00:00Z", "2026-04-27T00:00:00Z"


class Set(SystemClock):
    """A clock that runs on from whatever day it is set to."""

    def __init__(self, day: str) -> None:
        self.set(day)

    def set(self, day: str) -> None:
        self._ahead_ms = micros(parse_at(day)) // 1000 - super().now_ms()

    def now_ms(self) -> int:
        return super().now_ms() + self._ahead_ms


class Cloud:
    """Who answers, and what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []

    def __call__(self, asked: Asked, attempt: int) -> Answer:
        self.asked.append(asked.user_text)
        return Answer(text=f"{self.name} answers")


class Dispute(NamedTuple):
    served: Served
    clock: Set
    aws: Cloud
    azure: Cloud
    places: tuple[Deployment, ...]

    def under(self, posture: str) -> None:
        """Resolve contested clauses by this from now on, as a reload would."""
        rules = ContractRules(load_folder(EXAMPLE), self.places, posture=posture)
        self.served.engine.configure(Catalogue(self.places), TurnLimits(), rules)


def place(name: str, cloud: str, url: str, priority: int) -> Deployment:
    return Deployment(
        name=name, model="gpt-5", cloud=cloud, format="openai-chat", base_url=url, upstream_model="gpt-5",
        vendor="openai", priority=priority, auth="none", product=Product(name="gpt-5", shipped_on=("azure",)),
    )  # fmt: skip


@pytest_asyncio.fixture
async def dispute(tmp_path: Path) -> AsyncGenerator[Dispute]:
    aws, azure, clock = Cloud("aws"), Cloud("azure"), Set(DISPUTE)
    async with ScriptedUpstream(aws) as aws_url, ScriptedUpstream(azure) as azure_url:
        served = Served(tmp_path / "stateline.db", clock=clock).start()
        served.model = client = served.run(made)
        # Amazon's is the one that operators would rather have: contracts alone keep calls from it.
        places = (
            place("gpt-5-aws", "aws", aws_url, 1),
            place("gpt-5-azure", "azure", azure_url.removesuffix("/v1"), 2),
        )
        yield Dispute(served, clock, aws, azure, places)
        served.run(client.close)
        await asyncio.to_thread(served.stop)


async def made() -> HttpModelClient:
    return HttpModelClient()


async def session(client: openai.AsyncOpenAI, *says: str, after: str | None = None) -> list[Any]:
    """Turns of one session, one after the other."""
    out: list[Any] = []
    for text in says:
        previous: Any = out[-1].id if out else after
        response = await client.responses.create(model="gpt-5", input=text, previous_response_id=previous)
        out.append(response)
    return out


def told(response: Any) -> tuple[str, str, str, str | None]:
    shown = response.to_dict()["stateline"]
    verdict = shown["verdict"]
    return shown["deployment"], verdict["outcome"], verdict["resolved"], verdict.get("clause")


async def test_one_session_goes_to_one_cloud_or_the_other_by_the_reading_that_holds(dispute: Dispute) -> None:
    async with dispute.served.async_openai() as client:
        # By OpenAI's reading the calls of a session are no stateless ones, so the clause lets them go to AWS.
        dispute.under("openai")
        theirs = await session(client, "one", "two")
        assert [told(each) for each in theirs] == [("gpt-5-aws", "contested", "allow", CLAUSE)] * 2
        assert (dispute.aws.asked, dispute.azure.asked) == (["one", "two"], [])
        # By Microsoft's, each is still a stateless call.
        dispute.under("microsoft")
        others = await session(client, "three", "four")
        assert [told(each) for each in others] == [("gpt-5-azure", "allow", "allow", None)] * 2
        passed = others[0].to_dict()["stateline"]["placement"]["passed"]
        assert passed[0]["verdict"] == {
            "outcome": "contested",
            "resolved": "deny",
            "posture": "microsoft",
            "clause": CLAUSE,
            "readings": [{"id": "every-call", "outcome": "deny"}, {"id": "stateless-only", "outcome": "allow"}],
        }
        assert (dispute.aws.asked, dispute.azure.asked) == (["one", "two"], ["three", "four"])
        # The very session that began on AWS goes on at Azure, with what was said before.
        (moved,) = await session(client, "five", after=theirs[-1].id)
        assert told(moved)[0] == "gpt-5-azure"
        assert moved.to_dict()["stateline"]["session"] == theirs[0].to_dict()["stateline"]["session"]
        # Undecided, it is denied.
        dispute.under("strict")
        assert [told(each)[0] for each in await session(client, "six")] == ["gpt-5-azure"]
        assert dispute.aws.asked == ["one", "two"]


@pytest.mark.parametrize("posture", ["strict", "microsoft", "openai"])
async def test_a_bare_call_is_kept_from_aws_by_either_reading(dispute: Dispute, posture: str) -> None:
    dispute.under(posture)
    async with dispute.served.async_openai() as client:
        chat = await client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    assert chat.choices[0].message.content == "azure answers"
    assert dispute.aws.asked == []


@pytest.mark.parametrize("posture", ["strict", "microsoft", "openai"])
async def test_from_the_amendment_on_a_product_that_ships_on_azure_may_go_to_aws(
    dispute: Dispute, posture: str
) -> None:
    dispute.under(posture)
    dispute.clock.set(AMENDED)
    async with dispute.served.async_openai() as client:
        (response,) = await session(client, "hi")
        chat = await client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "bare"}])
    assert told(response) == ("gpt-5-aws", "allow", "allow", None)
    assert chat.choices[0].message.content == "aws answers"
    assert dispute.aws.asked == ["hi", "bare"]
