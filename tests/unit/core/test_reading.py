"""The tool with which a model reads on in an output that it was shown in part."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.driver import user
from tests.unit.core.test_acting import calls, plan
from tests.unit.core.tool_driver import TOOL_REQUEST, ToolDriver

from stateline.core import events as e
from stateline.core.calls import FunctionTool
from stateline.core.context import Context
from stateline.core.hosted import READER, Hosting, for_model, item_output_bytes, output_bytes, reserved
from stateline.core.items import (
    Compaction,
    EffectResolution,
    FunctionCallOutput,
    InputImage,
    InputText,
    Item,
    McpCall,
    McpCallError,
)
from stateline.core.limits import EVENT_BYTES_MAX, ITEM_ID_CHARS_MAX, TEXT_CHARS_MAX, TOOL_OUTPUT_BYTES_MAX
from stateline.core.limits_tools import (
    FUNCTION_OUTPUT_BYTES_MAX,
    OUTPUT_SEARCH_CHARS_MAX,
    TOOL_OUTPUT_SHOWN_BYTES_MIN,
    SandboxLimits,
)
from stateline.core.reading import answer, offered
from stateline.core.session import fold_all, new_session
from stateline.core.turn import CallModel, asked, model_request
from stateline.core.view import TurnView

LEAST = TOOL_OUTPUT_SHOWN_BYTES_MIN
LONG = "".join(f"row {at}: {'é' * (at % 7)}\n" for at in range(400))


def call(id_: str, **fields: object) -> McpCall:
    shape: dict[str, object] = {"server_label": "a", "name": "look", "arguments": "{}"}
    return McpCall(id=id_, **(shape | fields))  # pyright: ignore[reportArgumentType]


def read(items: list[Item], most: int = LEAST, **arguments: object) -> str:
    result = answer(json.dumps(arguments), items, most)
    assert isinstance(result.output, str)
    assert not result.failed
    assert len(result.output.encode()) <= most
    return result.output


def output_of(items: list[Item], most: int = LEAST) -> object:
    output = for_model(items, most)[-1]
    assert isinstance(output, FunctionCallOutput)
    return output.output


# -- what is cut ------------------------------------------------------------------------------------------------

TWO = (InputText(text=LONG[:4000]), InputText(text=LONG[4000:]))
IMAGE = (InputText(text=LONG), InputImage(image_url="data:image/png;base64,AA=="))


@pytest.mark.parametrize(
    ("items", "whole"),
    [
        ([call("mcp_1", output=LONG)], LONG),
        ([call("mcp_1", status="failed", error=McpCallError(content=LONG))], LONG),
        ([call("mcp_1", output="x", content=TWO)], f"{LONG[:4000]}\n{LONG[4000:]}"),
        (
            [
                call("mcp_1", status="incomplete", error=McpCallError(content="gone")),
                EffectResolution(id="e", call_id="mcp_1", decision="committed", output=LONG),
            ],
            LONG,
        ),
    ],
    ids=["an answer", "an error", "several texts", "what a person has found out"],
)
def test_a_long_output_is_cut_and_can_be_read_whole(items: list[Item], whole: str) -> None:
    shown = output_of(items)
    assert isinstance(shown, str)
    assert len(shown.encode()) <= LEAST
    assert "handle mcp_1" in shown
    assert max(map(output_bytes, items)) > LEAST
    assert output_of(items, len(whole.encode())) == (items[0].content if items[0].content else whole)  # pyright: ignore
    offset, pieces = 0, list[str]()
    while True:
        head, _, piece = read(items, handle="mcp_1", offset=offset).partition("\n")
        pieces.append(piece)
        after = re.fullmatch(r"\[characters \d+ to \d+ of \d+; (?:read on with offset (\d+)|this is the end)\]", head)
        assert after is not None
        if after[1] is None:
            break
        offset = int(after[1])
    assert "".join(pieces) == whole


def test_what_is_no_text_alone_is_never_cut() -> None:
    item = call("mcp_1", output=LONG, content=IMAGE)
    assert output_of([item]) == IMAGE
    assert output_bytes(item) == 0
    assert answer('{"handle": "mcp_1"}', [item], LEAST).failed
    assert item_output_bytes(item) == len(msgspec.json.encode(IMAGE))
    assert item_output_bytes(user("hello")) == output_bytes(user("hello")) == 0
    assert item_output_bytes(call("mcp_1", output="é")) == 2


@given(st.text(max_size=3000), st.integers(LEAST, 2 * LEAST))
def test_what_is_shown_of_an_output_depends_on_nothing_else(text: str, most: int) -> None:
    alone = output_of([call("mcp_1", output=text)], most)
    among = for_model([user("hello"), call("mcp_1", output=text), call("mcp_2", output=LONG), user("go on")], most)
    assert alone in [each.output for each in among if isinstance(each, FunctionCallOutput)]
    assert (alone == text) == (len(text.encode()) <= most)


# -- reading on --------------------------------------------------------------------------------------------------

ITEMS: list[Item] = [call("mcp_1", output=LONG), call("mcp_2", output="short")]


def test_a_piece_says_where_it_stands() -> None:
    assert read(ITEMS, handle="mcp_2") == "[characters 0 to 5 of 5; this is the end]\nshort"
    assert read(ITEMS, handle="mcp_2", offset=1, limit=2) == "[characters 1 to 3 of 5; read on with offset 3]\nho"
    assert read(ITEMS, handle="mcp_2", offset=5) == "[characters 5 to 5 of 5; this is the end]\n"
    assert read(ITEMS, handle="mcp_2", offset=None, limit=None, search=None).endswith("short")


def test_a_search_says_where_to_search_on() -> None:
    assert read(ITEMS, handle="mcp_1", search="row 39:") == (
        "[matches, each after its offset, of 5087 characters; there are no further ones]\n"
        f"{LONG.index('row 39:')}: row 39: éééé"
    )
    first = read(ITEMS, handle="mcp_1", search="row")
    after = re.search(r"search on with offset (\d+)\]", first)
    assert after is not None
    assert (
        read(ITEMS, handle="mcp_1", search="row", offset=int(after[1])).splitlines()[1].startswith(f"{after[1]}: row")
    )
    assert read(ITEMS, handle="mcp_2", search="nothing", offset=2) == "[no match from offset 2 on; 5 characters in all]"
    assert read(ITEMS, handle="mcp_2", search="") == read(ITEMS, handle="mcp_2")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "handle is missing"),
        ({"handle": 1}, "handle is missing"),
        ({"handle": "mcp_3"}, "No output has this handle"),
        ({"handle": "mcp_2", "offset": 6}, "there are 5 characters"),
        ({"handle": "mcp_2", "offset": -1}, "offset is not"),
        ({"handle": "mcp_2", "offset": True}, "offset is not"),
        ({"handle": "mcp_2", "offset": "0"}, "offset is not"),
        ({"handle": "mcp_2", "limit": 0}, "limit is not"),
        ({"handle": "mcp_2", "search": 1}, "search is no text"),
        ({"handle": "mcp_2", "search": "x" * (OUTPUT_SEARCH_CHARS_MAX + 1)}, "search is no text"),
        ({"handle": "mcp_2", "x" * 5000: 1}, "There is no argument"),
    ],
)
def test_wrong_arguments_are_told_to_the_model(arguments: dict[str, object], why: str) -> None:
    result = answer(json.dumps(arguments), ITEMS, LEAST)
    assert result.failed
    assert isinstance(result.output, str)
    assert why in result.output
    assert len(result.output.encode()) <= LEAST


# -- when it is offered ------------------------------------------------------------------------------------------


def test_it_is_offered_where_an_output_is_cut_and_nothing_else_has_its_name() -> None:
    none = Hosting({}, frozenset())
    assert offered(none, LEAST, LEAST) is none
    some = offered(none, LEAST + 1, LEAST)
    assert set(some.tools) == {READER}
    assert some.whose(READER) == ("stateline", "read_output")
    assert offered(some, LEAST + 1, LEAST) is some
    own = Hosting({}, frozenset({READER}))
    assert offered(own, LEAST + 1, LEAST) is own


def test_a_context_knows_its_longest_output() -> None:
    context = Context((user("hello"),)).append((call("mcp_1", output="éé"),), {})
    assert (Context().longest_output, context.longest_output) == (0, 4)
    context = context.append((call("mcp_2", output="abc"),), {})
    assert context.longest_output == 4
    assert context.without("mcp_1").longest_output == 3
    assert context.append((Compaction(id="cmp_1", encrypted_content="c"),), {}).longest_output == 0


def offers(driver: ToolDriver, step: int) -> bool:
    """Whether the turn's model call of that step was offered reading."""
    wanted = (driver.session.turns, step)
    at = next(
        at
        for at, event in enumerate(driver.log)
        if isinstance(event.body, e.ModelCallStarted) and (event.body.turn, event.body.step) == wanted
    )
    turn = fold_all(new_session(driver.ref), driver.log[:at]).turn
    assert turn is not None
    return READER in [tool.name for tool in asked(turn).tools]


