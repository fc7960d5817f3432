"""What the calls of logs cost, call by call."""

from __future__ import annotations

from decimal import Decimal

from stateline.core import events as e
from stateline.core.billing import Charge, Metered, Price, Rates, Tariff
from stateline.core.calls import Usage
from stateline.core.ids import SessionRef
from stateline.core.metered import Calls

ONE, TWO = SessionRef("acme", "one"), SessionRef("other", "two")
NODE = SessionRef("system", "node")
COST = Charge(tariff="trf_1", amount=Decimal("0.01"), currency="USD")
USED = Usage(input_tokens=1000, output_tokens=10)


def turn(number: int = 1, *, store: bool = True, from_session: bool = False) -> e.TurnRequested:
    request = e.TurnRequest(model="m", store=store)
    return e.TurnRequested(
        response_id="r", turn=number, request=request, input=(), principal="key_1", from_session=from_session
    )


def started(step: int = 1, number: int = 1, deployment: str = "d") -> e.ModelCallStarted:
    return e.ModelCallStarted(turn=number, step=step, deployment=deployment, origin="o", model="up")


def finished(step: int = 1, number: int = 1) -> e.ModelCallFinished:
    return e.ModelCallFinished(turn=number, step=step, finish_reason="stop", usage=USED, charge=COST)


def seen(calls: Calls, ref: SessionRef, *bodies: e.Body, at_ms: int = 1000) -> list[Metered]:
    found: list[Metered] = []
    for seq, body in enumerate(bodies, 1):
        found += calls.see(e.Event(session=ref, seq=seq, at_ms=at_ms + seq, body=body))
    return found


def test_a_call_of_a_turn_is_metered_when_it_ends() -> None:
    assert seen(Calls(), ONE, turn(), started(), finished()) == [
        Metered(
            id="one/1/1", at_ms=1003, tenant="acme", principal="key_1", session="one", model="m", deployment="d",
            interface="responses", workload="stateful", charge=COST, usage=USED,
        )
    ]  # fmt: skip


def test_each_attempt_is_a_call_of_its_own_with_the_code_of_its_failure() -> None:
    lost = Charge(tariff="trf_1", amount=Decimal(2), currency="USD", estimated=True)
    failure = e.ModelCallFailed(turn=1, step=1, code="worker_lost", message="", retryable=True, charge=lost)
    refused = e.ModelCallFailed(turn=1, step=2, code="rate_limited", message="", retryable=True, unbilled=True)
    found = seen(
        Calls(), ONE, turn(), started(1), failure, started(2, deployment="e"), refused, started(3), finished(3)
    )
    assert [(each.id, each.deployment, each.status, each.unbilled, each.charge) for each in found] == [
        ("one/1/1", "d", "worker_lost", False, lost),
        ("one/1/2", "e", "rate_limited", True, None),
        ("one/1/3", "d", "ok", False, COST),
    ]


def test_a_call_is_stateless_where_neither_its_input_nor_its_output_is_kept() -> None:
    for store, from_session, workload in ((False, False, "stateless"), (False, True, "stateful")):
        asked = turn(store=store, from_session=from_session)
        assert [each.workload for each in seen(Calls(), ONE, asked, started(), finished())] == [workload]


def test_what_is_kept_in_no_session_is_its_own_tenants_call() -> None:
    begun = e.StatelessCallStarted(
        id="c1", tenant="acme", principal="key_2", interface="chat", deployment="d", model="m"
    )
    ended = e.StatelessCallEnded(id="c1", usage=USED, charge=COST)
    lost = e.StatelessCallEnded(id="c2", code="node_lost")
    other = e.StatelessCallStarted(id="c2", tenant="u", principal="", interface="embeddings", deployment="d", model="m")
    found = seen(
        Calls(), NODE, e.StatelessCalls(started=(begun,)), e.StatelessCalls(started=(other,), ended=(lost, ended))
    )
    assert found[1] == Metered(
        id="c1", at_ms=1002, tenant="acme", principal="key_2", session="", model="m", deployment="d",
        interface="chat", workload="stateless", charge=COST, usage=USED,
    )  # fmt: skip
    assert (found[0].tenant, found[0].status, found[0].charge) == ("u", "node_lost", None)


def test_a_call_under_way_is_counted_and_left_out() -> None:
    calls = Calls()
    begun = e.StatelessCallStarted(id="c", tenant="t", principal="", interface="chat", deployment="d", model="m")
    assert seen(calls, ONE, turn(), started()) == []
    assert seen(calls, NODE, e.StatelessCalls(started=(begun,))) == []
    assert calls.under_way == 2
    assert len(seen(calls, NODE, e.StatelessCalls(ended=(e.StatelessCallEnded(id="c"),)))) == 1
    assert calls.under_way == 1


def test_of_a_log_that_was_cut_nothing_is_known() -> None:
    calls = Calls()
    assert seen(calls, ONE, turn()) == []
    # Another session's turn says nothing of this one's calls.
    unheard = e.StatelessCalls(ended=(e.StatelessCallEnded(id="unheard"),))
    assert seen(calls, TWO, started(), finished(), unheard) == []
    assert calls.under_way == 0


def test_tariffs_are_kept_by_their_id_and_other_events_pass() -> None:
    calls = Calls()
    price = Price(cloud="azure", model="up", currency="USD", rates=(Rates(input=Decimal(1)),))
    tariff = Tariff(
        id="trf_1", deployment="d", model="m", upstream_model="up", cloud="azure", host="azure", price=price
    )
    assert seen(calls, NODE, e.TariffRecorded(tariff=tariff), e.TurnCompleted(response_id="r")) == []
    assert calls.tariffs == {"trf_1": tariff}
