"""Keys over HTTP: who gets in, whose sessions they see, and how keys are managed while the server runs."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import openai
import pytest
from tests.api.conftest import ADMIN_TOKEN, MODEL, Served
from tests.api.http import Client
from typer.testing import CliRunner

from stateline.cli import app
from stateline.core.errors import StatelineError
from stateline.identity.admin_file import admin_file

ADMIN = {"authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    served = Served(tmp_path_factory.mktemp("keys") / "stateline.db", auth_mode="keys").start()
    yield served
    served.stop()


@pytest.fixture
def http(locked: Served) -> Generator[Client]:
    made = Client(locked.port)
    yield made
    made.close()


def _key(http: Client, tenant: str, **more: object) -> tuple[str, str]:
    made = http("POST", "/v1/admin/keys", {"tenant": tenant, "name": "test", **more}, ADMIN)
    assert made.status == 200, made.body
    return made.json["id"], made.json["key"]


@pytest.mark.parametrize("token", [None, "sk-sl-wrong", "Basic abc", ""])
def test_without_a_good_key_nobody_gets_in(http: Client, token: str | None) -> None:
    headers = {} if token is None else {"authorization": token if " " in token else f"Bearer {token}"}
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/responses"), ("GET", "/metrics")):
        reply = http(method, path, None, headers)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert reply.headers["www-authenticate"] == "Bearer"
    assert http("GET", "/healthz", None, headers).status == 200
    assert http("GET", "/openapi.json", None, headers).status == 200


def test_the_sdk_raises_its_own_error(locked: Served) -> None:
    with locked.openai(api_key="sk-sl-wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_one_tenant_does_not_see_another(locked: Served, http: Client) -> None:
    _, ours = _key(http, "ours")
    _, theirs = _key(http, "theirs")
    with locked.openai(api_key=ours) as mine, locked.openai(api_key=theirs) as other:
        made = mine.responses.create(model=MODEL, input="private")
        talk = mine.conversations.create()
        assert mine.responses.retrieve(made.id).id == made.id
        with pytest.raises(openai.NotFoundError):
            other.responses.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            other.conversations.retrieve(talk.id)
        with pytest.raises(openai.BadRequestError):
            other.responses.create(model=MODEL, input="x", previous_response_id=made.id)
        with pytest.raises(openai.NotFoundError):
            other.responses.create(model=MODEL, input="x", conversation=talk.id)


def test_a_revoked_key_is_out_at_once(http: Client) -> None:
    key_id, key = _key(http, "short")
    headers = {"authorization": f"Bearer {key}"}
    assert http("GET", "/v1/models", None, headers).status == 200
    assert http("DELETE", f"/v1/admin/keys/{key_id}", None, ADMIN).json["revoked_at"] is not None
    assert http("GET", "/v1/models", None, headers).status == 401


def test_keys_are_listed_without_themselves(http: Client) -> None:
    key_id, key = _key(http, "listed", expires_in_s=3600)
    listed = http("GET", "/v1/admin/keys", None, ADMIN)
    found = {each["id"]: each for each in listed.json["data"]}[key_id]
    assert (found["tenant"], found["name"], "key" in found) == ("listed", "test", False)
    assert found["expires_at"] - found["created_at"] == pytest.approx(3600, abs=1)
    assert key not in listed.body.decode()


def test_a_key_is_no_admin_and_the_admin_token_is_no_key(http: Client) -> None:
    _, key = _key(http, "plain")
    refused = http("GET", "/v1/admin/keys", None, {"authorization": f"Bearer {key}"})
    assert (refused.status, refused.error["code"]) == (403, "forbidden")
    assert http("GET", "/v1/models", None, ADMIN).status == 403


ROUTES_BY_SCOPE = {
    "responses": ("GET", "/v1/models"),
    "usage": ("GET", "/v1/usage"),
    "admin": ("GET", "/v1/admin/keys"),
}


@pytest.mark.parametrize("scope", [*ROUTES_BY_SCOPE, "agents", "audit", "approve"])
def test_a_key_does_what_its_scope_is_for_and_nothing_else(http: Client, scope: str) -> None:
    _, key = _key(http, "scoped", scopes=[scope])
    for needed, (method, path) in ROUTES_BY_SCOPE.items():
        reply = http(method, path, None, {"authorization": f"Bearer {key}"})
        assert reply.status == (200 if needed == scope else 403)
        if needed != scope:
            assert reply.error["code"] == "forbidden"
            assert f"'{needed}'" in reply.error["message"]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/responses", {"input": "hi"}),
        ("/v1/responses/compact", {"input": "hi"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}),
    ],
)
def test_a_key_that_is_bound_to_an_agent_calls_no_bare_model(http: Client, path: str, more: dict[str, object]) -> None:
    _, key = _key(http, "bound", agent="refunds", user="ann")
    headers = {"authorization": f"Bearer {key}"}
    reply = http("POST", path, {"model": MODEL, **more}, headers)
    assert reply.status == 403
    assert b"agent/refunds" in reply.body
    for model in ("agent/refund", "agent/refunds2"):
        assert http("POST", path, {"model": model, **more}, headers).status == 403
    assert http("POST", path, {"model": "agent/refunds", **more}, headers).status != 403


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"tenant": "system", "name": "a"}, 400, "tenant"),
        ({"tenant": "a b", "name": "a"}, 400, "tenant"),
        ({"tenant": "", "name": "a"}, 400, "tenant"),
        ({"tenant": "a", "name": ""}, 400, "name"),
        ({"tenant": "a", "name": "a\nb"}, 400, "name"),
        ({"tenant": "a", "name": "b", "expires_in_s": 0}, 400, "expires_in_s"),
        ({"tenant": "a"}, 400, "name"),
        ({"tenant": "a", "name": "b", "scopes": []}, 400, "scopes"),
        ({"tenant": "a", "name": "b", "scopes": ["root"]}, 400, "scopes"),
        ({"tenant": "a", "name": "b", "user": "x\u0000"}, 400, "user"),
    ],
)
def test_bad_keys_are_not_made(http: Client, body: object, status: int, param: str) -> None:
    reply = http("POST", "/v1/admin/keys", body, ADMIN)
    assert (reply.status, reply.error["param"]) == (status, param)


def test_an_unknown_key_cannot_be_revoked(http: Client) -> None:
    reply = http("DELETE", "/v1/admin/keys/key_none", None, ADMIN)
    assert (reply.status, reply.error["code"]) == (404, "key_not_found")


def test_no_key_is_in_the_database_or_beside_it(http: Client, locked: Served, tmp_path: Path) -> None:
    _, key = _key(http, "secret")
    for path in locked.database.parent.iterdir():
        if path.is_file():
            assert key.encode() not in path.read_bytes()


def test_the_command_line_asks_the_server_that_runs(locked: Served, tmp_path: Path) -> None:
    config = tmp_path / "stateline.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{locked.database}"\n')

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments, "-c", str(config)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    with admin_file(locked.database, locked.url, ADMIN_TOKEN):
        key = run("create", "--tenant", "cli", "--name", "made while it runs").strip()
        with locked.openai(api_key=key) as client:
            assert client.models.list().data
        key_id = next(line.split()[0] for line in run("list").splitlines() if " cli " in line)
        run("revoke", key_id)
        with locked.openai(api_key=key) as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with pytest.raises(StatelineError) as refused:
            run("create", "--tenant", "system", "--name", "x")
        assert refused.value.code == "invalid_value"
    with pytest.raises(StatelineError) as busy:
        run("list")
    assert busy.value.code == "store_in_use"


def test_secrets_are_kept_listed_rotated_and_removed_and_never_shown(http: Client, locked: Served) -> None:
    value = "tok-planted-77c1"
    kept = http("POST", "/v1/admin/secrets", {"tenant": "shop", "name": "github", "value": value}, ADMIN)
    assert (kept.status, kept.json["name"]) == (200, "github")
    listed = http("GET", "/v1/admin/secrets", None, ADMIN)
    assert [(each["tenant"], each["name"]) for each in listed.json["data"]] == [("shop", "github")]
    assert http("POST", "/v1/admin/secrets/rotate", None, ADMIN).json["rewrapped"] == 0
    _, key = _key(http, "shop", scopes=["responses", "agents", "usage", "audit", "approve"])
    for method, path in (("GET", ""), ("POST", ""), ("POST", "/rotate"), ("DELETE", "/shop/github")):
        refused = http(method, "/v1/admin/secrets" + path, None, {"authorization": f"Bearer {key}"})
        assert refused.status == 403
    long = http("POST", "/v1/admin/secrets", {"tenant": "shop", "name": "x", "value": value * 2000}, ADMIN)
    assert long.status == 400
    for answer in (kept, listed, long):
        assert value.encode() not in answer.body
    for path in locked.database.parent.iterdir():
        assert not path.is_file() or value.encode() not in path.read_bytes()
    assert http("DELETE", "/v1/admin/secrets/shop/github", None, ADMIN).status == 200
    gone = http("DELETE", "/v1/admin/secrets/shop/github", None, ADMIN)
    assert (gone.status, gone.error["code"]) == (404, "secret_not_found")
