"""Google's cloud: where it is, tokens from a real issuer, and what must never be told."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from stateline.core.calls import Finish, ModelDelta, ModelParams, ModelRequest, TextDelta
from stateline.core.errors import ModelError
from stateline.core.items import InputText, Message
from stateline.models.client import HttpModelClient
from stateline.models.clouds import CLOUDS, tokens
from stateline.models.clouds.google import GoogleKeyring
from stateline.models.clouds.tokens import Missing, Token, Tokens
from stateline.ports import Deployment

GEMINI = "https://generativelanguage.googleapis.com/v1beta"
VERTEX = "https://aiplatform.googleapis.com/v1/projects/acme"
PATH = "/models/gemini-3-pro:generateContent"
ANSWER = {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}
CLAUDE_ANSWER = (
    b'{"type": "message", "role": "assistant", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn",'
    b' "usage": {"input_tokens": 1, "output_tokens": 1}}'
)
CLAUDE_EVENTS = b"".join(
    b"event: x\ndata: " + each + b"\n\n"
    for each in (
        b'{"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 1}}}',
        b'{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}',
        b'{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}',
        b'{"type": "content_block_stop", "index": 0}',
        b'{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}',
        b'{"type": "message_stop"}',
    )
)
SECRET = "ya29.a0AfB_byEXAMPLEEXAMPLEEXAMPLEEXAMPLE"


class Google(BaseHTTPRequestHandler):
    """Issues tokens that are numbered, and answers calls that bring the last one, or a key."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        assert isinstance(server, Server)
        if self.path == "/token":
            server.granted.append(parse_qs(body.decode()))
            status, said = server.refusal or (
                200, {"access_token": f"{SECRET}{len(server.granted)}", "expires_in": server.life_s},
            )  # fmt: skip
            return self.reply(status, "application/json", json.dumps(said).encode())
        server.asked.append((self.path, dict(self.headers.items()), body))
        if self.headers.get("Authorization") in server.rejected:
            said = {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": f"{self.headers['Authorization']}?"}}
            return self.reply(401, "application/json", json.dumps(said).encode())
        answer = server.answer or json.dumps(ANSWER).encode()
        if "stream" in self.path:
            events = server.answer or b"data: " + answer + b"\r\n\r\n"
            return self.reply(200, server.stream_type, events)
        return self.reply(200, "application/json; charset=UTF-8", answer)

    def reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Google)
        self.granted: list[dict[str, list[str]]] = []
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.rejected: set[str] = set()
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.life_s = 3600
        self.answer = b""
        self.stream_type = "text/event-stream"
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and a service account whose tokens it issues."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = {"type": "service_account", "client_email": "a@acme", "private_key": pem, "project_id": "acme"}
        file = tmp_path / "account.json"
        file.write_text(json.dumps(account | {"token_uri": f"{server.url}/token", "private_key_id": "1"}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        yield server
        server.shutdown()
        thread.join()


def deployment(base_url: str = "", **fields: Any) -> Deployment:
    return Deployment(
        name="g", model="gemini", cloud="google", format="gemini", base_url=base_url, upstream_model="gemini-3-pro",
        timeout_s=10.0, **fields,
    )  # fmt: skip


async def call(client: HttpModelClient, place: Deployment, *, stream: bool = True) -> list[ModelDelta]:
    said = Message(id="msg_1", role="user", content=(InputText(text="hello"),))
    request = ModelRequest(params=ModelParams(model="gemini"), items=[said], key="s/1/1", stream=stream)
    return [delta async for batch in client.call(place, request) for delta in batch]


@pytest.mark.parametrize(
    ("base_url", "region", "url"),
    [
        ("", None, GEMINI + PATH),
        ("https://gateway.example/g/", None, f"https://gateway.example/g{PATH}"),
        (VERTEX, None, f"{VERTEX}/locations/global/publishers/google{PATH}"),
        (
            f"{VERTEX}/", "europe-west4",
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/acme/locations/europe-west4/publishers/google"
            + PATH,
        ),
        ("http://127.0.0.1:1/projects/p", "x", f"http://127.0.0.1:1/projects/p/locations/x/publishers/google{PATH}"),
        (f"{VERTEX}/locations/x/publishers/me", None, f"{VERTEX}/locations/x/publishers/me{PATH}"),
    ],
)  # fmt: skip
def test_a_model_is_found_in_its_region_or_at_the_gemini_api(base_url: str, region: str | None, url: str) -> None:
    assert CLOUDS["google"].url(deployment(base_url, region=region), PATH) == url


@pytest.mark.parametrize("kind", ["application/json; charset=UTF-8", ""])
async def test_a_gateway_that_drops_the_query_answers_with_an_array_which_is_a_stream_too(
    google: Server, kind: str
) -> None:
    part = {"candidates": [{"content": {"parts": [{"text": "oh "}]}}]}
    google.stream_type = kind
    for body, texts in ((json.dumps([part, ANSWER], indent=1), ["oh ", "hi"]), (json.dumps(ANSWER), ["hi"])):
        google.answer = body.encode()
        client = HttpModelClient()
        deltas = await call(client, deployment(google.url, api_key="AIzaKEY"))
        await client.close()
        assert [delta.text for delta in deltas if isinstance(delta, TextDelta)] == texts
        assert isinstance(deltas[-1], Finish)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_key_is_sent_in_googles_header_and_the_stream_asked_for_as_events(google: Server, stream: bool) -> None:
    client = HttpModelClient()
    deltas = await call(client, deployment(f"{google.url}/v1beta", api_key="AIzaKEY"), stream=stream)
    await client.close()
    assert deltas[0] == TextDelta("hi")
    assert isinstance(deltas[-1], Finish)
    ((path, headers, body),) = google.asked
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    assert path == f"/v1beta/models/gemini-3-pro:{verb}"
    assert headers["x-goog-api-key"] == "AIzaKEY"
    assert "Authorization" not in headers
    assert body == b'{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}'
    assert not google.granted


async def test_a_service_accounts_token_is_asked_for_once_and_sent_with_each_call(google: Server) -> None:
    client, place = HttpModelClient(), deployment(f"{google.url}/v1/projects/acme", auth="adc")
    await asyncio.gather(*(call(client, place) for _ in range(3)))
    await client.close()
    (grant,) = google.granted
    assert grant["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assert {headers["Authorization"] for _, headers, _ in google.asked} == {f"Bearer {SECRET}1"}
    assert google.asked[0][0].startswith("/v1/projects/acme/locations/global/publishers/google/models/")


@pytest.mark.parametrize("stream", [True, False])
async def test_claude_on_vertex_has_its_model_in_the_url_and_its_version_in_the_body(
    google: Server, stream: bool
) -> None:
    client = HttpModelClient()
    place = msgspec.structs.replace(
        deployment(f"{google.url}/v1/projects/acme", auth="adc", region="europe-west1"),
        format="anthropic-messages", upstream_model="claude-sonnet-4-5",
    )  # fmt: skip
    google.answer = CLAUDE_EVENTS if stream else CLAUDE_ANSWER
    deltas = await call(client, place, stream=stream)
    await client.close()
    assert TextDelta("hi") in deltas
    ((path, headers, body),) = google.asked
    verb = "streamRawPredict" if stream else "rawPredict"
    here = "/v1/projects/acme/locations/europe-west1/publishers/anthropic/models"
    assert path == f"{here}/claude-sonnet-4-5:{verb}"
    assert headers["Authorization"] == f"Bearer {SECRET}1"
    said = json.loads(body)
    assert said["anthropic_version"] == "vertex-2023-10-16"
    assert "model" not in said
    assert said.get("stream", False) is stream


async def test_a_rejected_token_is_hidden_and_asked_for_anew(google: Server) -> None:
    client, place = HttpModelClient(), deployment(f"{google.url}/projects/acme", auth="adc")
    google.rejected.add(f"Bearer {SECRET}1")
    with pytest.raises(ModelError) as caught:
        await call(client, place)
    assert caught.value.code == "upstream_auth_failed"
    assert "ya29" not in f"{caught.value} {caught.value.provider_message}"
    assert await call(client, place)
    await client.close()
    assert len(google.granted) == 2


async def test_a_lapsed_token_is_replaced_before_the_call(google: Server) -> None:
    google.life_s = 5
    client, place = HttpModelClient(), deployment(f"{google.url}/projects/acme", auth="adc")
    for _ in range(2):
        await call(client, place)
    await client.close()
    assert [headers["Authorization"] for _, headers, _ in google.asked] == [f"Bearer {SECRET}{n}" for n in (1, 2)]


async def test_a_refused_grant_is_the_operators_and_tells_no_secret(
    google: Server, caplog: pytest.LogCaptureFixture
) -> None:
    google.refusal = (400, {"error": "invalid_grant", "error_description": f"Bad assertion {SECRET}"})
    client = HttpModelClient()
    with caplog.at_level(logging.DEBUG, "stateline"), pytest.raises(ModelError) as caught:
        await call(client, deployment(f"{google.url}/projects/acme", auth="adc"))
    await client.close()
    error = caught.value
    assert (error.code, error.blame, error.sent) == ("upstream_auth_failed", "operator", False)
    assert "invalid_grant" in error.message
    assert "ya29" not in error.message + caplog.text
    assert not google.asked


def test_google_auth_is_not_imported_before_it_is_needed() -> None:
    look = "import sys, stateline.wiring, stateline.models.clouds.google; sys.exit('google.auth' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_a_key_or_a_gateway_without_one_needs_no_token() -> None:
    assert GoogleKeyring().signer(deployment(api_key="k"), "h") is None
    assert GoogleKeyring().signer(deployment(auth="none"), "h") is None


# -- tokens of whatever issuer -------------------------------------------------------------------------


class Issuer:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.issued = 0
        self.trouble: Exception | None = None

    def fetch(self) -> Token:
        self.issued += 1
        if self.trouble is not None:
            raise self.trouble
        return Token(f"t{self.issued}", self.now_s + 3600)

    def now(self) -> float:
        return self.now_s


async def test_a_token_is_renewed_before_it_lapses_while_calls_go_on_with_the_old_one() -> None:
    issuer = Issuer()
    kept = Tokens("it", issuer.fetch, issuer.now)
    assert await kept.current() == "t1"
    issuer.now_s += 3600 - tokens.RENEW_BEFORE_S - tokens.JITTER_S - 1
    assert await kept.current() == "t1"
    assert issuer.issued == 1
    issuer.now_s += tokens.JITTER_S + 2
    assert [await kept.current(), await kept.current()] == ["t1", "t1"]
    await kept.ask()
    assert await kept.current() == "t2"
    assert issuer.issued == 2


async def test_a_failed_renewal_is_not_tried_at_each_call() -> None:
    issuer = Issuer()
    kept = Tokens("it", issuer.fetch, issuer.now)
    await kept.current()
    issuer.now_s += 3600 - tokens.RENEW_BEFORE_S
    issuer.trouble = OSError("away")
    with pytest.raises(ModelError, match="it could not be had: OSError: away"):
        await kept.ask()
    for _ in range(3):
        assert await kept.current() == "t1"
    assert issuer.issued == 2
    issuer.now_s += tokens.ASK_AGAIN_AFTER_S
    issuer.trouble = None
    await kept.current()
    await kept.ask()
    assert await kept.current() == "t3"


async def test_what_is_not_installed_is_said() -> None:
    issuer = Issuer()
    issuer.trouble = Missing("install stateline[it]")
    with pytest.raises(ModelError, match="install stateline") as caught:
        await Tokens("it", issuer.fetch).current()
    assert (caught.value.code, caught.value.retryable) == ("upstream_misconfigured", False)
