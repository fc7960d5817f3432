"""Compaction: what a model is shown to sum up, what stays, and how a summary is read again."""

from __future__ import annotations

from stateline.core.compaction import compaction, is_summary, opened, split, to_be_summed_up
from stateline.core.items import (
    Compaction,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Item,
    Message,
    Reasoning,
)


def user(text: str) -> Message:
    return Message(id=text, role="user", content=(InputText(text=text),))


def call(name: str) -> FunctionCall:
    return FunctionCall(id=f"fc_{name}", call_id=name, name="look_up", arguments='{"word": "owl"}')


def output(name: str) -> FunctionCallOutput:
    return FunctionCallOutput(id=f"fco_{name}", call_id=name, output="a bird")


def texts(item: Item) -> list[str]:
    assert isinstance(item, Message)
    return [part.text for part in item.content if hasattr(part, "text")]  # type: ignore[union-attr]


FOREIGN = Compaction(id="cmp_0", encrypted_content="gAAAAABpM0Yj")


def test_a_summary_is_a_message_and_what_it_stands_for_is_gone() -> None:
    items = [
        user("old"),
        compaction("cmp_1", "They met."),
        user("older"),
        compaction("cmp_2", "All of it."),
        user("new"),
    ]
    shown = opened(items)
    assert len(shown) == 2
    first = shown[0]
    assert isinstance(first, Message)
    assert (first.id, first.role) == ("cmp_2", "user")
    assert texts(first)[0].endswith("All of it.")
    assert shown[1] is items[-1]


def test_items_without_a_summary_of_ours_are_left_alone() -> None:
    items = [user("old"), FOREIGN, user("new")]
    assert opened(items) is items
    assert not is_summary(FOREIGN)
    assert is_summary(compaction("cmp_1", ""))


def test_calls_without_an_answer_stay_with_the_reasoning_that_led_to_them() -> None:
    before = [user("go"), call("one"), output("one")]
    waiting = [Reasoning(id="rs_1"), call("two"), call("three"), output("two")]
    assert split([*before, *waiting]) == (before, waiting)
    side_by_side = [call("four"), call("five"), output("four")]
    assert split(side_by_side) == ([], side_by_side)
    assert split([*side_by_side[1:], *side_by_side]) == ([], [*side_by_side[1:], *side_by_side])
    assert split(before) == (before, ())


def test_a_model_is_shown_calls_in_words_and_the_demand_last() -> None:
    image = InputImage(image_url="data:image/png;base64,AAAA")
    seen = FunctionCallOutput(id="fco_2", call_id="two", output=(image,))
    items = [
        compaction("cmp_1", "Before."),
        user("go"),
        Reasoning(id="rs_1"),
        call("one"),
        output("one"),
        seen,
        FOREIGN,
    ]
    shown = to_be_summed_up(items)
    assert texts(shown[0])[0].endswith("Before.")
    assert texts(shown[2]) == ['[Called the tool look_up as one with {"word": "owl"}]']
    assert texts(shown[3]) == ["[The tool's answer to one]", "a bird"]
    told = shown[4]
    assert isinstance(told, Message)
    assert told.content[1] is image
    assert shown[5] is FOREIGN
    assert texts(shown[6])[0].startswith("Write a summary")
    assert len(shown) == 7
