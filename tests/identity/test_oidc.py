"""Bearer tokens against a real issuer on a loopback port: the good ones, and every way to forge one."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from tests.identity.an_issuer import AUDIENCE, NOW_S, AnIssuer, b64

from stateline.core.errors import Forbidden, Unauthorized
from stateline.core.limits import (
    JWKS_BYTES_MAX,
    JWKS_KEYS_MAX,
    JWKS_REFETCH_S,
    JWKS_REFRESH_S,
    JWKS_STALE_S,
    OIDC_CACHE_MAX,
    OIDC_KID_CHARS_MAX,
    OIDC_TOKEN_BYTES_MAX,
)
from stateline.core.principals import DEFAULT_SCOPES
from stateline.identity import oidc
from stateline.identity.issuer import IssuerUnavailable, may_fetch
from stateline.identity.keys import Keys
from stateline.identity.oidc import OidcAuthenticator, Terms, TokenRefused
from stateline.stores.memory import MemoryStore

RSA = RSAKey.generate_key(2048)
OTHER_RSA = RSAKey.generate_key(2048)


class SetClock:
    def __init__(self) -> None:
        self.at_ms = NOW_S * 1000

    def now_ms(self) -> int:
        return self.at_ms

    async def sleep(self, seconds: float) -> None:
        self.at_ms += int(seconds * 1000)


@pytest.fixture
def issuer() -> Generator[AnIssuer]:
    made = AnIssuer()
    made.keys["one"] = RSA
    made.start()
    yield made
    made.stop()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def door(issuer: AnIssuer, clock: SetClock, **terms: object) -> OidcAuthenticator:
    given = {"issuer": issuer.url, "audience": (AUDIENCE,), "algorithms": ("RS256", "ES256"), "tenant": "acme", **terms}
    return OidcAuthenticator(Terms(**given), clock)  # pyright: ignore[reportArgumentType]


@pytest.fixture
async def auth(issuer: AnIssuer, clock: SetClock) -> AsyncGenerator[OidcAuthenticator]:
    made = door(issuer, clock)
    yield made
    await made.issuer.close()


def _sent(token: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + token.encode()}


async def _refused(auth: OidcAuthenticator, token: str, code: str = "invalid_token") -> None:
    with pytest.raises(TokenRefused) as refused:
        await auth.authenticate(_sent(token))
    assert (refused.value.status, refused.value.code) == (401, code)
    assert token not in str(refused.value)


async def test_a_token_names_its_user(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    ann = await auth.authenticate(_sent(issuer.token()))
    assert (ann.tenant, ann.kind, ann.id, ann.user, ann.scopes) == ("acme", "user", "user:ann", "ann", DEFAULT_SCOPES)
    assert (await auth.authenticate(_sent(issuer.token(aud=["other", AUDIENCE])))).user == "ann"
    assert (await auth.authenticate(_sent(issuer.token(header={"typ": "at+jwt", "x5t": "a"})))).user == "ann"


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("PS256", RSA),
        ("ES256", ECKey.generate_key("P-256")),
        ("ES384", ECKey.generate_key("P-384")),
        ("Ed25519", OKPKey.generate_key("Ed25519")),
    ],
)
async def test_all_algorithms_that_may_be_configured_work(
    issuer: AnIssuer, clock: SetClock, alg: str, key: RSAKey | ECKey | OKPKey
) -> None:
    issuer.keys["other"] = key
    auth = door(issuer, clock, algorithms=(alg,))
    assert (await auth.authenticate(_sent(issuer.token("other", alg)))).user == "ann"
    await _refused(auth, issuer.token())


# -- forged ------------------------------------------------------------------------------------------------


async def test_a_token_without_a_signature_is_refused(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    claims = b64(json.dumps(issuer.claims()).encode())
    for alg in ("none", "None", "NONE", "nOnE", ""):
        head = b64(json.dumps({"alg": alg, "kid": "one"}).encode())
        for signature in ("", "AA", b64(b"x" * 256)):
            await _refused(auth, f"{head}.{claims}.{signature}")


@pytest.mark.parametrize("algorithms", [("RS256",), ("RS256", "HS256")])
async def test_the_public_key_is_no_shared_secret(
    issuer: AnIssuer, clock: SetClock, algorithms: tuple[str, ...]
) -> None:
    # Even where somebody lets HS256 in by mistake: the key's own kind decides.
    auth = door(issuer, clock, algorithms=algorithms)
    for secret in (RSA.as_pem(private=False), json.dumps(issuer.public("one")).encode()):
        await _refused(
            auth, issuer.sign(OctKey.import_key(b64(secret)), {"alg": "HS256", "kid": "one"}, issuer.claims())
        )


async def test_a_shared_secret_among_the_keys_is_not_used(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    secret = OctKey.generate_key(256)
    published = [{**secret.as_dict(private=True), "kid": "oct", "alg": "RS256"}, issuer.public("one")]
    issuer.documents["/keys"] = 200, json.dumps({"keys": published}).encode()
    await _refused(auth, issuer.sign(secret, {"alg": "HS256", "kid": "oct"}, issuer.claims()))
    assert (await auth.authenticate(_sent(issuer.token()))).user == "ann"


async def test_a_token_signed_by_somebody_else_is_refused(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    for header in ({"kid": "one"}, {}, {"kid": None}):
        await _refused(auth, issuer.sign(OTHER_RSA, {"alg": "RS256", **header}, issuer.claims()))


async def test_keys_that_a_token_brings_along_are_not_read(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    own = {**OTHER_RSA.as_dict(private=False), "kid": "one"}
    issuer.documents["/evil"] = 200, json.dumps({"keys": [own]}).encode()
    for header in ({"jwk": own}, {"jku": issuer.url + "/evil"}, {"x5u": issuer.url + "/evil"}):
        await _refused(auth, issuer.sign(OTHER_RSA, {"alg": "RS256", "kid": "one", **header}, issuer.claims()))
    assert "/evil" not in issuer.asked


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "/dev/null", "' OR 1=1", "http://127.0.0.1/x", "one\x00", "", "ONE"]
)
async def test_the_name_of_a_key_leads_nowhere(auth: OidcAuthenticator, issuer: AnIssuer, kid: str) -> None:
    await _refused(auth, issuer.sign(RSA, {"alg": "RS256", "kid": kid}, issuer.claims()))
    assert set(issuer.asked) == {"/.well-known/openid-configuration", "/keys"}


async def test_a_name_that_is_too_long_is_not_even_asked_for(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock
) -> None:
    await auth.authenticate(_sent(issuer.token()))
    clock.at_ms += int(JWKS_REFETCH_S * 1000)
    asked = len(issuer.asked)
    await _refused(auth, issuer.sign(RSA, {"alg": "RS256", "kid": "k" * (OIDC_KID_CHARS_MAX + 1)}, issuer.claims()))
    assert len(issuer.asked) == asked


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"b64": True}, {"typ": "logout+jwt"}, {"typ": "dpop+jwt"}]
)
async def test_a_token_for_something_else_is_refused(
    auth: OidcAuthenticator, issuer: AnIssuer, header: dict[str, object]
) -> None:
    head = b64(json.dumps({"alg": "RS256", "kid": "one", **header}).encode())
    good = issuer.token()
    await _refused(auth, f"{head}.{good.partition('.')[2]}")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"exp": NOW_S - 31}, "token_expired"),
        ({"exp": NOW_S - 30}, "token_expired"),
        ({"exp": None}, "invalid_token"),
        ({"exp": str(NOW_S + 600)}, "invalid_token"),
        ({"exp": True}, "invalid_token"),
        ({"nbf": NOW_S + 31}, "invalid_token"),
        ({"iat": NOW_S + 31}, "invalid_token"),
        ({"nbf": "soon"}, "invalid_token"),
        ({"aud": "other"}, "invalid_token"),
        ({"aud": []}, "invalid_token"),
        ({"aud": None}, "invalid_token"),
        ({"aud": {"stateline": 1}}, "invalid_token"),
        ({"aud": "stateline2"}, "invalid_token"),
        ({"iss": "https://elsewhere.example"}, "invalid_token"),
        ({"iss": None}, "invalid_token"),
    ],
)
async def test_claims_that_do_not_hold_are_refused(
    auth: OidcAuthenticator, issuer: AnIssuer, changed: dict[str, Any], code: str
) -> None:
    await _refused(auth, issuer.token(**changed), code)


async def test_clocks_may_differ_a_little(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    await auth.authenticate(_sent(issuer.token(exp=NOW_S - 29)))
    await auth.authenticate(_sent(issuer.token(nbf=NOW_S + 30, iat=NOW_S + 30)))


@pytest.mark.parametrize("body", [b"[]", b"null", b"\xff\xfe", b'{"exp":NaN}', b"[" * 5000, b'{"exp":1e999}', b""])
async def test_what_is_no_set_of_claims_is_refused(auth: OidcAuthenticator, issuer: AnIssuer, body: bytes) -> None:
    await _refused(auth, issuer.sign(RSA, {"alg": "RS256", "kid": "one"}, body))


@pytest.mark.parametrize(
    "token", ["x", "a.b", "a.b.c.d.e", "...", "!!.!!.!!", "e30.e30.e30", b64(b"[" * 9000) + ".e30.e30"]
)
async def test_what_is_no_token_is_refused(auth: OidcAuthenticator, token: str) -> None:
    await _refused(auth, token)


async def test_a_huge_token_costs_nothing(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    await _refused(auth, "e30." + "A" * OIDC_TOKEN_BYTES_MAX + ".AA")
    assert issuer.asked == []


async def test_one_changed_character_is_found(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    token = issuer.token()
    await auth.authenticate(_sent(token))
    for at in range(0, len(token) - 1, 37):
        changed = "B" if token[at] != "B" else "C"
        if token[at] == ".":
            continue
        await _refused(auth, token[:at] + changed + token[at + 1 :])


async def test_no_token_at_all_is_another_error(auth: OidcAuthenticator) -> None:
    with pytest.raises(Unauthorized) as refused:
        await auth.authenticate({})
    assert refused.value.code == "invalid_api_key"


# -- keys that come and go ---------------------------------------------------------------------------------


async def test_a_rotated_key_is_found_and_the_old_one_is_refused_with_its_tokens(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock
) -> None:
    old = issuer.token()
    await auth.authenticate(_sent(old))
    issuer.keys = {"two": OTHER_RSA}
    clock.at_ms += int(JWKS_REFETCH_S * 1000)
    assert (await auth.authenticate(_sent(issuer.token("two")))).user == "ann"
    # Its check was kept; with its key it is gone.
    await _refused(auth, old)


async def test_unknown_keys_ask_the_issuer_once_in_a_while(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock
) -> None:
    await auth.authenticate(_sent(issuer.token()))
    clock.at_ms += int(JWKS_REFETCH_S * 1000)
    asked = len(issuer.asked)
    await asyncio.gather(
        *(_refused(auth, issuer.sign(OTHER_RSA, {"alg": "RS256", "kid": f"k{n}"}, issuer.claims())) for n in range(50))
    )
    assert len(issuer.asked) == asked + 2


async def test_known_keys_outlive_an_issuer_that_is_away_for_a_day(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock
) -> None:
    await auth.authenticate(_sent(issuer.token()))
    issuer.documents["/keys"] = 500, b""
    clock.at_ms += int(JWKS_REFRESH_S * 1000) + 1
    soon = clock.at_ms // 1000 + 2 * int(JWKS_STALE_S)
    assert (await auth.authenticate(_sent(issuer.token(exp=soon, jti="1")))).user == "ann"
    await asyncio.sleep(0)
    with pytest.raises(IssuerUnavailable) as away:
        await auth.authenticate(_sent(issuer.sign(OTHER_RSA, {"alg": "RS256", "kid": "new"}, issuer.claims(exp=soon))))
    assert (away.value.status, away.value.code) == (503, "issuer_unavailable")
    clock.at_ms += int(JWKS_STALE_S * 1000)
    with pytest.raises(IssuerUnavailable):
        await auth.authenticate(_sent(issuer.token(exp=soon, jti="2")))


async def test_an_issuer_that_is_away_at_first_is_asked_again(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock
) -> None:
    issuer.documents["/keys"] = 503, b""
    await auth.issuer.warm()
    with pytest.raises(IssuerUnavailable):
        await auth.authenticate(_sent(issuer.token()))
    del issuer.documents["/keys"]
    clock.at_ms += int(JWKS_REFETCH_S * 1000)
    assert (await auth.authenticate(_sent(issuer.token()))).user == "ann"


async def test_a_slow_issuer_holds_up_nobody_whose_key_is_known(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock
) -> None:
    await auth.authenticate(_sent(issuer.token()))
    clock.at_ms += int(JWKS_REFRESH_S * 1000) + 1
    issuer.hold = threading.Event()
    soon = clock.at_ms // 1000 + 600
    waiting = asyncio.create_task(
        auth.authenticate(_sent(issuer.sign(OTHER_RSA, {"alg": "RS256", "kid": "new"}, issuer.claims(exp=soon))))
    )
    for n in range(20):
        assert (await auth.authenticate(_sent(issuer.token(exp=soon, jti=str(n))))).user == "ann"
    assert not waiting.done()
    issuer.hold.set()
    with pytest.raises(TokenRefused):
        await waiting


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/keys", 200, b"<html>"),
        ("/keys", 200, b'{"keys": []}'),
        ("/keys", 200, b'{"keys": [1]}'),
        ("/keys", 200, b'{"keys": [{"kty": "RSA"}]}'),
        ("/keys", 200, json.dumps({"keys": [{"kty": "RSA"}] * (JWKS_KEYS_MAX + 1)}).encode()),
        ("/keys", 200, b" " * (JWKS_BYTES_MAX + 1)),
        ("/keys", 302, b"/elsewhere"),
        ("/.well-known/openid-configuration", 200, b'{"issuer": "https://evil", "jwks_uri": "http://127.0.0.1/keys"}'),
        ("/.well-known/openid-configuration", 404, b""),
    ],
)
async def test_an_issuer_that_answers_nonsense_is_unavailable(
    auth: OidcAuthenticator, issuer: AnIssuer, path: str, status: int, body: bytes
) -> None:
    issuer.documents[path] = status, body
    with pytest.raises(IssuerUnavailable):
        await auth.authenticate(_sent(issuer.token()))
    assert "/elsewhere" not in issuer.asked


async def test_keys_over_plain_http_are_not_fetched_from_elsewhere(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    found = {"issuer": issuer.url, "jwks_uri": "http://keys.example/keys"}
    issuer.documents["/.well-known/openid-configuration"] = 200, json.dumps(found).encode()
    with pytest.raises(IssuerUnavailable):
        await auth.authenticate(_sent(issuer.token()))


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://login.example/x", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost", True),
        ("http://login.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("https://user:pw@login.example", False),
        ("file:///etc/passwd", False),
        ("https://", False),
        ("https://[", False),
    ],
)
def test_where_keys_may_come_from(url: str, may: bool) -> None:
    assert may_fetch(url) is may


async def test_small_keys_and_keys_for_encryption_are_left_out(auth: OidcAuthenticator, issuer: AnIssuer) -> None:
    with pytest.warns(SecurityWarning):
        small = RSAKey.generate_key(1024)
    published = [
        {**small.as_dict(private=False), "kid": "small"},
        {**OTHER_RSA.as_dict(private=False), "kid": "enc", "use": "enc"},
        {**OTHER_RSA.as_dict(private=False), "kid": "pss", "alg": "PS256"},
        issuer.public("one"),
    ]
    issuer.documents["/keys"] = 200, json.dumps({"keys": published}).encode()
    await auth.authenticate(_sent(issuer.token()))
    for kid, key in (("small", small), ("enc", OTHER_RSA), ("pss", OTHER_RSA)):
        await _refused(auth, issuer.sign(key, {"alg": "RS256", "kid": kid}, issuer.claims()))


async def test_a_token_without_a_key_name_is_checked_where_one_key_may_be_meant(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock
) -> None:
    token = issuer.token(header={"kid": None})
    assert (await auth.authenticate(_sent(token))).user == "ann"
    issuer.keys["two"] = OTHER_RSA
    clock.at_ms += int(JWKS_REFETCH_S * 1000)
    await _refused(auth, issuer.sign(RSA, {"alg": "RS256", "kid": "unknown"}, issuer.claims()))
    await _refused(auth, issuer.token(header={"kid": None}, jti="again"))


# -- what is kept ------------------------------------------------------------------------------------------


async def test_a_signature_is_computed_once_a_token_until_it_expires(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token()
    first = await auth.authenticate(_sent(token))
    checks = 0
    real = oidc.jws.deserialize_compact

    def counted(*args: object, **more: object) -> object:
        nonlocal checks
        checks += 1
        return real(*args, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(oidc.jws, "deserialize_compact", counted)
    for _ in range(5):
        assert await auth.authenticate(_sent(token)) is first
    assert checks == 0
    clock.at_ms = (NOW_S + 600 + 30) * 1000
    await _refused(auth, token, "token_expired")


async def test_checks_are_kept_of_so_many_tokens(
    issuer: AnIssuer, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert OIDC_CACHE_MAX == oidc.OIDC_CACHE_MAX
    monkeypatch.setattr(oidc, "OIDC_CACHE_MAX", 3)
    auth = door(issuer, clock)
    for n in range(10):
        await auth.authenticate(_sent(issuer.token(jti=str(n))))
        assert len(auth._known) <= 3  # pyright: ignore[reportPrivateUsage]


# -- what a token says of its sender -----------------------------------------------------------------------


async def test_the_tenant_may_be_a_claim(issuer: AnIssuer, clock: SetClock) -> None:
    auth = door(issuer, clock, tenant=None, tenant_claim="org")
    assert (await auth.authenticate(_sent(issuer.token(org="shop")))).tenant == "shop"
    for org in (None, "", "system", "a b", "x" * 65, ["shop"], 7):
        with pytest.raises(Forbidden) as refused:
            await auth.authenticate(_sent(issuer.token(org=org)))
        assert refused.value.code == "token_unfit"


async def test_the_user_may_be_another_claim(issuer: AnIssuer, clock: SetClock) -> None:
    auth = door(issuer, clock, user_claim="email")
    assert (await auth.authenticate(_sent(issuer.token(email="ann@acme.example")))).id == "user:ann@acme.example"
    for email in (None, "", "a\n", "x" * 257, 7, ["a"]):
        with pytest.raises(Forbidden) as refused:
            await auth.authenticate(_sent(issuer.token(email=email)))
        assert refused.value.code == "token_unfit"


@pytest.mark.parametrize(
    ("said", "scopes"),
    [
        ("openid stateline:responses stateline:approve", {"responses", "approve"}),
        (["stateline:usage", "sl-ops"], {"usage", "admin", "audit"}),
        ("admin approve", set[str]()),
        ("stateline:root stateline:", set[str]()),
        (None, set[str]()),
        (7, set[str]()),
        ([7, None, "stateline:audit"], {"audit"}),
    ],
)
async def test_scopes_come_of_a_claim(issuer: AnIssuer, clock: SetClock, said: object, scopes: set[str]) -> None:
    auth = door(issuer, clock, scope_claim="scope", scope_map={"sl-ops": ("admin", "audit")})
    assert (await auth.authenticate(_sent(issuer.token(scope=said)))).scopes == scopes


async def test_keys_work_beside_tokens_where_that_is_configured(
    auth: OidcAuthenticator, issuer: AnIssuer, clock: SetClock
) -> None:
    store = MemoryStore(clock=clock)
    keys = Keys(store, clock, os.urandom)
    record, key = await keys.create("shop", "worker")
    terms = Terms(issuer=issuer.url, audience=(AUDIENCE,), algorithms=("RS256",), tenant="acme")
    both = OidcAuthenticator(terms, clock, keys=keys, admin_token="sl-admin-x")
    assert (await both.authenticate(_sent(key))).id == record.id
    assert (await both.authenticate({b"x-api-key": key.encode()})).id == record.id
    assert (await both.authenticate(_sent(issuer.token()))).kind == "user"
    assert (await both.authenticate(_sent("sl-admin-x"))).kind == "operator"
    with pytest.raises(Unauthorized, match="not taken here"):
        await auth.authenticate(_sent(key))
    await store.close()
