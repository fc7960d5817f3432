"""Contracts in the running API: what is allowed is placed, what is denied is answered, and all of it is told."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from anthropic import Anthropic
from anthropic import PermissionDeniedError as AnthropicDenied
from tests.api.conftest import ADMIN_TOKEN, Served
from tests.api.http import Client
from tests.unit.contracts.build import clause, contract, loaded

from stateline.core.limits import PLACEMENT_SESSIONS_MAX, TurnLimits
from stateline.engine.rules import ContractRules
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment
from stateline.testing.scripted import Answer, Asked

NO_AWS = 'deployment.cloud == "aws"'
NO_BARE = 'workload.kind == "stateless"'


def deployment(name: str, cloud: str, priority: int) -> Deployment:
    return Deployment(
        name=name, model="gpt-5", cloud=cloud, format="openai-chat", base_url="", upstream_model=name,
        vendor="openai", priority=priority,
    )  # fmt: skip


PLACES = (deployment("on-aws", "aws", 1), deployment("on-azure", "azure", 2))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """One of this module's own: what it holds is listed, and its contracts are nobody else's."""
    served = Served(tmp_path_factory.mktemp("contracts") / "stateline.db").start()
    yield served
    served.stop()


@pytest.fixture
def keyed(tmp_path: Path) -> Generator[Served]:
    served = Served(tmp_path / "stateline.db", auth_mode="keys").start()
    yield served
    served.stop()


@pytest.fixture
def http(server: Served) -> Generator[Client]:
    made = Client(server.port)
    yield made
    made.close()


def says_where(asked: Asked, _: int) -> Answer:
    return Answer(text=f"from {asked.model}")


def azure_is_down(asked: Asked, attempt: int) -> Answer:
    return Answer(status=503) if asked.model == "on-azure" else says_where(asked, attempt)


def govern(server: Served, *texts: str, places: Sequence[Deployment] = PLACES, **options: Any) -> None:
    server.script(says_where)
    server.engine.configure(Catalogue(places), TurnLimits(), ContractRules(loaded(*texts), places, **options))


def stateline_of(response: Any) -> Any:
    return response.to_dict()["stateline"]


def test_a_call_goes_where_the_contracts_allow_and_the_response_says_why(server: Served, client: openai.OpenAI) -> None:
    govern(server, contract(clause("no-aws", NO_AWS, rest="text: Not on AWS.")))
    response = client.responses.create(model="gpt-5", input="hi")
    shown = stateline_of(response)
    assert (shown["deployment"], shown["verdict"]) == (
        "on-azure",
        {"outcome": "allow", "resolved": "allow", "posture": "strict"},
    )
    (passed,) = shown["placement"]["passed"]
    assert (passed["deployment"], passed["why"]) == ("on-aws", "contract")
    assert passed["verdict"]["clause"] == "c/no-aws"
    assert passed["verdict"]["readings"] == [{"id": "r", "outcome": "deny"}]
    # What is read later says the same: it is in the log.
    assert stateline_of(client.responses.retrieve(response.id)) == shown


def test_where_every_deployment_is_denied_nothing_is_begun_and_the_clause_is_named(
    server: Served, client: openai.OpenAI, http: Client
) -> None:
    govern(server, contract(clause("none", 'model.vendor == "openai"', rest="text: Nowhere.")))
    before = server.stored()
    asked = len(server.scripted.requests)
    for stream in (False, True):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.responses.create(model="gpt-5", input="hi", stream=stream)
        assert caught.value.code == "contract_denied"
        assert "on-aws, on-azure by c/none (Nowhere.)" in str(caught.value)
    extras: list[dict[str, Any]] = [{"background": True}, {"store": False}]
    for extra in extras:
        with pytest.raises(openai.PermissionDeniedError):
            client.responses.create(model="gpt-5", input="hi", **extra)
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.PermissionDeniedError):
        client.embeddings.create(model="gpt-5", input="hi")
    anthropic = Anthropic(base_url=server.url, api_key="unused", max_retries=0)
    with anthropic, pytest.raises(AnthropicDenied) as refused:
        anthropic.messages.create(model="gpt-5", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
    assert "c/none" in str(refused.value)
    assert server.stored() == before
    assert len(server.scripted.requests) == asked
    text = http("GET", "/metrics").body.decode()
    counted = re.findall(r'verdicts_total\{outcome="deny",clause="c/none",effect="denied"\} (\d+)', text)
    # Two deployments each time.
    assert counted == ["14"]


def test_a_stateless_call_and_a_stateful_one_are_judged_apart(server: Served, client: openai.OpenAI) -> None:
    govern(server, contract(clause("bare", f"{NO_AWS} && {NO_BARE}")))
    places: dict[str, str] = {}
    kept = client.responses.create(model="gpt-5", input="hi")
    places["stored"] = kept.output_text
    places["volatile"] = client.responses.create(model="gpt-5", input="hi", store=False).output_text
    # It goes on from what is kept, so it is stateful, though it is not kept itself.
    continued = client.responses.create(model="gpt-5", input="hi", store=False, previous_response_id=kept.id)
    places["continued"] = continued.output_text
    chat = client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    places["chat"] = chat.choices[0].message.content or ""
    assert places == {
        "stored": "from on-aws",
        "volatile": "from on-azure",
        "continued": "from on-aws",
        "chat": "from on-azure",
    }


def test_a_failure_goes_on_only_where_the_contracts_allow(server: Served, client: openai.OpenAI) -> None:
    places = (deployment("on-azure", "azure", 1), deployment("on-aws", "aws", 2), deployment("on-google", "google", 3))
    govern(server, contract(clause("no-aws", NO_AWS)), places=places)
    server.script(azure_is_down)
    response = client.responses.create(model="gpt-5", input="hi")
    assert response.output_text == "from on-google"
    chat = client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    assert chat.choices[0].message.content == "from on-google"


def test_what_is_only_observed_is_placed_and_recorded(server: Served, client: openai.OpenAI, http: Client) -> None:
    govern(server, contract(clause("watched", NO_AWS)), mode="observe")
    response = client.responses.create(model="gpt-5", input="hi")
    assert response.output_text == "from on-aws"
    verdict = stateline_of(response)["verdict"]
    assert (verdict["resolved"], verdict["observed"], verdict["clause"]) == ("deny", True, "c/watched")
    text = http("GET", "/metrics").body.decode()
    assert 'verdicts_total{outcome="deny",clause="c/watched",effect="observed"} 1' in text


def test_without_contracts_nothing_is_said_of_them(server: Served, client: openai.OpenAI, http: Client) -> None:
    server.script(says_where)
    server.engine.configure(Catalogue(PLACES), TurnLimits())
    response = client.responses.create(model="gpt-5", input="hi")
    assert "verdict" not in stateline_of(response)
    assert "verdicts" not in http("GET", "/metrics").body.decode()


# -- /v1/placements ----------------------------------------------------------------------------------


def pages(http: Client, query: str = "", limit: int = 2) -> list[Any]:
    out: list[Any] = []
    after = ""
    while True:
        page = http("GET", f"/v1/placements?limit={limit}{query}{after}").json
        out.append(page)
        if not page["has_more"]:
            return out
        after = f"&after={page['last_id']}"


def test_placements_are_listed_from_the_log_newest_first_page_by_page(
    server: Served, client: openai.OpenAI, http: Client
) -> None:
    govern(server, contract(clause("no-aws", NO_AWS)))
    first = client.responses.create(model="gpt-5", input="one")
    second = client.responses.create(model="gpt-5", input="two", previous_response_id=first.id)
    other = client.responses.create(model="gpt-5", input="three")
    # A fork lists what was placed in itself, and its parent's where it was placed.
    fork = client.responses.create(model="gpt-5", input="four", previous_response_id=first.id)
    every = [each for page in pages(http) for each in page["data"]]
    newest = [each["response_id"] for each in every[:4]]
    assert newest == [fork.id, other.id, second.id, first.id]
    assert len({each["id"] for each in every}) == len(every)
    assert every == http("GET", "/v1/placements?limit=100").json["data"]
    session = stateline_of(first)["session"]
    own = [each for page in pages(http, f"&session={session}", limit=1) for each in page["data"]]
    assert [each["response_id"] for each in own] == [second.id, first.id]
    assert own[0]["id"] == f"{session}/2/1"
    assert own[0]["deployment"] == "on-azure"
    assert own[0]["verdict"]["outcome"] == "allow"
    assert own[0]["passed"][0]["verdict"]["clause"] == "c/no-aws"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("after=x/1", 400, "invalid_cursor"),
        ("after=x/a/b", 400, "invalid_cursor"),
        ("after=%00/1/1", 400, "invalid_cursor"),
        ("after=%00", 400, "invalid_cursor"),
        ("session=none&after=other/1/1", 400, "invalid_cursor"),
        ("session=none&after=none", 400, "invalid_cursor"),
        ("session=none", 404, "session_not_found"),
        ("session=%00", 404, "session_not_found"),
        ("session=", 400, "invalid_value"),
        ("limit=0", 400, "integer_below_min_value"),
    ],
)
def test_what_is_no_page_of_placements_is_refused(http: Client, query: str, status: int, code: str) -> None:
    answer = http("GET", f"/v1/placements?{query}")
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


def test_a_cursor_behind_everything_gives_an_empty_page(http: Client) -> None:
    assert http("GET", "/v1/placements?after=0").json == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


def test_a_page_looks_through_so_many_sessions_and_says_where_to_go_on(
    server: Served, client: openai.OpenAI, http: Client
) -> None:
    govern(server)
    response = client.responses.create(model="gpt-5", input="below them all")
    for _ in range(PLACEMENT_SESSIONS_MAX):
        client.conversations.create()
    found = pages(http)
    assert found[0]["data"] == []
    assert found[0]["has_more"]
    assert found[1]["data"][0]["response_id"] == response.id


def test_a_tenant_sees_its_own_placements_alone(keyed: Served) -> None:
    govern(keyed, contract(clause("tenant", 'principal.tenant == "a" && deployment.cloud == "aws"')))
    http = Client(keyed.port)
    keys = {tenant: key_of(http, tenant) for tenant in ("a", "b")}
    asked: dict[str, Any] = {}
    for tenant, key in keys.items():
        with keyed.openai(api_key=key) as client:
            asked[tenant] = client.responses.create(model="gpt-5", input="hi")
    assert {tenant: each.output_text for tenant, each in asked.items()} == {"a": "from on-azure", "b": "from on-aws"}
    for tenant, key in keys.items():
        listed = http("GET", "/v1/placements", headers={"authorization": f"Bearer {key}"}).json
        assert [each["response_id"] for each in listed["data"]] == [asked[tenant].id]
    session = stateline_of(asked["a"])["session"]
    answer = http("GET", f"/v1/placements?session={session}", headers={"authorization": f"Bearer {keys['b']}"})
    assert (answer.status, answer.json["error"]["code"]) == (404, "session_not_found")
    http.close()


def key_of(http: Client, tenant: str) -> str:
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    return str(http("POST", "/v1/admin/keys", {"tenant": tenant, "name": tenant}, headers).json["key"])
