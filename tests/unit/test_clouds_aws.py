"""Bedrock's cloud: signatures against botocore's, its credential chain, and what must never be told."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.calls import Finish, ModelDelta, ModelParams, ModelRequest, TextDelta
from stateline.core.errors import ModelError
from stateline.core.items import InputText, Message
from stateline.models.client import HttpModelClient
from stateline.models.clouds import aws
from stateline.models.clouds.aws import AwsKeyring, Chain, Credentials, SigV4
from stateline.ports import Deployment
from stateline.testing import Answer, ScriptedUpstream
from stateline.testing.converse import event, exception

BOTO: Any = importlib.import_module("botocore.auth")
BOTO_REQUEST: Any = importlib.import_module("botocore.awsrequest").AWSRequest
BOTO_CREDENTIALS: Any = importlib.import_module("botocore.credentials").Credentials
UTF8 = st.text(st.characters(codec="utf-8"), max_size=30)
KEY = Credentials("AKIDEXAMPLEEXAMPLE00", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJHMEUCIQ=="
MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4"
STREAM = (
    event("messageStart", {"role": "assistant"})
    + event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "hi"}})
    + event("contentBlockStop", {"contentBlockIndex": 0})
    + event("messageStop", {"stopReason": "end_turn"})
    + event("metadata", {"metrics": {"latencyMs": 1}})
)


def deployment(base_url: str = "", **fields: Any) -> Deployment:
    named: dict[str, Any] = {"upstream_model": MODEL, "region": "us-east-1", "auth": "sigv4"}
    named |= {"format": "bedrock-converse"} | fields
    return Deployment(name="bed", model="claude", cloud="aws", base_url=base_url, timeout_s=10.0, **named)


def request(*, stream: bool = True, text: str = "hello") -> ModelRequest:
    said = Message(id="msg_1", role="user", content=(InputText(text=text),))
    return ModelRequest(params=ModelParams(model="claude"), items=[said], key="s/1/1", stream=stream)


def theirs(credentials: Credentials, url: str, host: str, body: bytes, at: str) -> dict[str, str]:
    """The headers with which botocore signs the same."""
    asked = BOTO_REQUEST("POST", url, headers={"Content-Type": "application/json", "Host": host}, data=body)
    asked.context["timestamp"] = at
    signer = BOTO.SigV4Auth(BOTO_CREDENTIALS(*credentials), aws.SERVICE, "us-east-1")
    if credentials.token:
        asked.headers["X-Amz-Security-Token"] = credentials.token
    asked.headers["X-Amz-Date"] = at
    to_sign = signer.string_to_sign(asked, signer.canonical_request(asked))
    signer._inject_signature_to_request(asked, signer.signature(to_sign, asked))
    return dict(asked.headers.items())


@given(
    st.sampled_from([None, TOKEN]),
    st.sampled_from([MODEL, PROFILE, "amazon.nova-micro-v1:0", "a~b c/é"]),
    st.binary(max_size=200),
    st.integers(1_600_000_000, 2_000_000_000),
)
def test_a_request_is_signed_as_botocore_signs_it(token: str | None, model: str, body: bytes, at_s: int) -> None:
    host = "bedrock-runtime.us-east-1.amazonaws.com"
    target = f"/model/{aws.quote(model, safe='')}/converse-stream"
    credentials = KEY._replace(token=token)
    mine = SigV4(host, "us-east-1").headers(credentials, target, body, at_s)
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_s))
    expected = theirs(credentials, f"https://{host}{target}", host, body, at)
    assert mine == {name: expected[name] for name in mine}
    assert ("X-Amz-Security-Token" in mine) == (token is not None)


def test_the_key_of_a_day_is_not_used_on_another_nor_for_another_secret() -> None:
    signer = SigV4("h", "us-east-1")
    day = 86_400 * 20_000
    for credentials, at_s in ((KEY, day), (KEY, day + 86_400), (KEY._replace(secret_key="other"), day + 86_400)):
        fresh = SigV4("h", "us-east-1").headers(credentials, "/x", b"", at_s)
        assert signer.headers(credentials, "/x", b"", at_s) == fresh


# -- the chain of credentials -------------------------------------------------------------------------


class Source:
    """As botocore's credentials object is used."""

    def __init__(self, *found: Credentials) -> None:
        self.found = list(found)
        self.asked = 0

    def get_frozen_credentials(self) -> Credentials:
        self.asked += 1
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