class LongDriver(ToolDriver):
    """Tools that answer at length."""

    shown_bytes = LEAST

    def _ends(self, end: str, *, stopped: bool = False) -> list[e.Body]:  # pyright: ignore
        bodies = super()._ends(end, stopped=stopped)  # pyright: ignore
        return [
            msgspec.structs.replace(each, output=LONG) if isinstance(each, e.EffectCommitted) else each
            for each in bodies
        ]


def test_a_turn_offers_it_from_its_first_cut_output_on_and_so_do_later_turns() -> None:
    driver = LongDriver()
    driver.play(plan(calls("a-look")))
    assert [offers(driver, 1), offers(driver, 3)] == [False, True]
    driver.play(plan(calls()))
    assert offers(driver, 1)
    driver.record(e.ItemsAdded(items=(Compaction(id="cmp_1", encrypted_content="c"),)))
    driver.play(plan(calls()))
    assert not offers(driver, 1)


def test_a_context_that_is_built_again_is_the_same() -> None:
    driver = LongDriver()
    driver.play(plan(calls("a-look")))
    seen = model_items(driver)
    again = LongDriver()
    again.log, again.session = driver.log, fold_all(new_session(driver.ref), driver.log)
    again.take_snapshot()
    again.session = fold_all(new_session(driver.ref), again.log[-1:])
    assert model_items(again) == seen
    assert any("[Cut: " in str(item) for item in seen)


