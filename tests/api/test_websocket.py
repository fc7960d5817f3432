"""The Responses API over a WebSocket, as its clients use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.api.conftest import MODEL, Answer, Served, echo
from tests.api.http import Client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.connection import Connection

from stateline.api import Options, websocket
from stateline.core.limits import BODY_BYTES_MAX

_ENDS = ("response.completed", "response.failed", "response.incomplete", "error")


def opened(server: Served, **headers: str) -> ClientConnection:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return connect(f"ws://127.0.0.1:{server.port}/v1/responses", additional_headers=named, proxy=None)


def ask(socket: Connection, text: str = "hello", **fields: Any) -> list[dict[str, Any]]:
    """Send ``response.create`` and read to the answer's end."""
    socket.send(json.dumps({"type": "response.create", "model": MODEL, "input": text, **fields}))
    return answer(socket)


def answer(socket: Connection) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in _ENDS:
        events.append(json.loads(socket.recv(timeout=10)))
    return events


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def test_a_connection_carries_one_response_after_another(server: Served) -> None:
    with opened(server) as socket:
        first = ask(socket, "one")
        assert [event["sequence_number"] for event in first] == list(range(len(first)))
        assert (first[0]["type"], said(first)) == ("response.created", "You said: one")
        second = ask(socket, "two", previous_response_id=first[-1]["response"]["id"])
        assert said(second) == "You said: two"
        assert second[-1]["response"]["previous_response_id"] == first[-1]["response"]["id"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"stream": False}, "unsupported_parameter", "stream"),
        ({"stream_options": {}}, "unsupported_parameter", "stream_options"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"colour": "red"}, "unknown_parameter", "colour"),
        ({"type": "response.steer"}, "invalid_value", "type"),
        ({"previous_response_id": "resp_none"}, "previous_response_not_found", "previous_response_id"),
    ],
)
def test_a_message_that_is_wrong_is_refused_as_over_http(
    server: Served, fields: dict[str, Any], code: str, param: str
) -> None:
    with opened(server) as socket:
        (error,) = ask(socket, **fields)
        assert (error["type"], error["status"]) == ("error", 400)
        assert (error["error"]["type"], error["error"]["code"], error["error"]["param"]) == (
            "invalid_request", code, param,
        )  # fmt: skip
        assert said(ask(socket, "after")) == "You said: after"


def test_the_dialect_of_the_handshake_names_the_errors(server: Served) -> None:
    with opened(server, Stateline_Dialect="openai") as socket:
        socket.send("{")
        (error,) = answer(socket)
        assert (error["error"]["type"], error["error"]["code"]) == ("invalid_request_error", "invalid_json")


def refused(server: Served, **headers: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as caught:
        opened(server, **headers)
    response = caught.value.response
    return response.status_code, json.loads(response.body or b"{}")["error"]


def test_a_foreign_page_may_not_open_one(server: Served) -> None:
    status, error = refused(server, Origin="https://evil.example")
    assert (status, error["code"]) == (403, "origin_not_allowed")
    with opened(server, Origin=server.url) as socket:
        assert said(ask(socket)) == "You said: hello"


def test_an_unknown_dialect_is_refused_with_the_handshake(server: Served) -> None:
    status, error = refused(server, Stateline_Dialect="klingon")
    assert (status, error["code"]) == (400, "invalid_value")


def test_a_key_is_asked_for_with_the_handshake_and_with_each_message(tmp_path: Path) -> None:
    options = Options(cors_origins=["https://ours.example"])
    served = Served(tmp_path / "keys.db", auth_mode="keys", options=options).start()
    try:
        served.script(echo)
        status, error = refused(served)
        http = Client(served.port)
        over_http = http("POST", "/v1/responses", {"model": MODEL, "input": "x"})
        http.close()
        assert (status, error) == (over_http.status, over_http.error) == (401, error)
        record, key = served.run(lambda: served.keys.create("shop", "k"))
        with opened(served, Authorization=f"Bearer {key}", Origin="https://ours.example") as socket:
            assert said(ask(socket)) == "You said: hello"
            served.run(lambda: served.keys.revoke(record.id))
            (late,) = ask(socket)
            assert late["status"] == 401
    finally:
        served.stop()


def test_no_more_than_so_many_are_open(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "WEBSOCKETS_MAX", 0)
    status, error = refused(server)
    assert (status, error["code"]) == (503, "too_many_websockets")


def test_an_idle_one_is_closed(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "WEBSOCKET_IDLE_S", 0.1)
    with opened(server) as socket:
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


def test_an_old_one_is_closed_with_openais_code(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "WEBSOCKET_AGE_S", 0.1)
    with opened(server) as socket:
        (error,) = answer(socket)
        assert error["error"]["code"] == "websocket_connection_limit_reached"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)


def test_messages_wait_for_their_turn_and_only_so_many(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "WEBSOCKET_WAITING_MAX", 0)
    with opened(server) as socket:
        (error,) = ask(socket)
        assert (error["status"], error["error"]["code"]) == (429, "too_many_messages_waiting")


def test_a_message_that_is_too_large_ends_the_connection(server: Served) -> None:
    """Its length stands before it. What were sent after that would reset the connection, and the reason be lost."""
    with opened(server) as socket:
        masked_text, length_of_eight_bytes = b"\x81", b"\xff"
        head = masked_text + length_of_eight_bytes + (BODY_BYTES_MAX + 1).to_bytes(8, "big") + b"mask"
        socket.socket.sendall(head)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)
        assert socket.close_code == 1009


def test_a_message_of_the_largest_size_is_read(server: Served) -> None:
    with opened(server) as socket:
        socket.send(" " * BODY_BYTES_MAX)
        assert json.loads(socket.recv(timeout=20))["error"]["code"] == "invalid_json"


def test_openais_sdk_talks_over_one(server: Served) -> None:
    with server.openai() as client, client.responses.connect() as connection:
        connection.response.create(model=MODEL, input="sdk")
        text = ""
        for event in connection:
            if event.type == "response.output_text.delta":
                text += event.delta
            elif event.type == "response.completed":
                break
        assert text == "You said: sdk"


def test_a_chat_goes_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    first = Served(tmp_path / "stateline.db").start()
    first.script(Answer(text="One."))
    with opened(first) as socket:
        response = ask(socket)[-1]["response"]
        first.stop()
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
    second = Served(tmp_path / "stateline.db").start()
    try:
        second.script(Answer(text="Two."))
        with opened(second) as socket:
            assert said(ask(socket, "more", previous_response_id=response["id"])) == "Two."
        with openai.OpenAI(base_url=second.url + "/v1", api_key="unused") as client:
            assert client.responses.retrieve(response["id"]).output_text == "One."
    finally:
        second.stop()
