"""The items of a session that its models see, and what they take in memory."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from stateline.core.carrying import origins_of
from stateline.core.hosted import output_bytes
from stateline.core.items import (
    HOSTED_ITEMS,
    Compaction,
    Content,
    FunctionCall,
    FunctionCallOutput,
    InputText,
    Item,
    McpCall,
    Message,
    OutputText,
    Reasoning,
    Sidecar,
)


class Context:
    """The items that a model sees, oldest first; immutable, and cheap to append to.

    ``origins`` is as `core.carrying.origins_of` has it, over all items. ``hosted``: some are of hosted tools.
    ``longest_output``: UTF-8 bytes of the longest output of text that one of those has.
    """

    __slots__ = ("_items", "_previous", "_sidecars", "bytes", "count", "hosted", "longest_output", "origins")

    def __init__(
        self,
        items: tuple[Item, ...] = (),
        sidecars: dict[str, Sidecar] | None = None,
        previous: Context | None = None,
    ) -> None:
        self._items = items
        self._sidecars = sidecars or {}
        self._previous = previous
        self.count: int = len(items) + (previous.count if previous else 0)
        self.bytes: int = sum(map(item_bytes, items)) + (previous.bytes if previous else 0)
        self.origins: frozenset[str] = origins_of(items, self._sidecars)
        self.hosted: bool = any(type(item) in HOSTED_ITEMS for item in items) or (
            previous is not None and previous.hosted
        )
        self.longest_output: int = max(map(output_bytes, items), default=0)
        if previous is not None:
            self.longest_output = max(self.longest_output, previous.longest_output)
            self.origins = previous.origins if self.origins <= previous.origins else self.origins | previous.origins

    def append(self, items: tuple[Item, ...], sidecars: dict[str, Sidecar]) -> Context:
        """With ``items`` after all others. A compaction stands for everything before it."""
        if not items:
            return self
        for at in range(len(items) - 1, -1, -1):
            if type(items[at]) is Compaction:
                return Context(items[at:], sidecars)
        return Context(items, sidecars, self if self.count else None)

    def without(self, item_id: str) -> Context:
        items = tuple(item for item in self if item.id != item_id)
        return self if len(items) == self.count else Context(items, self.sidecars())

    def find(self, item_id: str) -> Item | None:
        return next((item for item in self if item.id == item_id), None)

    def sidecars(self) -> dict[str, Sidecar]:
        out: dict[str, Sidecar] = {}
        for node in self._nodes():
            out.update(node._sidecars)
        return out

    def _nodes(self) -> list[Context]:
        nodes: list[Context] = []
        node: Context | None = self
        while node is not None:
            nodes.append(node)
            node = node._previous
        nodes.reverse()
        return nodes

    def __iter__(self) -> Iterator[Item]:
        for node in self._nodes():
            yield from node._items

    def __len__(self) -> int:
        return self.count


def item_bytes(item: Item) -> int:
    """Roughly what an item takes in memory: its texts and some for the rest."""
    size = 400
    if type(item) is Message:
        for part in item.content:
            if type(part) is InputText or type(part) is OutputText:
                size += 100 + len(part.text)  # What nearly all parts are.
            else:
                size += 100 + sum(len(text) for text in _texts(part))
    elif type(item) is FunctionCall:
        size += len(item.arguments)
    elif type(item) is FunctionCallOutput:
        output = item.output
        size += len(output) if isinstance(output, str) else sum(len(text) for part in output for text in _texts(part))
    elif type(item) is Compaction:
        size += len(item.encrypted_content)
    elif type(item) is McpCall:
        size += len(item.arguments) + len(item.output or "") + len(item.error.content if item.error else "")
        size += sum(len(text) for part in item.content or () for text in _texts(part))
    elif type(item) is not Reasoning:
        size += len(msgspec.json.encode(item))
    else:
        size += sum(len(part.text) for part in (*item.summary, *(item.content or ())))
        size += len(item.encrypted_content or "")
    return size


def _texts(part: Content) -> Iterator[str]:
    for name in part.__struct_fields__:
        value = getattr(part, name)
        if isinstance(value, str):
            yield value
