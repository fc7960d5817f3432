"""Azure's recorded calls: where they went, what they said, and that ours go there too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import pytest

from stateline.core.calls import Finish, ModelParams, ModelRequest, TextDelta
from stateline.core.items import InputText, Message
from stateline.models.formats import FORMATS
from stateline.models.routes import Proxies, prepare
from stateline.ports import Deployment

Json = dict[str, Any]

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recorded" / "azure.jsonl"
ROWS: list[Json] = [json.loads(line) for line in RECORDINGS.read_text().splitlines()] if RECORDINGS.exists() else []
pytestmark = pytest.mark.skipif(not ROWS, reason="../shared, with the recordings, is not here")


def _body(row: Json) -> Json:
    return json.loads(row["request"])


def _url(row: Json) -> SplitResult:
    url: str = row["url"]
    return urlsplit(url)


def _deployment(row: Json) -> Deployment:
    parts = _url(row)
    version = parts.query.removeprefix("api-version=") or None
    wire = "openai-responses" if parts.path.endswith("/responses") else "openai-chat"
    return Deployment(
        name="a", model="m", cloud="azure", format=wire, base_url=f"https://{parts.netloc}",
        upstream_model=_body(row)["model"], api_key="key", api_version=version,
    )  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[str(at) for at in range(len(ROWS))])
def test_a_call_goes_where_it_was_recorded_and_its_answer_is_read(row: Json) -> None:
    place = _deployment(row)
    wire = FORMATS[place.format]
    route = prepare(place, wire, Proxies())
    head = route.head("k", 1, stream=False).decode()
    url = _url(row)
    target = url.path + (f"?{url.query}" if url.query else "")
    assert head.startswith(f"POST {target} HTTP/1.1\r\nHost: {url.netloc}\r\n")
    assert "\r\napi-key: key\r\n" in head
    assert "Authorization" not in head
    deltas = wire.decode_response(row["response"].encode())
    said = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert "Paris" in said
    finish = deltas[-1]
    assert isinstance(finish, Finish)
    assert finish.usage is not None
    assert finish.usage.total_tokens == json.loads(row["response"])["usage"]["total_tokens"]


@pytest.mark.parametrize("row", ROWS, ids=[str(at) for at in range(len(ROWS))])
def test_the_same_question_is_asked_in_the_same_words(row: Json) -> None:
    place, recorded = _deployment(row), _body(row)
    question = (recorded.get("messages") or recorded["input"])[0]["content"]
    item = Message(id="u", role="user", content=(InputText(text=question),))
    request = ModelRequest(params=ModelParams(model="m"), items=[item], key="k", stream=False)
    body = json.loads(FORMATS[place.format].encode_request(request, place.upstream_model, place.origin))
    assert body["model"] == recorded["model"]
    assert question in json.dumps(body.get("messages") or body["input"])
    if place.format == "openai-responses":
        # Models that reason are asked for what they need back, as Azure's own client does.
        assert body["include"] == recorded["include"]
        assert body["store"] is False
