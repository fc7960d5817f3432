"""From a model's deltas to operations, items and numbers; pure, and the same when replayed.

``Assembly`` applies operations. The engine's ``StreamBuilder`` makes them from deltas; a reader and a
recovering owner apply the recorded ones. So all three agree on every number and every text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from stateline.core.calls import (
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    ItemStart,
    ModelDelta,
    PartStart,
    ReasoningDelta,
    RefusalDelta,
    SidecarDelta,
    SummaryDelta,
    TextDelta,
)
from stateline.core.errors import ModelError
from stateline.core.hosted import Hosting
from stateline.core.ids import item_id
from stateline.core.items import (
    PREFIXES,
    Content,
    FunctionCall,
    ItemStatus,
    McpCall,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    Sidecar,
    SummaryText,
    UrlCitation,
)
from stateline.core.limits import OUTPUT_ITEMS_MAX, TOOL_CALLS_ANSWER_MAX
from stateline.core.ops import (
    AddAnnotation,
    AddItem,
    AddPart,
    Delta,
    EndItem,
    EndPart,
    ItemMarks,
    Op,
    PartKind,
    PartMarks,
)
from stateline.core.tools import PlannedCall

_HOME: dict[PartKind, str] = {
    "text": "message",
    "refusal": "message",
    "reasoning": "reasoning",
    "summary": "reasoning",
    "arguments": "function_call",
}
"""Which item a part of each kind belongs to."""


class OpenPart:
    """A part as it grows. Numbers are -1 until their event happened."""

    __slots__ = (
        "added",
        "annotations",
        "delta",
        "done",
        "kind",
        "logprobs",
        "notes",
        "position",
        "texts",
    )

    def __init__(self, kind: PartKind, position: int, added: int) -> None:
        self.kind: PartKind = kind
        self.position = position
        self.added = added
        self.delta = -1
        self.done = -1
        self.texts: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self.annotations: list[UrlCitation] = []
        self.notes: list[int] = []

    @property
    def text(self) -> str:
        if len(self.texts) > 1:
            self.texts = ["".join(self.texts)]
        return self.texts[0] if self.texts else ""

    def content(self) -> Content:
        """The part as its item shows it (arguments have none)."""
        if self.kind == "text":
            return OutputText(text=self.text, annotations=tuple(self.annotations), logprobs=self.logprobs)
        if self.kind == "refusal":
            return Refusal(refusal=self.text)
        if self.kind == "reasoning":
            return ReasoningText(text=self.text)
        return SummaryText(text=self.text)

    def marks(self) -> PartMarks:
        return PartMarks(self.kind, self.added, self.delta, tuple(self.notes), self.done)


class OpenItem:
    """An item as it grows."""

    __slots__ = ("added", "done", "encrypted", "index", "item", "parts")

    def __init__(self, index: int, item: ModelItem, added: int) -> None:
        self.index = index
        self.item = item
        self.added = added
        self.done = -1
        self.encrypted: str | None = None
        self.parts: list[OpenPart] = []

    def position(self, kind: PartKind) -> int:
        """Where a new part of ``kind`` stands: content and summary are counted apart."""
        if not self.parts:
            return 0
        if kind == "summary":
            return sum(1 for part in self.parts if part.kind == "summary")
        return sum(1 for part in self.parts if part.kind != "summary")

    def assemble(self, status: ItemStatus) -> ModelItem:
        """The item with everything that its parts hold so far."""
        item = self.item
        if type(item) is FunctionCall:
            arguments = self.parts[0].text if self.parts else ""
            return FunctionCall(id=item.id, call_id=item.call_id, name=item.name, arguments=arguments, status=status)
        if type(item) is Message:
            content = tuple([part.content() for part in self.parts])
            return Message(id=item.id, role=item.role, phase=item.phase, content=content, status=status)
        summary = tuple(SummaryText(text=part.text) for part in self.parts if part.kind == "summary")
        thought = tuple(ReasoningText(text=part.text) for part in self.parts if part.kind == "reasoning")
        return Reasoning(
            id=item.id,
            summary=summary,
            content=thought or msgspec.UNSET,
            encrypted_content=msgspec.UNSET if self.encrypted is None else self.encrypted,
        )

    def marks(self) -> ItemMarks:
        return ItemMarks(self.added, tuple([part.marks() for part in self.parts]), self.done)


class Assembly:
    """The items of one model call, as the operations so far make them.

    Attributes:
        number: the sequence number of the next stream event.
        index: the output index of the next item.
        items: all items that were opened, in order of their output index.
    """

    __slots__ = ("index", "items", "number", "output_index")

    def __init__(self, number: int, output_index: int) -> None:
        self.number = number
        self.index = output_index
        self.output_index = output_index
        self.items: list[OpenItem] = []

    def item(self, index: int) -> OpenItem:
        return self.items[index - self.output_index]

    def apply(self, op: Op) -> None:
        """Take one operation in; it uses up as many numbers as it stands for stream events."""
        _APPLY[type(op)](self, op)

    def _delta(self, op: Delta) -> None:
        part = self.items[op.index - self.output_index].parts[op.part]
        part.texts.append(op.text)
        if op.logprobs:
            part.logprobs = part.logprobs + op.logprobs
        part.delta = self.number
        self.number += 1

    def _add_item(self, op: AddItem) -> None:
        self.items.append(OpenItem(op.index, op.item, self.number))
        self.index = op.index + 1
        self.number += 1

    def _add_part(self, op: AddPart) -> None:
        item = self.items[op.index - self.output_index]
        item.parts.append(OpenPart(op.kind, item.position(op.kind), self.number))
        if op.kind != "arguments":
            # These have no event that opens them.
            self.number += 1

    def _end_part(self, op: EndPart) -> None:
        self.items[op.index - self.output_index].parts[op.part].done = self.number
        self.number += 1 if op.kind == "arguments" else 2

    def _end_item(self, op: EndItem) -> None:
        item = self.items[op.index - self.output_index]
        if op.encrypted is not None:
            item.encrypted = op.encrypted
        item.done = self.number
        self.number += 1

    def _annotate(self, op: AddAnnotation) -> None:
        part = self.items[op.index - self.output_index].parts[op.part]
        part.annotations.append(op.annotation)
        part.notes.append(self.number)
        self.number += 1

    def close(self) -> list[Op]:
        """Apply, and return, what closes everything still open."""
        ops: list[Op] = []
        for item in self.items:
            ops += self.close_item(item)
        return ops

    def close_item(self, item: OpenItem) -> list[Op]:
        if item.done >= 0:
            return []
        ops: list[Op] = [EndPart(item.index, at, part.kind) for at, part in enumerate(item.parts) if part.done < 0]
        ops.append(EndItem(item.index, item.encrypted))
        for op in ops:
            self.apply(op)
        return ops

    def marks(self) -> tuple[ItemMarks, ...]:
        return tuple([item.marks() for item in self.items])

    def assembled(self, open_status: ItemStatus) -> tuple[ModelItem, ...]:
        """All items; those still open get ``open_status``. Call before ``close``."""
        return tuple([item.assemble(open_status if item.done < 0 else "completed") for item in self.items])


_APPLY: dict[type, Callable[[Assembly, Any], None]] = {
    Delta: Assembly._delta,  # pyright: ignore[reportPrivateUsage]
    AddItem: Assembly._add_item,  # pyright: ignore[reportPrivateUsage]
    AddPart: Assembly._add_part,  # pyright: ignore[reportPrivateUsage]
    EndPart: Assembly._end_part,  # pyright: ignore[reportPrivateUsage]
    EndItem: Assembly._end_item,  # pyright: ignore[reportPrivateUsage]
    AddAnnotation: Assembly._annotate,  # pyright: ignore[reportPrivateUsage]
}


class _HostedCall:
    """A call of a hosted tool as it grows. It is no item before it is known what becomes of it."""

    __slots__ = ("id", "server", "texts", "tool")

    def __init__(self, id_: str, server: str, tool: str) -> None:
        self.id = id_
        self.server = server
        self.tool = tool
        self.texts: list[str] = []


class StreamBuilder:
    """Turns the deltas of one model call into operations.

    Consecutive texts of one part become one operation between two calls of ``take``, so the cost of
    a stream goes with its chunks, not with its tokens.

    Args:
        hosting: which of the model's calls are the runtime's to make; None: none of them.
    """

    def __init__(
        self, session: str, turn: int, step: int, number: int, output_index: int, *, hosting: Hosting | None = None
    ) -> None:
        self.assembly = Assembly(number, output_index)
        self.finish: Finish | None = None
        self.sidecars: dict[str, dict[str, Any]] = {}
        self.output_bytes = 0
        self._origin = (session, turn, step)
        self._ops: list[Op] = []
        self._first = number
        self._open: OpenItem | None = None
        self._part: OpenPart | None = None
        self._calls: dict[int, OpenItem] = {}
        self._hosting = hosting
        self._hosted: dict[int, _HostedCall] = {}
        self._begun: _HostedCall | None = None
        """The hosted call that was begun last, as long as nothing else was."""
        self._texts: list[str] = []
        self._chars = 0
        self._logprobs: list[dict[str, Any]] = []

    @property
    def pending_chars(self) -> int:
        """Characters that no operation holds yet."""
        return self._chars

    @property
    def pending(self) -> bool:
        """Whether ``take`` would return any operation."""
        return bool(self._ops or self._texts)

    def feed(self, deltas: Iterable[ModelDelta]) -> None:
        """Take deltas in.

        Raises:
            ModelError: ``malformed_stream``, when a delta belongs to nothing that is open, or too
                many items are opened.
        """
        for delta in deltas:
            part = self._part
            if type(delta) is TextDelta and part is not None and part.kind == "text":
                self._texts.append(delta.text)
                self._chars += len(delta.text)
                if delta.logprobs:
                    self._logprobs += delta.logprobs
            else:
                self._feed_other(delta)

    def take(self) -> tuple[int, tuple[Op, ...]]:
        """The operations since the last call, and the number of their first stream event."""
        self._flush()
        first, ops = self._first, tuple(self._ops)
        self._ops = []
        self._first = self.assembly.number
        return first, ops

    def end(self, status: ItemStatus) -> tuple[tuple[ModelItem, ...], tuple[ItemMarks, ...], int]:
        """Close everything: all items (those still open as ``status``), their marks, the next number.

        What ``take`` has not returned yet it still returns; the closing itself stands in no chunk.
        """
        self._flush()
        items = self.assembly.assembled(status)
        self.assembly.close()
        return items, self.assembly.marks(), self.assembly.number

    def calls(self) -> tuple[PlannedCall, ...]:
        """The calls of hosted tools, in their order."""
        return tuple(
            [
                PlannedCall(id=each.id, server=each.server, tool=each.tool, arguments="".join(each.texts))
                for each in self._hosted.values()
            ]
        )

    def item_sidecars(self, origin: str) -> dict[str, Sidecar]:
        return {item: Sidecar(origin=origin, data=data) for item, data in self.sidecars.items()}

    # -- the cases that are not plain text ------------------------------------------------------

    def _feed_other(self, delta: ModelDelta) -> None:
        if type(delta) is TextDelta:
            self._begin("text")
            self.feed((delta,))
            return
        if type(delta) is Finish:
            self.finish = delta
            return
        match delta:
            case CallDelta():
                self._call_delta(delta)
            case CallStart():
                self._start_call(delta)
            case ReasoningDelta():
                self._text("reasoning", delta.text)
            case SummaryDelta():
                self._text("summary", delta.text)
            case RefusalDelta():
                self._text("refusal", delta.text)
            case ItemStart():
                self._end_open()
                self._start_item(delta)
            case PartStart():
                # The arguments of a function call are one part, whatever the provider says.
                if not self._calls:
                    self._end_part()
            case AnnotationDelta():
                self._annotate(delta)
            case _:
                self._sidecar(delta)

    def _text(self, kind: PartKind, text: str) -> None:
        if self._part is None or self._part.kind != kind:
            self._begin(kind)
        self._texts.append(text)
        self._chars += len(text)

    def _do(self, op: Op) -> None:
        self._ops.append(op)
        _APPLY[type(op)](self.assembly, op)

    def _flush(self) -> None:
        if not self._texts:
            return
        text = "".join(self._texts)
        self._texts = []
        self._chars = 0
        self.output_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        item, part = self._open, self._part
        assert item is not None
        assert part is not None
        logprobs = self._logprobs or None
        self._logprobs = []
        self._do(Delta(item.index, item.parts.index(part), part.kind, text, logprobs))

    def _begin(self, kind: PartKind) -> None:
        """Open a part of ``kind``, in the open item where it belongs there."""
        self._flush()
        item = self._open
        if item is None or type(item.item) is FunctionCall or _HOME[kind] != item_kind(item.item):
            self._end_open()
            item = self._start_item(ItemStart("reasoning" if _HOME[kind] == "reasoning" else "message"))
        else:
            self._end_part()
        self._do(AddPart(item.index, len(item.parts), kind))
        self._part = item.parts[-1]

    def _end_part(self) -> None:
        self._flush()
        item, part = self._open, self._part
        if item is not None and part is not None:
            self._do(EndPart(item.index, item.parts.index(part), part.kind))
        self._part = None

    def _end_open(self) -> None:
        """End whatever is open: a message or reasoning item, or the calls."""
        self._flush()
        if self._calls:
            for item in self._calls.values():
                self._ops += self.assembly.close_item(item)
            self._calls = {}
        elif self._open is not None:
            self._ops += self.assembly.close_item(self._open)
        self._open = self._part = None

    def _new_id(self, prefix: str) -> str:
        made = len(self.assembly.items) + len(self._hosted)
        if made >= OUTPUT_ITEMS_MAX:
            raise ModelError(
                f"the model opened more than {OUTPUT_ITEMS_MAX} items in one answer",
                code="malformed_stream",
                retryable=False,
            )
        return item_id(prefix, *self._origin, made)

    def _start_item(self, start: ItemStart) -> OpenItem:
        item: ModelItem
        if start.kind == "reasoning":
            item = Reasoning(id=self._new_id("rs"))
        else:
            phase = start.phase or msgspec.UNSET
            item = Message(id=self._new_id("msg"), role="assistant", status="in_progress", phase=phase)
        self._do(AddItem(self.assembly.index, item))
        self._open = self.assembly.items[-1]
        self._part = self._begun = None
        return self._open

    def _start_call(self, delta: CallStart) -> None:
        if delta.index in self._calls or delta.index in self._hosted:
            raise ModelError(f"function call {delta.index} began twice", code="malformed_stream", retryable=True)
        self._flush()
        if not self._calls:
            self._end_open()
        whose = None if self._hosting is None else self._hosting.whose(delta.name)
        if whose is not None:
            if len(self._hosted) >= TOOL_CALLS_ANSWER_MAX:
                raise ModelError(
                    f"the model called more than {TOOL_CALLS_ANSWER_MAX} tools in one answer",
                    code="malformed_stream",
                    retryable=False,
                )
            self._begun = self._hosted[delta.index] = _HostedCall(self._new_id(PREFIXES[McpCall]), *whose)
            return
        self._begun = None
        item = FunctionCall(
            id=self._new_id("fc"),
            call_id=delta.call_id,
            name=delta.name,
            arguments="",
            status="in_progress",
        )
        self._do(AddItem(self.assembly.index, item))
        self._open = self._calls[delta.index] = self.assembly.items[-1]
        self._do(AddPart(self._open.index, 0, "arguments"))
        self._part = self._open.parts[0]

    def _call_delta(self, delta: CallDelta) -> None:
        item = self._calls.get(delta.index)
        if item is None:
            hosted = self._hosted.get(delta.index)
            if hosted is not None:
                hosted.texts.append(delta.arguments)
                self.output_bytes += len(delta.arguments.encode("utf-8", "surrogatepass"))
                return
            raise ModelError(
                f"arguments for function call {delta.index}, which never began",
                code="malformed_stream",
                retryable=True,
            )
        if item is not self._open:
            self._flush()
            self._open, self._part = item, item.parts[0]
        self._texts.append(delta.arguments)
        self._chars += len(delta.arguments)

    def _annotate(self, delta: AnnotationDelta) -> None:
        self._flush()
        item, part = self._open, self._part
        if item is None or part is None or part.kind != "text":
            raise ModelError("an annotation without a text", code="malformed_stream", retryable=True)
        self._do(AddAnnotation(item.index, item.parts.index(part), len(part.annotations), delta.annotation))

    def _sidecar(self, delta: SidecarDelta) -> None:
        if self._begun is not None:
            self.sidecars.setdefault(self._begun.id, {}).update(delta.data)
            return
        item = self._open or (self.assembly.items[-1] if self.assembly.items else None)
        if item is None:
            item = self._start_item(ItemStart("reasoning"))
        encrypted = delta.data.get("encrypted_content")
        if isinstance(encrypted, str) and isinstance(item.item, Reasoning) and item.done < 0:
            item.encrypted = encrypted
        self.sidecars.setdefault(item.item.id, {}).update(delta.data)


def item_kind(item: ModelItem) -> str:
    """The item's type name."""
    return str(item.__struct_config__.tag)


def replay(number: int, output_index: int, chunks: Sequence[tuple[Op, ...]]) -> Assembly:
    """The assembly that recorded operations make, for an owner that takes over."""
    assembly = Assembly(number, output_index)
    for ops in chunks:
        for op in ops:
            assembly.apply(op)
    return assembly