def test_a_reader_of_the_response_sees_the_whole_output() -> None:
    driver = LongDriver()
    response_id = driver.play(plan(calls("a-look")))
    assert response_id is not None
    view = TurnView(response_id)
    events = [event for logged in driver.log for event in view.apply(logged)]
    assert "response.mcp_call.completed" in [event.type for event in events]
    assert [item.output for item in view.response().output if isinstance(item, McpCall)] == [LONG]


def model_items(driver: ToolDriver) -> list[object]:
    """What a next turn's model is given."""
    body = e.TurnRequested(
        response_id="r", turn=9, request=e.TurnRequest(model="m"), input=(user("go on"),), shown_bytes=LEAST
    )
    event = msgspec.structs.replace(driver.log[-1], seq=driver.log[-1].seq + 1, body=body)
    session = fold_all(driver.session, [event])
    return list(model_request(session, CallModel(turn=9, step=1, key=""), stream=False).items)


def test_a_function_of_the_clients_keeps_the_name() -> None:
    driver = LongDriver()
    request = msgspec.structs.replace(TOOL_REQUEST, tools=(FunctionTool(name=READER),))
    driver.play(plan(calls("a-look"), request=request))
    turn = fold_all(new_session(driver.ref), driver.log[:-1]).turn
    assert turn is not None
    assert turn.hosting is not None
    assert turn.hosting.whose(READER) is None


def test_a_call_that_ends_in_a_turn_without_a_list_of_tools_offers_nothing() -> None:
    driver = LongDriver()
    driver.play(plan(calls("a-look")))
    log = [event for event in driver.log if not isinstance(event.body, e.ToolsListed)]
    end = next(at for at, event in enumerate(log) if isinstance(event.body, e.EffectCommitted))
    turn = fold_all(new_session(driver.ref), log[: end + 1]).turn
    assert turn is not None
    assert turn.hosting is None


# -- bounds ------------------------------------------------------------------------------------------------------


def test_the_bounds_of_outputs_go_together() -> None:
    assert TOOL_OUTPUT_BYTES_MAX * 6 + 64 * 1024 <= EVENT_BYTES_MAX, "as JSON at its longest it is one event"
    assert TOOL_OUTPUT_BYTES_MAX <= TEXT_CHARS_MAX, "a client can send it back"
    assert FUNCTION_OUTPUT_BYTES_MAX + 1024 <= TOOL_OUTPUT_BYTES_MAX
    msgspec.convert({"output_kb": 8_000}, SandboxLimits)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"output_kb": 8_001}, SandboxLimits)
    assert TOOL_OUTPUT_BYTES_MAX >= 8_000 * 1024 + 64 * 1024
    assert ITEM_ID_CHARS_MAX * 4 + 300 < LEAST, "the line about what is left out fits"


def test_the_label_is_reserved_in_any_case() -> None:
    assert reserved("stateline")
    assert reserved("Stateline")
    assert not reserved("stateline2")
