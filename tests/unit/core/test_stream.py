"""The builder: the same items, numbers and marks, however the stream is cut."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.answers import ANY_DELTA, saids
from tests.unit.core.examples import SESSION

from stateline.core.calls import (
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    ItemStart,
    ModelDelta,
    PartStart,
    ReasoningDelta,
    SidecarDelta,
    TextDelta,
)
from stateline.core.errors import ModelError
from stateline.core.items import FunctionCall, Item, Message, OutputText, Reasoning, Refusal, Sidecar, UrlCitation
from stateline.core.limits import OUTPUT_ITEMS_MAX
from stateline.core.ops import AddItem, AddPart, Delta, EndItem, EndPart, ItemMarks, Op, PartKind
from stateline.core.stream import Assembly, StreamBuilder, replay

NUMBER, INDEX = 5, 2


def builder() -> StreamBuilder:
    return StreamBuilder(SESSION, turn=1, step=3, number=NUMBER, output_index=INDEX)


def width(op: Op) -> int:
    """How many stream events an operation stands for, by the specification's list of them."""
    match op:
        case AddPart(kind="arguments"):
            return 0
        case EndPart(kind=kind):
            return 1 if kind == "arguments" else 2
        case _:
            return 1


class Played:
    """A stream that was fed and cut, and all that came of it."""

    def __init__(self, deltas: Sequence[ModelDelta], cuts: Sequence[bool], status: str = "completed") -> None:
        self.builder = builder()
        self.chunks: list[tuple[int, tuple[Op, ...]]] = []
        for at, delta in enumerate(deltas):
            self.builder.feed([delta])
            if cuts[at % len(cuts)] and self.builder.pending:
                self.chunks.append(self.builder.take())
        assert self.builder.pending_chars >= 0
        if self.builder.pending:
            self.chunks.append(self.builder.take())
        assert not self.builder.pending
        self.items: tuple[Item, ...]
        self.marks: tuple[ItemMarks, ...]
        self.items, self.marks, self.next_number = self.builder.end(
            "incomplete" if status == "incomplete" else "completed"
        )
        self.closing = self.builder.take()

    def ops(self) -> list[Op]:
        return [op for _, ops in self.chunks for op in ops]


CUTS = st.lists(st.booleans(), min_size=1, max_size=12)
UNCUT = [False]


@given(saids(), CUTS)
def test_where_a_stream_is_cut_changes_no_item(deltas: list[ModelDelta], cuts: list[bool]) -> None:
    cut, whole = Played(deltas, cuts), Played(deltas, UNCUT)
    assert cut.items == whole.items
    assert cut.builder.sidecars == whole.builder.sidecars
    assert cut.builder.output_bytes == whole.builder.output_bytes
    structure = [op for op in cut.ops() if not isinstance(op, Delta)]
    assert structure == [op for op in whole.ops() if not isinstance(op, Delta)]


@given(saids(), CUTS)
def test_the_deltas_of_a_part_add_up_to_its_text(deltas: list[ModelDelta], cuts: list[bool]) -> None:
    played = Played(deltas, cuts)
    sums: dict[tuple[int, int], str] = {}
    for op in played.ops():
        if isinstance(op, AddPart):
            sums[op.index, op.part] = ""
        elif isinstance(op, Delta):
            sums[op.index, op.part] += op.text
    by_item = {at: [text for (index, _), text in sums.items() if index == at] for at in {at for at, _ in sums}}
    for at, item in enumerate(played.items, INDEX):
        assert sorted(by_item.get(at, [])) == sorted(texts(item, played.marks[at - INDEX]))
    said = sum(len(text.encode()) for text in sums.values())
    assert played.builder.output_bytes == said


def texts(item: Item, marks: ItemMarks) -> list[str]:
    if isinstance(item, FunctionCall):
        return [item.arguments]
    if isinstance(item, Reasoning):
        out = [part.text for part in item.summary] + [part.text for part in item.content or ()]
    else:
        assert isinstance(item, Message)
        out = [
            part.text if isinstance(part, OutputText) else part.refusal
            for part in item.content
            if isinstance(part, OutputText | Refusal)
        ]
    assert len(out) == len(marks.parts)
    return out


@given(saids(), CUTS)
def test_numbers_run_on_without_a_gap(deltas: list[ModelDelta], cuts: list[bool]) -> None:
    played = Played(deltas, cuts)
    number = NUMBER
    for first, ops in played.chunks:
        assert ops
        assert first == number
        number += sum(map(width, ops))
    # What closes the rest is told by the marks alone; it stands in no chunk.
    assert played.closing == (number, ())
    structural = [number for marks in played.marks for number in structure(marks)]
    deltas_numbered = played.next_number - NUMBER - len(structural)
    assert len(set(structural)) == len(structural)
    assert all(NUMBER <= number < played.next_number for number in structural)
    assert deltas_numbered == sum(isinstance(op, Delta) for op in played.ops())


