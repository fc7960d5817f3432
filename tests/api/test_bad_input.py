"""Every bad request gets a 4xx with a stable code and the field at fault, and nothing is recorded of it."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from tests.api.bad_bodies import CASES, CHAT, GOOD, Bad
from tests.api.conftest import Served
from tests.api.http import Client

_SEEN = {case.name for case in CASES}


@pytest.fixture
def http(server: Served) -> Generator[Client]:
    made = Client(server.port)
    yield made
    made.close()


def test_the_table_is_long_and_has_no_name_twice() -> None:
    assert len(CASES) >= 150
    assert len(_SEEN) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input_is_refused_by_name_and_leaves_no_trace(server: Served, http: Client, case: Bad) -> None:
    before = server.stored()
    reply = http(case.method, case.path, case.body, case.headers)
    assert reply.status == case.status, reply.body[:500]
    error = reply.error
    assert set(error) == {"type", "code", "message", "param"}
    assert (error["code"], error["param"]) == (case.code, case.param), error["message"]
    assert error["message"]
    assert len(error["message"]) < 2_000
    assert reply.headers["x-request-id"]
    assert server.stored() == before


def test_the_good_bodies_of_the_table_are_good(http: Client) -> None:
    assert http("POST", "/v1/responses", GOOD).status == 200
    assert http("POST", "/v1/chat/completions", CHAT).status == 200


def test_a_body_that_grows_past_the_bound_is_cut_off_while_it_comes(server: Served) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/v1/responses")
    connection.putheader("content-type", "application/json")
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    chunk = b"x" * (1 << 20)
    for _ in range(33):
        connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    connection.send(b"0\r\n\r\n")
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()