async def test_credentials_are_asked_for_once_by_all_who_wait_and_renewed_beside_the_calls() -> None:
    old, new = KEY, KEY._replace(access_key="AKIDNEW")
    source, clock = Source(old, new), Clock()
    chain = Chain(lambda: source, clock)
    assert await asyncio.gather(chain.current(), chain.current(), chain.current()) == [old] * 3
    assert source.asked == 1
    clock.s += aws.CHECK_AFTER_S - 1
    assert await chain.current() == old
    assert source.asked == 1
    clock.s += 1
    assert await chain.current() == old  # No call waits for the renewal.
    assert await chain.ask() == new
    assert await chain.current() == new
    assert source.asked == 2


async def test_after_a_long_silence_a_call_waits_for_fresh_credentials() -> None:
    new = KEY._replace(access_key="AKIDNEW")
    source, clock = Source(KEY, new), Clock()
    chain = Chain(lambda: source, clock)
    await chain.current()
    clock.s += aws.STALE_AFTER_S
    assert await chain.current() == new


async def test_a_renewal_that_fails_is_not_tried_at_each_call(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[int] = []

    class Failing(Source):
        def get_frozen_credentials(self) -> Credentials:
            looks.append(1)
            if len(looks) in (2, 3):
                raise RuntimeError("the token service is away")
            return KEY

    source, clock = Failing(KEY), Clock()
    chain = Chain(lambda: source, clock)
    await chain.current()
    clock.s += aws.CHECK_AFTER_S
    assert await chain.current() == KEY
    with caplog.at_level(logging.WARNING, "stateline"), pytest.raises(ModelError):
        await chain.ask()
    assert "the token service is away" in caplog.text
    for _ in range(5):
        assert await chain.current() == KEY
    assert len(looks) == 2
    clock.s += aws.ASK_AGAIN_AFTER_S
    assert await chain.current() == KEY
    with pytest.raises(ModelError) as caught:
        await chain.ask()
    assert caught.value.retryable
    assert len(looks) == 3
    clock.s += aws.STALE_AFTER_S
    assert await chain.current() == KEY


def test_botocore_is_not_imported_before_it_is_needed() -> None:
    look = "import sys, stateline.wiring, stateline.models.clouds.aws; sys.exit('botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


async def test_what_is_said_of_a_wrong_clock_is_kept() -> None:
    def refuse(asked: str) -> bytes:
        date = asked.partition("X-Amz-Date: ")[2].partition("\r")[0]
        return json.dumps({"message": f"Signature expired: {date} is now earlier than 20300101T000000Z"}).encode()

    upstream = Upstream("403 Forbidden\r\nx-amzn-ErrorType: InvalidSignatureException", "application/json", refuse)
    with pytest.raises(ModelError) as caught:
        await called(upstream, request())
    date = upstream.requests[0][1]["x-amz-date"]
    assert caught.value.provider_message == f"Signature expired: {date} is now earlier than 20300101T000000Z"


async def test_botocore_renews_what_a_program_gives_before_it_lapses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Credentials that lapse in five minutes are renewed at each look; the program counts its runs.
    runs = tmp_path / "runs"
    program = tmp_path / "give.py"
    program.write_text(
        f"import json, pathlib\np = pathlib.Path({str(runs)!r})\n"
        "n = len(p.read_text()) if p.exists() else 0\np.write_text('x' * (n + 1))\n"
        f"print(json.dumps({{'Version': 1, 'AccessKeyId': f'AKID{{n}}', 'SecretAccessKey': 's', 'SessionToken': 't',"
        f" 'Expiration': {(datetime.now(UTC) + timedelta(minutes=5)).isoformat()!r}}}))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    _only(monkeypatch, AWS_CONFIG_FILE=str(config))
    clock = Clock()
    chain = Chain(clock=clock)
    first = await chain.current()
    clock.s += aws.STALE_AFTER_S
    second = await chain.current()
    assert first.token == "t"
    assert second.access_key > first.access_key


def _only(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """These variables of AWS's and no others; no files and no metadata service."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


async def test_no_credentials_are_the_operators_fault_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch)
    with pytest.raises(ModelError) as caught:
        await Chain().current()
    error = caught.value
    assert (error.code, error.blame, error.sent, error.retryable) == ("upstream_auth_failed", "operator", False, False)
    assert "AWS_ACCESS_KEY_ID" in error.message


async def test_what_a_program_wrote_is_not_repeated_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} -c exit('sesame-secret')\n")
    _only(monkeypatch, AWS_CONFIG_FILE=str(config))
    with caplog.at_level(logging.DEBUG, "stateline"), pytest.raises(ModelError) as caught:
        await Chain().current()
    await asyncio.sleep(0)
    assert caught.value.retryable
    assert "CredentialRetrievalError" in caught.value.message
    assert "CredentialRetrievalError" in caplog.text
    assert "sesame" not in caught.value.message + caplog.text


async def test_without_botocore_the_error_says_what_to_install() -> None:
    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'botocore'")

    with pytest.raises(ModelError) as caught:
        await Chain(missing).current()
    assert caught.value.code == "upstream_misconfigured"
    assert "stateline[aws]" in caught.value.message


# -- calls ------------------------------------------------------------------------------------------


class Upstream:
    """A server that keeps the requests as they came and gives one answer."""

    def __init__(self, status: str, kind: str, body: Callable[[str], bytes]) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self._answer = (status, kind, body)
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readuntil(b"\r\n\r\n")
        line, *lines = raw.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines) if name}
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append((line.split(" ")[1], headers, body))
        status, kind, make = self._answer
        answer = make(raw.decode())
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(answer)}\r\n\r\n".encode())
        writer.write(answer)
        await writer.drain()
        writer.close()


async def called(
    upstream: Upstream, asked: ModelRequest, keyring: AwsKeyring | None = None, **fields: Any
) -> list[ModelDelta]:
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    signing = keyring or AwsKeyring(Chain(lambda: Source(KEY._replace(token=TOKEN))))
    client = HttpModelClient(keyrings={"aws": signing})
    try:
        place = deployment(f"http://127.0.0.1:{upstream.port}", **fields)
        return [delta async for batch in client.call(place, asked) for delta in batch]
    finally:
        await client.close()
        server.close()


async def failed(place: Deployment) -> ModelError:
    client = HttpModelClient()
    try:
        async for _ in client.call(place, request()):
            pass
    except ModelError as error:
        return error
    finally:
        await client.close()
    raise AssertionError("the call went well")


DELTAS = [TextDelta("hi"), Finish(reason="stop")]


def _never(host: str) -> bool:
    """No host is reached without the proxy."""
    return False


@pytest.mark.parametrize("model", [MODEL, PROFILE])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("proxied", [False, True])
async def test_what_goes_out_is_what_was_signed(
    model: str, stream: bool, proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = b'{"output": {"message": {"content": [{"text": "hi"}]}}, "stopReason": "end_turn"}'
    kind, answer = ("application/vnd.amazon.eventstream", STREAM) if stream else ("application/json", whole)
    upstream = Upstream("200 OK", kind, lambda _: answer)
    # The same server stands for the proxy: it is asked for the whole URL.
    proxy = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    if proxied:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        monkeypatch.setattr("stateline.models.routes.proxy_bypass", _never)
    async with proxy:
        assert await called(upstream, request(stream=stream), upstream_model=model) == DELTAS
    ((target, headers, body),) = upstream.requests
    host = f"127.0.0.1:{upstream.port}"
    assert target.startswith("http://") == proxied
    path = target.removeprefix(f"http://{host}")
    assert path == f"/model/{aws.quote(model, safe='')}/converse{'-stream' if stream else ''}"
    assert headers["accept"] == kind
    expected = theirs(KEY._replace(token=TOKEN), f"http://{host}{path}", host, body, headers["x-amz-date"])
    assert headers["authorization"] == expected["Authorization"]
    assert headers["x-amz-security-token"] == TOKEN
    assert headers["host"] == host


@pytest.mark.parametrize(("wire", "path"), [("openai-chat", "/chat/completions"), ("openai-responses", "/responses")])
async def test_openais_formats_are_signed_too(wire: str, path: str) -> None:
    whole = {
        "openai-chat": b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}',
        "openai-responses": b'{"id": "r", "status": "completed", "output": []}',
    }[wire]
    upstream = Upstream("200 OK", "application/json", lambda _: whole)
    deltas = await called(upstream, request(stream=False), format=wire, upstream_model="openai.gpt-5.6-sol")
    assert isinstance(deltas[-1], Finish)
    ((target, headers, body),) = upstream.requests
    assert target == path
    assert json.loads(body)["model"] == "openai.gpt-5.6-sol"
    host = headers["host"]
    expected = theirs(KEY._replace(token=TOKEN), f"http://{host}{path}", host, body, headers["x-amz-date"])
    assert headers["authorization"] == expected["Authorization"]


async def test_an_api_key_goes_out_as_it_is_and_nothing_is_signed() -> None:
    def never() -> Any:
        raise AssertionError("credentials were looked for")

    upstream = Upstream("200 OK", "application/vnd.amazon.eventstream", lambda _: STREAM)
    assert await called(upstream, request(), AwsKeyring(Chain(never)), api_key="ABSKexample", auth=None) == DELTAS
    assert await called(upstream, request(), AwsKeyring(Chain(never)), auth="none") == DELTAS
    (_, with_key, _), (_, without, _) = upstream.requests
    assert with_key["authorization"] == "Bearer ABSKexample"
    assert "authorization" not in without
    assert "x-amz-date" not in with_key


SIGNATURE_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key"
    " and signing method. Consult the service documentation for details.\n\nThe Canonical String for this request"
    " should have been\n'POST\n/x\n\n"
)


@pytest.mark.parametrize(
    "words",
    [SIGNATURE_MISMATCH, "I was asked this: ", "It is wrong: The String-to-Sign should have been\n"],
    ids=["canonical", "echo", "to-sign"],
)
async def test_credentials_that_a_provider_repeats_reach_no_error_and_no_log(
    words: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(asked: str) -> bytes:
        return json.dumps({"message": words + asked}).encode()

    upstream = Upstream(
        "403 Forbidden\r\nx-amzn-ErrorType: InvalidSignatureException:http://x/", "application/json", refuse
    )
    source = Source(KEY._replace(token=TOKEN))
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as caught:
        await called(upstream, request(), AwsKeyring(Chain(lambda: source)))
    error = caught.value
    assert (error.code, error.blame, error.retryable) == ("upstream_auth_failed", "operator", False)
    assert error.provider_message is not None
    assert error.provider_message.startswith(words.partition("\n")[0].partition(": ")[0])
    sent = upstream.requests[0][1]
    signature = sent["authorization"].rpartition("=")[2]
    told = f"{error} {error.message} {error.provider_message} {error.args} {caplog.text}"
    for secret in (KEY.access_key, KEY.secret_key, TOKEN, signature):
        assert secret not in told


async def test_an_api_key_that_a_provider_repeats_reaches_no_error() -> None:
    upstream = Upstream("403 Forbidden", "application/json", lambda asked: json.dumps({"message": asked}).encode())
    with pytest.raises(ModelError) as caught:
        await called(upstream, request(), api_key="ABSKverysecretkey")
    assert "ABSKverysecretkey" not in f"{caught.value.message} {caught.value.provider_message} {caught.value.args}"
    assert "[hidden]" in caught.value.message


async def test_credentials_that_were_refused_are_looked_for_anew() -> None:
    looks: list[int] = []

    def find() -> Source:
        looks.append(1)
        return Source(KEY)

    keyring = AwsKeyring(Chain(find))
    expired = b'{"message": "The security token included in the request is expired"}'
    refusing = Upstream(
        "403 Forbidden\r\nx-amzn-ErrorType: ExpiredTokenException", "application/json", lambda _: expired
    )
    with pytest.raises(ModelError):
        await called(refusing, request(), keyring)
    await called(Upstream("200 OK", "application/vnd.amazon.eventstream", lambda _: STREAM), request(), keyring)
    await called(Upstream("200 OK", "application/vnd.amazon.eventstream", lambda _: STREAM), request(), keyring)
    assert len(looks) == 2


async def test_a_token_that_no_header_can_hold_is_refused_before_the_call() -> None:
    upstream = Upstream("200 OK", "application/json", lambda _: b"{}")
    keyring = AwsKeyring(Chain(lambda: Source(KEY._replace(token="a\r\nX-Evil: 1"))))
    with pytest.raises(ModelError) as caught:
        await called(upstream, request(), keyring)
    assert caught.value.code == "upstream_misconfigured"
    assert upstream.requests == []
    assert "Evil" not in caught.value.message


async def test_credentials_that_do_not_come_are_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateline.models.client.UPSTREAM_CREDENTIALS_S", 0.05)
    hold = asyncio.Event()

    class Slow(Chain):
        async def current(self) -> Credentials:
            await hold.wait()
            return KEY

    with pytest.raises(ModelError) as caught:
        await called(Upstream("200 OK", "x", lambda _: b""), request(), AwsKeyring(Slow()))
    assert (caught.value.code, caught.value.sent, caught.value.retryable) == ("upstream_timeout", False, True)


async def test_an_exception_in_the_midst_of_a_stream_ends_the_call_after_what_was_said() -> None:
    body = STREAM[: STREAM.index(b":event-type\x07\x00\x0bmessageStop") - 13] + exception(
        "throttlingException", "Slow down"
    )
    upstream = Upstream("200 OK", "application/vnd.amazon.eventstream", lambda _: body)
    seen: list[ModelDelta] = []
    with pytest.raises(ModelError) as caught:
        seen += await called(upstream, request())
    assert (caught.value.code, caught.value.retryable) == ("rate_limited", True)
    assert caught.value.provider_message == "Slow down"


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "https://bedrock-runtime.us-east-1.amazonaws.com/x"),
        ({"region": "cn-north-1"}, "https://bedrock-runtime.cn-north-1.amazonaws.com.cn/x"),
        ({"base_url": "https://gateway.example/aws/"}, "https://gateway.example/aws/x"),
    ],
)
def test_the_endpoint_is_that_of_the_region_or_the_one_that_is_named(fields: dict[str, Any], url: str) -> None:
    place = msgspec.structs.replace(deployment(), **fields)
    assert aws.CLOUD.url(place, "/x") == url
    openai = msgspec.structs.replace(place, format="openai-chat")
    if not place.base_url:
        assert aws.CLOUD.url(openai, "/x") == url.removesuffix("/x") + "/openai/v1/x"


async def test_a_deployment_without_a_region_is_misconfigured() -> None:
    keyring = AwsKeyring(Chain(lambda: Source(KEY)))
    for base_url in ("", "http://127.0.0.1:1"):
        assert (await failed(deployment(base_url, region=None))).code == "upstream_misconfigured"
    host = "bedrock-runtime.eu-west-1.amazonaws.com"
    signer = keyring.signer(deployment(region=None), host)
    assert signer is not None
    assert "/eu-west-1/bedrock/" in (await signer.sign("/x", b""))["Authorization"]


# -- against the scripted upstream --------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_the_scripted_upstream_speaks_what_the_client_reads(stream: bool) -> None:
    script = Answer(reasoning="let me think", text="a b c")
    async with ScriptedUpstream(script) as base_url:
        client = HttpModelClient()
        place = deployment(base_url, auth="none")
        deltas = [delta async for batch in client.call(place, request(stream=stream)) for delta in batch]
        await client.close()
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == "a b c"
    finish = deltas[-1]
    assert isinstance(finish, Finish)
    assert finish.usage is not None
    assert finish.usage.input_tokens == 10


@pytest.mark.parametrize(("end", "code"), [("cut", "answer_cut"), ("malformed", "malformed_stream")])
async def test_a_stream_that_breaks_is_told_apart_from_one_that_ends(end: Any, code: str) -> None:
    async with ScriptedUpstream(Answer(text="a b c d", end=end, after=2)) as base_url:
        error = await failed(deployment(base_url, auth="none"))
    assert (error.code, error.retryable) == (code, True)


async def test_a_refusal_has_the_name_of_bedrocks_exception() -> None:
    async with ScriptedUpstream(Answer(status=429, error_message="Too many tokens", retry_after_s=2)) as base_url:
        error = await failed(deployment(base_url, auth="none"))
    assert (error.code, error.retry_after_s, error.provider_message) == ("rate_limited", 2.0, "Too many tokens")