def structure(marks: ItemMarks) -> list[int]:
    """The numbers of an item's structural events; every mark but the last delta's is one."""
    out = [marks.added, marks.done]
    for part in marks.parts:
        out += [*part.notes, part.done]
        if part.kind != "arguments":
            out += [part.added, part.done + 1]
    return out


@given(saids(), CUTS)
def test_the_last_delta_of_a_part_has_its_mark(deltas: list[ModelDelta], cuts: list[bool]) -> None:
    played = Played(deltas, cuts)
    last: dict[tuple[int, int], int] = {}
    number = NUMBER
    for op in played.ops():
        if isinstance(op, Delta):
            last[op.index, op.part] = number
        number += width(op)
    for at, marks in enumerate(played.marks, INDEX):
        assert [part.delta for part in marks.parts] == [last.get((at, i), -1) for i in range(len(marks.parts))]


@given(saids(), CUTS)
def test_a_new_owner_replays_what_the_last_one_built(deltas: list[ModelDelta], cuts: list[bool]) -> None:
    first, other = Played(deltas, cuts, "incomplete"), builder()
    chunks: list[tuple[Op, ...]] = []
    for at, delta in enumerate(deltas):
        other.feed([delta])
        if cuts[at % len(cuts)]:
            chunks.append(other.take()[1])
    chunks.append(other.take()[1])
    again = replay(NUMBER, INDEX, chunks)
    sealed = {item.index: item.encrypted for item in other.assembly.items}
    for item in again.items:
        # Encrypted reasoning goes to the log with the end of its item.
        item.encrypted = sealed[item.index]
    assert again.assembled("incomplete") == first.items
    assert sum(map(width, again.close())) == first.next_number - first.closing[0]
    assert (again.marks(), again.number) == (first.marks, first.next_number)
    assert again.close() == []


@given(st.lists(ANY_DELTA, max_size=30), CUTS)
def test_whatever_a_provider_sends_is_an_answer_or_malformed(deltas: list[ModelDelta], cuts: list[bool]) -> None:
    made = builder()
    with contextlib.suppress(ModelError):
        for at, delta in enumerate(deltas):
            made.feed([delta])
            if cuts[at % len(cuts)]:
                made.take()
    made.take()
    items, marks, number = made.end("incomplete")
    assert len(items) == len(marks)
    assert number == made.assembly.number
    assert all(mark.done >= 0 and all(part.done >= 0 for part in mark.parts) for mark in marks)


@given(saids(), CUTS)
def test_an_end_keeps_text_that_was_not_taken_yet(deltas: list[ModelDelta], cuts: list[bool]) -> None:
    untaken = builder()
    untaken.feed(deltas)
    assert untaken.end("completed")[0] == Played(deltas, cuts).items


def test_the_items_of_an_answer_are_named_by_turn_and_step() -> None:
    made = builder()
    made.feed([ReasoningDelta("a"), TextDelta("b"), CallStart(0, "c", "f"), CallDelta(0, "{}")])
    made.take()
    items, _, _ = made.end("completed")
    assert [item.id for item in items] == [f"{name}_{SESSION}t1s3i{at}" for at, name in enumerate(("rs", "msg", "fc"))]


def test_only_what_was_open_gets_the_status_of_the_end() -> None:
    made = builder()
    made.feed([TextDelta("a"), ItemStart("message"), TextDelta("b")])
    made.take()
    items, _, _ = made.end("incomplete")
    assert [item.status for item in items if isinstance(item, Message)] == ["completed", "incomplete"]


def test_side_by_side_calls_are_told_apart_by_index() -> None:
    made = builder()
    made.feed(
        [
            CallStart(0, "c0", "f"),
            CallStart(1, "c1", "g"),
            CallDelta(1, "[1"),
            CallDelta(0, "[0"),
            PartStart(),
            CallDelta(0, "]"),
            CallDelta(1, "]"),
        ]
    )
    made.take()
    items, _, _ = made.end("completed")
    assert [(i.name, i.arguments) for i in items if isinstance(i, FunctionCall)] == [("f", "[0]"), ("g", "[1]")]


def test_a_part_start_parts_two_texts_of_a_message() -> None:
    made = builder()
    made.feed([TextDelta("a"), PartStart(), PartStart(), TextDelta("b")])
    made.take()
    items, _, _ = made.end("completed")
    assert [part for item in items if isinstance(item, Message) for part in item.content] == [
        OutputText(text="a"),
        OutputText(text="b"),
    ]


def test_one_operation_holds_all_text_between_two_cuts() -> None:
    made = builder()
    made.feed([TextDelta("a"), TextDelta("b")])
    assert made.pending_chars == 2
    _, ops = made.take()
    assert ops[-1] == Delta(INDEX, 0, "text", "ab")
    made.feed([TextDelta("c")])
    assert made.take() == (NUMBER + 3, (Delta(INDEX, 0, "text", "c"),))


