"""Tokens of an issuer over the real server: who gets in, and what the others are told."""

from __future__ import annotations

from collections.abc import Generator
from time import time
from typing import Any

import openai
import pytest
from joserfc.jwk import ECKey
from tests.api.conftest import MODEL, Served
from tests.api.http import Client
from tests.identity.an_issuer import AUDIENCE, AnIssuer

from stateline.identity.oidc import OidcAuthenticator, Terms
from stateline.stores.clock import SystemClock


@pytest.fixture(scope="module")
def issuer() -> Generator[AnIssuer]:
    made = AnIssuer()
    made.keys["one"] = ECKey.generate_key("P-256")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, issuer: AnIssuer) -> Generator[Served]:
    terms = Terms(
        issuer=issuer.url,
        audience=(AUDIENCE,),
        algorithms=("ES256",),
        tenant_claim="org",
        scope_claim="scope",
    )
    auth = OidcAuthenticator(terms, SystemClock())
    made = Served(tmp_path_factory.mktemp("oidc") / "stateline.db", auth=auth).start()
    yield made
    made.stop()


def _token(issuer: AnIssuer, org: str = "acme", scope: str = "stateline:responses", **more: object) -> str:
    now_s = int(time())
    claims: dict[str, Any] = {"exp": now_s + 600, "iat": now_s, "org": org, "scope": scope, **more}
    return issuer.token(alg="ES256", **claims)


def test_an_sdk_calls_with_a_token_and_tenants_are_apart(served: Served, issuer: AnIssuer) -> None:
    with served.openai(api_key=_token(issuer)) as ours, served.openai(api_key=_token(issuer, "shop")) as theirs:
        made = ours.responses.create(model=MODEL, input="private")
        assert ours.responses.retrieve(made.id).id == made.id
        with pytest.raises(openai.NotFoundError):
            theirs.responses.retrieve(made.id)


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"exp": 1}, 401, "token_expired"),
        ({"aud": "x"}, 401, "invalid_token"),
        ({"org": "system"}, 403, "token_unfit"),
        ({"scope": "admin openid"}, 403, "forbidden"),
        ({"scope": "stateline:usage"}, 403, "forbidden"),
    ],
)
def test_who_does_not_get_in_is_told_why(
    served: Served, issuer: AnIssuer, changed: dict[str, Any], status: int, code: str
) -> None:
    http = Client(served.port)
    token = _token(issuer, **changed)
    reply = http("GET", "/v1/models", None, {"authorization": f"Bearer {token}"})
    challenge = 'Bearer error="invalid_token"' if status == 401 else None
    assert (reply.status, reply.error["code"], reply.headers.get("www-authenticate")) == (status, code, challenge)
    assert token.encode() not in reply.body
    none = http("GET", "/v1/models")
    assert (none.status, none.headers["www-authenticate"]) == (401, "Bearer")
    http.close()
