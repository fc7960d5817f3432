"""What is the same for every request: ids, the access log, proxies, browsers, metrics, probes."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.api.conftest import MODEL, Served
from tests.api.http import Client

from stateline.api import Options
from stateline.api.access import AccessLine, AccessLog
from stateline.api.proxies import TrustedProxies
from stateline.core.limits import ACCESS_LOG_LINES_MAX, PROXY_ADDRESSES_MAX, PROXY_HOPS_MAX


@pytest.fixture
def http(server: Served) -> Generator[Client]:
    made = Client(server.port)
    yield made
    made.close()


def test_a_request_id_is_made_and_a_sane_one_is_kept(http: Client) -> None:
    made = http("GET", "/healthz").headers["x-request-id"]
    assert made.startswith("req_")
    assert http("GET", "/healthz").headers["x-request-id"] != made
    assert http("GET", "/healthz", headers={"x-request-id": "trace-1:a/b"}).headers["x-request-id"] == "trace-1:a/b"
    for odd in ("a b", "x" * 129, 'a"b'):
        assert http("GET", "/healthz", headers={"x-request-id": odd}).headers["x-request-id"].startswith("req_")


def test_errors_have_the_types_of_their_dialect(http: Client) -> None:
    unknown = "/v1/responses/resp_x"
    assert http("GET", unknown).error["type"] == "not_found"
    assert http("GET", unknown, headers={"stateline-dialect": "openai"}).error["type"] == "invalid_request_error"
    assert http("GET", "/v1/conversations/x").error["type"] == "invalid_request_error"


def test_a_wrong_method_names_the_right_ones(http: Client) -> None:
    reply = http("PATCH", "/v1/responses/resp_x")
    assert (reply.status, reply.headers["allow"]) == (405, "DELETE, GET")


def test_a_head_request_has_no_body(http: Client) -> None:
    reply = http("HEAD", "/v1/models")
    assert (reply.status, reply.body) == (200, b"")


def test_probes_and_metrics(http: Client) -> None:
    assert http("GET", "/healthz").json == {"status": "ok"}
    assert http("GET", "/readyz").json == {"status": "ok"}
    http("POST", "/v1/responses", {"model": MODEL, "input": "x"})
    text = http("GET", "/metrics").body.decode()
    assert 'stateline_http_requests_total{route="/v1/responses",method="POST",status="200"}' in text
    assert 'stateline_http_request_duration_seconds_bucket{route="/v1/responses",le="+Inf"}' in text
    assert 'stateline_events_recorded_total{type="TurnCompleted"}' in text
    assert "stateline_active_turns" in text
    for line in text.splitlines():
        if not line.startswith("#"):
            float(line.rpartition(" ")[2])


def test_unknown_paths_share_one_series(http: Client) -> None:
    for at in range(3):
        http("GET", f"/v1/unknown-{at}")
    text = http("GET", "/metrics").body.decode()
    assert "unknown-0" not in text
    assert 'route="other",method="other",status="404"' in text


def test_each_request_has_one_line_of_json(server: Served, http: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stateline.access"):
        http("POST", "/v1/responses?secret=1", {"model": MODEL, "input": "x"}, {"x-request-id": "logged-1"})
        http("GET", "/v1/models/none", headers={"x-request-id": "logged-2"})
        server.flush_access_log()
    lines = [json.loads(line) for record in caplog.records for line in record.getMessage().splitlines()]
    by_id = {line["request_id"]: line for line in lines}
    first = by_id["logged-1"]
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/responses", 200)
    assert (first["tenant"], first["principal"], first["client"]) == ("default", "anonymous", "127.0.0.1")
    assert first["duration_ms"] > 0
    assert first["bytes"] > 0
    assert by_id["logged-2"]["status"] == 404


async def test_lines_are_written_together_and_at_the_latest_when_there_are_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = AccessLine(at=0, request_id="r", method="GET", path="/", status=200, duration_ms=1, bytes=0, client="")
    log = AccessLog()
    with caplog.at_level(logging.INFO, "stateline.access"):
        for _ in range(ACCESS_LOG_LINES_MAX - 1):
            log.add(line)
        assert not caplog.records
        log.add(line)
        assert len(caplog.records[0].getMessage().splitlines()) == ACCESS_LOG_LINES_MAX
        log.flush()
        assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        ((), "10.0.0.1", "1.2.3.4", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", "1.2.3.4", "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        (("10.0.0.0/8",), "11.0.0.1", "1.2.3.4", "11.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", "", "10.0.0.1"),
        (("10.0.0.1",), "10.0.0.1", "garbage", "garbage"),
        (("::1",), "::1", "2001:db8::7", "2001:db8::7"),
    ],
)
def test_only_trusted_proxies_are_believed(trusted: tuple[str, ...], peer: str, forwarded: str, client: str) -> None:
    proxies = TrustedProxies(trusted)
    headers = {b"x-forwarded-for": forwarded.encode()} if forwarded else {}
    assert proxies.client({"type": "http", "client": (peer, 1)}, headers) == client


def test_what_is_remembered_of_proxies_is_bounded() -> None:
    proxies = TrustedProxies(("10.0.0.0/8",))
    scope = {"type": "http", "client": ("10.0.0.1", 1)}
    for at in range(PROXY_ADDRESSES_MAX + 10):
        hop = f"1.{at >> 16}.{at >> 8 & 255}.{at & 255}"
        assert proxies.client(scope, {b"x-forwarded-for": hop.encode()}) == hop
    assert proxies.remembered <= PROXY_ADDRESSES_MAX
    # Whoever sends more hops than are read is known by the last one that was.
    many = ", ".join(["1.2.3.4", *["10.0.0.2"] * PROXY_HOPS_MAX])
    assert proxies.client(scope, {b"x-forwarded-for": many.encode()}) == "10.0.0.2"


def test_browsers_are_let_in_only_from_named_origins(tmp_path: Path, http: Client) -> None:
    asks = {"origin": "https://app.example", "access-control-request-method": "POST"}
    asks["access-control-request-headers"] = "authorization, x-stainless-lang"
    assert http("OPTIONS", "/v1/responses", headers=asks).status == 405
    assert "access-control-allow-origin" not in http("GET", "/healthz", headers=asks).headers
    served = Served(tmp_path / "a.db", options=Options(cors_origins=("https://app.example",))).start()
    try:
        browser = Client(served.port)
        preflight = browser("OPTIONS", "/v1/responses", headers=asks)
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        answer = browser("GET", "/v1/models", headers={"origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        other = browser("GET", "/v1/models", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        browser.close()
    finally:
        served.stop()


def test_a_defect_shows_nothing_of_its_insides(
    server: Served, http: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[str]:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(server.engine, "models", broken)
    reply = http("GET", "/v1/models", headers={"x-request-id": "broken-1"})
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert "secret" not in reply.body.decode()
    assert "broken-1" in reply.error["message"]
    assert any("broken-1" in record.getMessage() and record.exc_info for record in caplog.records)
