"""The served description: it lists every route, it is valid, and nothing that fits it breaks the server."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from tests.api.conftest import MODEL, Served
from tests.api.http import Client

from stateline.api.openapi import document as served
from stateline.api.table import ROUTES, Route

_ROUTES = Path(__file__).resolve().parents[2] / "src" / "stateline" / "api" / "routes"
_METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def http(server: Served) -> Generator[Client]:
    made = Client(server.port)
    yield made
    made.close()


@pytest.fixture
def document(http: Client) -> dict[str, Any]:
    return http("GET", "/openapi.json").json


def test_every_route_is_described_and_every_description_is_routed(server: Served, document: dict[str, Any]) -> None:
    described = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if not method.startswith("x-")
    }
    assert described == {(route.method, route.path.replace(":path}", "}")) for route in ROUTES}
    socket = document["paths"]["/v1/responses"]["x-openresponses-websocket"]
    assert socket["clientMessage"] == {"$ref": "#/components/schemas/WebSocketResponseCreateEvent"}
    assert socket["errorMessage"] == {"$ref": "#/components/schemas/WebSocketErrorEvent"}
    assert described == server.routes()


def test_every_handler_is_in_the_table() -> None:
    """A handler takes a service and a call; one that no route leads to is dead."""
    routed = {(route.handler.__module__.rpartition(".")[2], route.handler.__name__) for route in ROUTES}
    for path in _ROUTES.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
                takes = [argument.arg for argument in node.args.args]
                if takes[-1:] == ["call"] and len(takes) == 2 and takes[0] in ("service", "_"):
                    assert (path.stem, node.name) in routed


def test_no_operation_or_reference_is_without_its_target(document: dict[str, Any]) -> None:
    names = [
        op["operationId"] for item in document["paths"].values() for method, op in item.items() if method in _METHODS
    ]
    assert len(names) == len(set(names))
    known = set(document["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/([\w.]+)", str(document))) <= known


def test_every_code_block_of_a_body_is_closed_to_unknown_fields(document: dict[str, Any]) -> None:
    for route in ROUTES:
        if route.body is not None:
            assert document["components"]["schemas"][route.body.__name__]["additionalProperties"] is False


# -- whatever the description allows or bars ------------------------------------------------------------

_DESCRIBED: Any = schemathesis.openapi.from_dict(json.loads(served(ROUTES)))
_OPERATIONS: dict[str, Any] = {each.ok().label: each.ok() for each in _DESCRIBED.get_all_operations()}


_BREAKABLE = [route for route in ROUTES if route.body is not None or route.query]
"""Operations with something to break: for the others no request is against the description."""


_QUIET = [
    HealthCheck.too_slow,
    HealthCheck.filter_too_much,
    HealthCheck.data_too_large,
    HealthCheck.large_base_example,
]


def _real(server: Served) -> dict[str, str]:
    """Ids of things that exist, so that requests get further than a 404."""
    with server.openai() as client:
        made = client.responses.create(model=MODEL, input="one", background=True)
        talk = client.conversations.create(items=[{"role": "user", "content": "one"}])
        item = client.conversations.items.list(talk.id).data[0]
    return {"response_id": made.id, "conversation_id": talk.id, "item_id": str(item.id), "model": MODEL}


def _aim(case: Any, real: dict[str, str]) -> None:
    """Replace generated ids and model names by real ones; they would hardly ever be hit by chance."""
    generated: dict[str, Any] = case.path_parameters or {}
    case.path_parameters = {name: real.get(name, value) for name, value in generated.items()}
    if isinstance(case.body, dict):
        body = cast(dict[str, Any], case.body)
        if isinstance(body.get("model"), str):
            body["model"] = MODEL
        for name in ("previous_response_id", "conversation"):
            body.pop(name, None)


def _attack(server: Served, label: str, mode: GenerationMode, examples: int, *, aimed: bool) -> None:
    """Send generated requests; none may be answered with a 5xx."""
    real = _real(server) if aimed else {}
    with requests.Session() as session:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=_QUIET,
            phases=[Phase.explicit, Phase.generate],
        )
        @given(_OPERATIONS[label].as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            if aimed:
                _aim(case, real)
            answer = case.call(base_url=server.url, session=session, timeout=20)
            assert answer.status_code < 500, answer.content[:500]
            if answer.status_code >= 400 and case.method != "HEAD":
                assert set(answer.json()["error"]) == {"type", "code", "message", "param"}

        send()


@pytest.mark.parametrize("aimed", [False, True])
@pytest.mark.parametrize("label", _OPERATIONS)
def test_requests_that_fit_the_description_are_no_server_error(server: Served, label: str, aimed: bool) -> None:
    _attack(server, label, GenerationMode.POSITIVE, 5, aimed=aimed)


@pytest.mark.parametrize("route", _BREAKABLE, ids=lambda route: f"{route.method} {route.path}")
def test_requests_that_break_the_description_are_no_server_error(server: Served, route: Route) -> None:
    _attack(server, f"{route.method} {route.path}", GenerationMode.NEGATIVE, 8, aimed=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("route", _BREAKABLE, ids=lambda route: f"{route.method} {route.path}")
def test_a_long_attack_finds_no_server_error(server: Served, route: Route) -> None:
    for mode in GenerationMode:
        _attack(server, f"{route.method} {route.path}", mode, 300, aimed=True)
