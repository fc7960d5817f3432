"""What of a context goes back to a model, and by what name the log has the rest."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.core.driver import REF, START_MS

from stateline.core import events as e
from stateline.core.carrying import MIXED, NAMES, WORDS, Dropped, dropped, origins_of, takes_status, thought_back
from stateline.core.context import Context
from stateline.core.items import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    ReasoningText,
    Sidecar,
    SummaryText,
)
from stateline.core.limits import TurnLimits
from stateline.core.session import Session, Turn, new_session
from stateline.core.turn import dropped as dropped_by
from stateline.core.view import TurnView

CHAT, RESPONSES, CLAUDE = "openai-chat/openai", "openai-responses/openai", "anthropic-messages/anthropic"
BEDROCK, NOVA, OSS = "bedrock-converse/aws/claude", "bedrock-converse/aws/nova", "bedrock-converse/aws/gpt-oss"
GEMINI = "gemini/google"
ALL = (CHAT, RESPONSES, CLAUDE, BEDROCK, NOVA, OSS, GEMINI)


def _beside(origin: str, *items: ModelItem, **data: object) -> dict[str, Sidecar]:
    return {item.id: Sidecar(origin=origin, data=data) for item in items}


def _thought(secret: str | None = None, item_id: str = "r") -> Reasoning:
    text = (ReasoningText(text="hm"),)
    return Reasoning(id=item_id, content=text) if secret is None else Reasoning(
        id=item_id, content=text, encrypted_content=secret
    )  # fmt: skip


def _names(items: list[ModelItem], sidecars: dict[str, Sidecar], origin: str) -> dict[str, int]:
    return {str(each.what): each.items for each in dropped(items, sidecars, origin)}


@pytest.mark.parametrize(
    ("origin", "data", "names"),
    [
        (CLAUDE, {"encrypted_content": "signature:s"}, {"reasoning", "signature"}),
        (CLAUDE, {"encrypted_content": "redacted:s"}, {"reasoning", "redacted_reasoning"}),
        (BEDROCK, {"encrypted_content": "signature:s"}, {"reasoning", "signature"}),
        (RESPONSES, {"id": "rs", "encrypted_content": "x"}, {"encrypted_reasoning", "provider_id", "reasoning"}),
        (GEMINI, {"thought_signature": "x"}, {"reasoning", "thought_signature"}),
    ],
)
def test_reasoning_goes_back_to_its_origin_and_is_named_elsewhere(
    origin: str, data: dict[str, object], names: set[str]
) -> None:
    item = _thought()
    sidecars = _beside(origin, item, **data)
    for other in ALL:
        expected = {} if other == origin else dict.fromkeys(names, 1)
        assert _names([item], sidecars, other) == expected, other
        assert thought_back(item, sidecars, other) is (other == origin)


@pytest.mark.parametrize(
    ("secret", "takers"), [("signature:s", {CLAUDE, BEDROCK}), ("sealed", {RESPONSES}), (None, set[str]())]
)
def test_what_a_client_vouches_for_goes_where_it_can_have_come_from(secret: str | None, takers: set[str]) -> None:
    item = _thought(secret)
    assert {origin for origin in ALL if thought_back(item, {}, origin)} == takers
    for origin in set(ALL) - takers:
        assert _names([item], {}, origin)["reasoning"] == 1


def test_a_secret_without_a_text_is_named_alone() -> None:
    assert _names([Reasoning(id="r", encrypted_content="redacted:x")], {}, CHAT) == {"redacted_reasoning": 1}
    assert _names([Reasoning(id="r", summary=(SummaryText(text="s"),))], {}, CHAT) == {"reasoning": 1}
    assert _names([Reasoning(id="r")], {}, CHAT) == {}


def test_open_reasoning_goes_back_as_text_and_without_a_text_not_at_all() -> None:
    item = _thought()
    sidecars = _beside(RESPONSES, item, id="rs_1")
    assert _names([item], sidecars, RESPONSES) == {}
    empty = Reasoning(id="r")
    assert _names([empty], sidecars, RESPONSES) == {"provider_id": 1}
    assert origins_of([empty], sidecars) == {RESPONSES, MIXED}


def test_ids_stay_behind_where_the_reasoning_before_them_does() -> None:
    call = FunctionCall(id="c", call_id="c", name="f", arguments="{}")
    said = Message(id="m", role="assistant", content=(OutputText(text="hi"),))
    sidecars = _beside(RESPONSES, call, said, id="theirs")
    user = Message(id="u", role="user", content=(InputText(text="hi"),))
    assert _names([_thought(), said, call], sidecars, RESPONSES) == {"provider_id": 2, "reasoning": 1}
    assert _names([_thought(), user, said, call], sidecars, RESPONSES) == {"reasoning": 1}
    output = FunctionCallOutput(id="o", call_id="c", output="done")
    assert _names([_thought(), output, said, call], sidecars, RESPONSES) == {"reasoning": 1}
    assert _names([said, call], sidecars, CLAUDE) == {"provider_id": 2}


def test_hints_that_a_format_has_no_place_for_are_named_wherever_they_came_from() -> None:
    image = InputImage(image_url="https://example.com/a.png", detail="low")
    items: list[ModelItem] = [
        Message(id="u", role="user", content=(image,)),
        Message(id="a", role="assistant", phase="commentary"),
        FunctionCallOutput(id="o", call_id="c", output=(image,), status="incomplete"),
    ]
    assert origins_of(items, {}) == origins_of(items[1:2], {}) == origins_of(items[2:], {}) == {MIXED}
    assert _names(items, {}, RESPONSES) == {}
    assert _names(items, {}, GEMINI) == {"image_detail": 2, "phase": 1}
    assert _names(items, {}, CHAT) == {"output_status": 1, "phase": 1}
    assert _names(items, {}, CLAUDE) == {"image_detail": 2, "phase": 1}
    assert _names(items, {}, OSS) == {"image_detail": 2, "output_status": 1, "phase": 1}
    assert {origin for origin in ALL if not takes_status(origin)} == {CHAT, OSS}


def test_a_context_of_plain_items_has_no_origins() -> None:
    plain: list[ModelItem] = [
        Message(id="u", role="user", content=(InputText(text="hi"), InputImage(image_url="data:,"))),
        FunctionCall(id="c", call_id="c", name="f", arguments="{}"),
        FunctionCallOutput(id="o", call_id="c", output=(InputText(text="done"),)),
        FunctionCallOutput(id="p", call_id="c", output="done"),
    ]
    assert origins_of(plain, {}) == frozenset()
    signed = _thought("signature:s")
    assert origins_of([signed], _beside(CLAUDE, signed, encrypted_content="signature:s")) == {CLAUDE}
    assert all(dropped(plain, {}, origin) == () for origin in ALL)


def test_every_name_is_explained() -> None:
    assert {name for name in NAMES.values() if name} <= WORDS.keys()


def test_the_record_of_a_call_that_drops_nothing_is_as_it_was() -> None:
    body = e.ModelCallStarted(turn=1, step=1, deployment="d", origin=CHAT, model="m")
    assert b"dropped" not in e.encode_body(body)
    named = e.ModelCallStarted(
        turn=1, step=1, deployment="d", origin=CHAT, model="m", dropped=(Dropped("signature", 2),)
    )
    assert e.decode_body(e.encode_body(named)) == named


def _turn(**fields: object) -> Turn:
    turn = Turn(
        response_id="r",
        number_in_session=1,
        seq=2,
        state="ready",
        request=e.TurnRequest(model="m"),
        input=(),
        sidecars={},
        limits=TurnLimits(),
        requested_at_ms=START_MS,
        number=2,
    )
    return msgspec.structs.replace(turn, **fields)


def test_a_turn_drops_what_its_context_and_its_own_calls_brought() -> None:
    first, second = _thought(item_id="r1"), _thought(item_id="r2")
    data = {"encrypted_content": "signature:s"}
    context = Context().append((first,), _beside(CLAUDE, first, **data))
    turn = _turn(output=(second,), output_sidecars=_beside(CLAUDE, second, **data))
    session = Session(ref=REF, context=context, turn=turn)
    assert dropped_by(session, CLAUDE) == ()
    assert dropped_by(session, CHAT) == (Dropped("reasoning", 2), Dropped("signature", 2))
    begun = Session(ref=REF, context=Context(), turn=turn)
    assert dropped_by(begun, CHAT) == (Dropped("reasoning", 1), Dropped("signature", 1))


def test_a_context_knows_the_origins_of_all_its_turns() -> None:
    first, second, third = (_thought(item_id=name) for name in ("r1", "r2", "r3"))
    data = {"encrypted_content": "signature:s"}
    context = Context().append((first,), _beside(CLAUDE, first, **data))
    again = context.append((second,), _beside(CLAUDE, second, **data))
    assert again.origins is context.origins
    mixed = again.append((third,), _beside(BEDROCK, third, **data))
    assert mixed.origins == {CLAUDE, BEDROCK}
    assert mixed.without("r3").origins == {CLAUDE, BEDROCK}


def test_a_response_shows_what_its_last_call_did_not_get() -> None:
    view = TurnView("r")
    requested = e.TurnRequested(response_id="r", turn=1, request=e.TurnRequest(model="m"), input=())
    call = e.ModelCallStarted(turn=1, step=1, deployment="d", origin=CHAT, model="m")
    again = msgspec.structs.replace(call, step=2, dropped=(Dropped("signature", 2),))
    shown: list[object] = []
    for seq, body in enumerate((requested, call, again), 1):
        view.apply(e.Event(session=REF, seq=seq, at_ms=START_MS, body=body))
        shown.append(msgspec.to_builtins(view.response().stateline).get("dropped"))
    assert new_session(REF).context.origins == frozenset()
    assert shown == [None, None, ({"what": "signature", "items": 2},)]
