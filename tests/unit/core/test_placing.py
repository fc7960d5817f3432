"""Which deployment gets a call, and what is said where none does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.driver import REF, START_MS

from stateline.core import events as e
from stateline.core.calls import FunctionTool, ModelParams, ModelRequest, Usage
from stateline.core.errors import BadRequest, Forbidden, NoDeployment
from stateline.core.items import FunctionCall, FunctionCallOutput, InputImage, InputText, Message, ModelItem
from stateline.core.limits import DENIAL_TEXT_CHARS_MAX, DENIALS_TOLD_MAX
from stateline.core.placing import Choice, Passed, Refused, Ruling, Said, Standing, Why, choose, nowhere
from stateline.core.session import fold, new_session
from stateline.core.tokens import needs
from stateline.core.turn import CallModel, decide
from stateline.core.view import TurnView

WHYS: tuple[Why, ...] = ("cannot_carry", "circuit_open", "failed", "max_concurrency", "rate_limited", "rpm", "tpm")
STANDINGS = st.lists(
    st.builds(Standing, st.text("abc", min_size=1), st.sampled_from((None, *WHYS)), st.none() | st.integers(1, 99)),
    max_size=6,
)


@given(STANDINGS)
def test_the_first_that_takes_it_gets_the_call_and_all_others_are_named_with_a_reason(
    standings: list[Standing],
) -> None:
    choice = choose(standings)
    free = [at for at, each in enumerate(standings) if each.why is None]
    full = [at for at, each in enumerate(standings) if each.why == "max_concurrency"]
    assert choice.at == next(iter(free or full), None)
    others = [each for at, each in enumerate(standings) if at != choice.at]
    assert [each.deployment for each in choice.passed] == [each.deployment for each in others]
    assert [each.why for each in choice.passed] == [each.why or "behind" for each in others]
    if choice.at is not None:
        assert choice.until_ms is None
    else:
        assert choice.until_ms == min((each.until_ms for each in others if each.until_ms is not None), default=None)


def test_a_call_waits_at_a_full_deployment_rather_than_go_to_one_that_fails() -> None:
    standings = [Standing("a", "circuit_open", 9), Standing("b", "max_concurrency"), Standing("c", "max_concurrency")]
    assert choose(standings) == Choice(1, (Passed("a", "circuit_open", 9), Passed("c", "max_concurrency")))


def test_where_none_is_left_each_is_named_with_its_reason_and_how_long_it_lasts() -> None:
    passed = (Passed("a", "circuit_open", 3_500), Passed("b", "rate_limited", 2_000), Passed("c", "cannot_carry"))
    error = nowhere("m", passed, 1_000)
    assert isinstance(error, NoDeployment)
    assert (error.code, error.status, error.retry_after_s) == ("no_deployment", 503, 1.0)
    assert "a failed too often (for 2.5 s); b limits the rate (for 1.0 s); c cannot carry this" in error.message


def test_where_no_time_is_known_none_is_promised() -> None:
    error = nowhere("m", [Passed("a", "failed"), Passed("b", "cannot_carry")], 1_000)
    assert isinstance(error, NoDeployment)
    assert error.retry_after_s is None


def test_a_request_that_no_deployment_can_carry_is_its_senders_to_change() -> None:
    error = nowhere("m", [Passed("a", "cannot_carry"), Passed("b", "cannot_carry")], 1_000)
    assert isinstance(error, BadRequest)
    assert (error.code, error.status, error.param) == ("unsupported_input", 400, "input")


# -- contracts -----------------------------------------------------------------------------------------


DENIED = Ruling(outcome="deny", resolved="deny", clause="c/one", readings=(Said("r", "deny"),))
CONTESTED = Ruling(outcome="contested", resolved="deny", clause="c/two", posture="strict")
ALLOWED = Ruling(outcome="allow")


def test_what_a_contract_keeps_out_is_named_with_its_verdict_and_the_chosen_has_its_own() -> None:
    standings = [Standing("a", "contract", None, DENIED), Standing("b", None, None, ALLOWED), Standing("c")]
    passed = (Passed("a", "contract"), Passed("c", "behind"))
    assert choose(standings) == Choice(1, passed, None, ALLOWED, (Refused("a", DENIED),))
    # Whatever else is full waits; what is denied does not.
    assert choose(standings[:1]) == Choice(None, passed[:1], None, None, (Refused("a", DENIED),))


def test_a_denial_blocks_unless_it_is_only_observed() -> None:
    assert [each.blocks for each in (DENIED, CONTESTED, ALLOWED)] == [True, True, False]
    assert not msgspec.structs.replace(DENIED, observed=True).blocks


def test_where_every_deployment_is_denied_the_clauses_are_named_with_their_words() -> None:
    refused = (Refused("a", DENIED), Refused("b", CONTESTED), Refused("d", DENIED))
    passed = [Passed(each.deployment, "contract") for each in refused]
    texts = {"c/one": "Azure  alone.", "c/two": "Not here."}
    error = nowhere("m", passed, 1_000, refused, texts.__getitem__)
    assert isinstance(error, Forbidden)
    assert (error.code, error.status, error.param) == ("contract_denied", 403, "model")
    assert "a, d by c/one (Azure alone.); b by c/two (Not here.; contested, by the posture strict" in error.message


def test_some_denied_and_some_out_is_no_denial_and_says_so_of_each() -> None:
    passed = [Passed("a", "contract"), Passed("b", "rate_limited", 2_000)]
    error = nowhere("m", passed, 1_000, (Refused("a", DENIED),))
    assert isinstance(error, NoDeployment)
    assert "a is denied by contract (c/one); b limits the rate (for 1.0 s)" in error.message


def test_the_message_of_a_denial_has_its_bounds() -> None:
    many = DENIALS_TOLD_MAX + 3
    rulings = [msgspec.structs.replace(DENIED, clause=f"c/{at}") for at in range(many)]
    refused = [Refused(f"d{at}-{copy}", ruling) for at, ruling in enumerate(rulings) for copy in range(many)]
    passed = [Passed(each.deployment, "contract") for each in refused]
    message = nowhere("m", passed, 1_000, refused, lambda _: "w" * 10_000).message
    assert message.count(" by c/") == DENIALS_TOLD_MAX
    assert message.count("d0-") == DENIALS_TOLD_MAX
    assert "w" * DENIAL_TEXT_CHARS_MAX in message
    assert "w" * (DENIAL_TEXT_CHARS_MAX + 1) not in message


IMAGE = InputImage(image_url="https://example.org/a.png")
LOOK = FunctionTool(name="look")


@pytest.mark.parametrize(
    ("items", "tools", "expected"),
    [
        ((), (), set[str]()),
        ((), (LOOK,), {"tools"}),
        ((Message(id="m", role="user", content=(InputText(text="a"),)),), (), set[str]()),
        ((Message(id="m", role="user", content=(InputText(text="a"), IMAGE)),), (LOOK,), {"images", "tools"}),
        ((FunctionCallOutput(id="o", call_id="c", output="plain"),), (), set[str]()),
        ((FunctionCallOutput(id="o", call_id="c", output=(IMAGE,)),), (), {"images"}),
        ((FunctionCall(id="f", call_id="c", name="look", arguments="{}"),), (), set[str]()),
    ],
)
def test_what_a_request_brings_that_not_every_model_takes(
    items: tuple[ModelItem, ...], tools: tuple[FunctionTool, ...], expected: set[str]
) -> None:
    assert needs(ModelRequest(params=ModelParams(model="m", tools=tools), items=items, key="k")) == expected


# -- in a turn ---------------------------------------------------------------------------------------------


def failed(step: int, **fields: object) -> e.ModelCallFailed:
    shape = {"turn": 1, "step": step, "code": "upstream_error", "message": "", "retryable": True} | fields
    return e.ModelCallFailed(**shape)  # pyright: ignore[reportArgumentType]


def played(*bodies: e.Body) -> tuple[e.Event, e.Event, list[e.Event]]:
    asked = e.TurnRequested(response_id="r", turn=1, request=e.TurnRequest(model="m"), input=())
    every = (e.SessionCreated(kind="chain"), asked, *bodies)
    events = [e.Event(session=REF, seq=at, at_ms=START_MS, body=body) for at, body in enumerate(every, 1)]
    return events[0], events[-1], events


def started(step: int, deployment: str) -> e.ModelCallStarted:
    return e.ModelCallStarted(turn=1, step=step, deployment=deployment, origin="o", model="m")


def test_a_failure_that_has_somewhere_else_to_go_is_followed_by_a_call_with_no_wait() -> None:
    _, last, events = played(started(1, "a"), failed(1, elsewhere=True, retryable=False, usage=Usage(input_tokens=7)))
    session = new_session(REF)
    for event in events:
        session = fold(session, event)
    (effect,) = decide(session, last).effects
    assert isinstance(effect, CallModel)
    assert effect.step == 2
    assert session.turn is not None
    assert session.turn.tried == ("a",)
    assert not session.turn.hopeful
    # What an abandoned try used counts towards what the turn may use.
    assert session.turn.usage == Usage(input_tokens=7)


def test_a_wait_begins_another_round_of_tries() -> None:
    bodies = [started(1, "a"), failed(1, elsewhere=True), started(2, "b"), failed(2)]
    _, _, events = played(*bodies, e.TimerSet(turn=1, step=3, due_ms=START_MS + 1))
    tried: list[tuple[str, ...]] = []
    session = new_session(REF)
    for event in events:
        session = fold(session, event)
        if session.turn is not None:
            tried.append(session.turn.tried)
    assert tried[-3:] == [("a",), ("a", "b"), ()]


def test_a_turn_waits_before_its_first_call_where_no_deployment_takes_it() -> None:
    timer = e.TimerSet(turn=1, step=1, due_ms=START_MS + 1, passed=(Passed("a", "rate_limited", START_MS + 1),))
    assert e.decode_body(e.encode_body(timer)) == timer
    _, _, events = played(timer, e.TimerFired(turn=1, step=1))
    session = new_session(REF)
    for event in events:
        session = fold(session, event)
    (effect,) = decide(session, events[-1]).effects
    assert isinstance(effect, CallModel)
    assert effect.step == 2


def test_a_response_shows_its_last_placement_where_there_was_a_choice() -> None:
    passed = (Passed("b", "behind"), Passed("c", "rate_limited", START_MS + 5))
    for placed, expected in ((passed, [("b", "behind", None), ("c", "rate_limited", START_MS + 5)]), ((), None)):
        call = msgspec.structs.replace(started(1, "a"), passed=placed)
        assert e.decode_body(e.encode_body(call)) == call
        _, _, events = played(call)
        view = TurnView("r")
        for event in events:
            view.apply(event)
        field = view.response().stateline
        assert field
        shown = field.placement and [(each.deployment, each.why, each.until_ms) for each in field.placement.passed]
        assert shown == expected


def test_a_placement_with_one_candidate_stores_nothing_of_it() -> None:
    assert b"passed" not in e.encode_body(started(1, "a"))


def test_a_response_shows_the_verdict_on_its_deployment_and_on_those_kept_out() -> None:
    call = msgspec.structs.replace(
        started(1, "b"),
        passed=(Passed("a", "contract"), Passed("c", "behind")),
        verdict=msgspec.structs.replace(CONTESTED, resolved="allow", posture="openai", readings=(Said("r", "allow"),)),
        refused=(Refused("a", DENIED),),
    )
    _, _, events = played(call)
    view = TurnView("r")
    for event in events:
        view.apply(event)
    shown = msgspec.json.decode(msgspec.json.encode(view.response().stateline))
    assert shown["verdict"] == {
        "outcome": "contested",
        "resolved": "allow",
        "posture": "openai",
        "clause": "c/two",
        "readings": [{"id": "r", "outcome": "allow"}],
    }
    denied = {
        "outcome": "deny",
        "resolved": "deny",
        "posture": "strict",
        "clause": "c/one",
        "readings": [{"id": "r", "outcome": "deny"}],
    }
    assert shown["placement"] == {
        "passed": [{"deployment": "a", "why": "contract", "verdict": denied}, {"deployment": "c", "why": "behind"}]
    }


@pytest.mark.parametrize(
    ("store", "from_session", "stateful"), [(True, False, True), (False, False, False), (False, True, True)]
)
def test_a_turn_is_stateful_where_its_input_or_its_output_is_kept(
    *, store: bool, from_session: bool, stateful: bool
) -> None:
    request = e.TurnRequest(model="m", store=store)
    asked = e.TurnRequested(
        response_id="r", turn=1, request=request, input=(), principal="key_1", from_session=from_session
    )
    session = new_session(REF)
    for at, body in enumerate((e.SessionCreated(kind="chain"), asked), 1):
        session = fold(session, e.Event(session=REF, seq=at, at_ms=START_MS, body=body))
    assert session.turn is not None
    assert (session.turn.stateful, session.turn.principal) == (stateful, "key_1")