def test_logprobs_follow_their_text() -> None:
    made = builder()
    made.feed([TextDelta("a", [{"token": "a"}]), TextDelta("b", [{"token": "b"}])])
    _, ops = made.take()
    assert ops[-1] == Delta(INDEX, 0, "text", "ab", [{"token": "a"}, {"token": "b"}])
    items, _, _ = made.end("completed")
    assert items[0] == Message(
        id=items[0].id,
        role="assistant",
        content=(OutputText(text="ab", logprobs=[{"token": "a"}, {"token": "b"}]),),
    )


def test_output_bytes_are_utf_8() -> None:
    made = builder()
    made.feed([TextDelta("aé\U0001f600")])
    made.take()
    assert made.output_bytes == 1 + 2 + 4


def test_encrypted_reasoning_is_shown_in_its_item_and_kept_beside_it() -> None:
    made = builder()
    made.feed([ReasoningDelta("a"), SidecarDelta({"encrypted_content": "s", "id": "up"}), TextDelta("b")])
    made.take()
    items, _, _ = made.end("completed")
    assert isinstance(items[0], Reasoning)
    assert items[0].encrypted_content == "s"
    kept = made.item_sidecars("openai-responses/openai")
    assert kept == {items[0].id: Sidecar(origin="openai-responses/openai", data={"encrypted_content": "s", "id": "up"})}


def test_encrypted_reasoning_that_comes_too_late_is_kept_and_not_shown() -> None:
    # The item's done event has gone out without it; a reader must not see two versions of one item.
    made = builder()
    made.feed([ReasoningDelta("a"), ItemStart("message"), PartStart()])
    made.take()
    made._end_open()  # pyright: ignore[reportPrivateUsage] - nothing is open, so the last item is meant
    made.feed([SidecarDelta({"encrypted_content": "s"})])
    made.take()
    items, _, _ = made.end("completed")
    assert isinstance(items[0], Reasoning)
    assert not items[0].encrypted_content
    assert made.sidecars == {items[1].id: {"encrypted_content": "s"}}


def test_data_for_the_origin_before_any_item_opens_a_reasoning_item() -> None:
    made = builder()
    made.feed([SidecarDelta({"encrypted_content": "s"})])
    assert [type(op) for op in made.take()[1]] == [AddItem]
    items, _, _ = made.end("completed")
    assert items == (Reasoning(id=f"rs_{SESSION}t1s3i0", encrypted_content="s"),)


def test_data_for_the_origin_does_not_cut_a_text_in_two() -> None:
    made = builder()
    made.feed([TextDelta("a"), SidecarDelta({"x": 1}), TextDelta("b")])
    assert [op for op in made.take()[1] if isinstance(op, Delta)] == [Delta(INDEX, 0, "text", "ab")]


def test_the_finish_is_kept() -> None:
    made = builder()
    made.feed([TextDelta("a"), Finish(reason="length")])
    assert made.finish == Finish(reason="length")


NOTE = AnnotationDelta(UrlCitation(url="u", start_index=0, end_index=1, title="t"))


@pytest.mark.parametrize(
    "deltas",
    [
        [CallDelta(0, "x")],
        [CallStart(0, "a", "f"), CallStart(0, "b", "f")],
        [CallStart(0, "a", "f"), TextDelta("t"), CallDelta(0, "x")],
        [NOTE],
        [ReasoningDelta("x"), NOTE],
        [TextDelta("x"), PartStart(), NOTE],
    ],
)
def test_what_belongs_to_nothing_open_is_malformed(deltas: list[ModelDelta]) -> None:
    with pytest.raises(ModelError) as caught:
        builder().feed(deltas)
    assert (caught.value.code, caught.value.retryable) == ("malformed_stream", True)


def test_an_answer_with_too_many_items_is_refused() -> None:
    made = builder()
    made.feed([ItemStart("message")] * OUTPUT_ITEMS_MAX)
    with pytest.raises(ModelError) as caught:
        made.feed([ItemStart("message")])
    assert (caught.value.code, caught.value.retryable) == ("malformed_stream", False)
    assert len(made.end("incomplete")[0]) == OUTPUT_ITEMS_MAX


@pytest.mark.parametrize("kind", ["text", "refusal", "reasoning", "summary", "arguments"])
def test_an_operation_uses_up_a_number_for_each_event_that_it_stands_for(kind: PartKind) -> None:
    assembly = Assembly(number=5, output_index=0)
    message = Message(id="msg_1", role="assistant", content=())
    used: list[int] = []
    for op in (AddItem(0, message), AddPart(0, 0, kind), Delta(0, 0, kind, "a"), EndPart(0, 0, kind), EndItem(0)):
        before = assembly.number
        assembly.apply(op)
        used.append(assembly.number - before)
        assert used[-1] == width(op)
    assert used == ([1, 0, 1, 1, 1] if kind == "arguments" else [1, 1, 1, 2, 1])
