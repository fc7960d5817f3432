"""Compaction: a conversation in a model's own words, which any model of any provider can go on from.

A provider's own compaction is encrypted, so that no other can read it. Ours is text with a mark in front: it
stands in the context as a compaction item, and whatever model is called next gets it as a message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stateline.core.items import (
    Compaction,
    FunctionCall,
    FunctionCallOutput,
    InputContent,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
)

SUMMARY = "summary:"
"""What the encrypted content of our own compactions begins with; the rest is the summary."""

_ASKED = (
    "Write a summary of the conversation above, to be put in its place: whoever continues it sees nothing else of it. "
    "Keep what was asked for and every constraint, what was decided and why, what was done and found (names, numbers, "
    "paths, identifiers and quotations exactly as they were), and what is still open. Leave out greetings and detours. "
    "Answer with the summary alone, in the language of the conversation, and do not continue the conversation."
)
_SHOWN = "This is a summary of the conversation so far, which it stands in place of:\n\n"


def compaction(item_id: str, summary: str) -> Compaction:
    """The item that a summary becomes."""
    return Compaction(id=item_id, encrypted_content=SUMMARY + summary)


def is_summary(item: ModelItem) -> bool:
    """Whether it is a compaction of ours, and not a provider's."""
    return type(item) is Compaction and item.encrypted_content.startswith(SUMMARY)


def opened(items: Sequence[ModelItem]) -> Sequence[ModelItem]:
    """The items as models get them: our last compaction as a message, and nothing of what it stands for."""
    for at in range(len(items) - 1, -1, -1):
        item = items[at]
        if type(item) is Compaction and is_summary(item):
            return [_message(item), *items[at + 1 :]]
    return items


def split(items: Sequence[ModelItem]) -> tuple[Sequence[ModelItem], Sequence[ModelItem]]:
    """What is to be summed up, and the end that must stay as it is: calls without an answer, and what is behind them.

    The reasoning that led to a call stays with it: some providers take neither without the other.
    """
    answered = {item.call_id for item in items if isinstance(item, FunctionCallOutput)}
    for at, item in enumerate(items):
        if isinstance(item, FunctionCall) and item.call_id not in answered:
            first = at
            while first > 0 and isinstance(items[first - 1], (Reasoning, FunctionCall)):
                first -= 1
            return items[:first], items[first:]
    return items, ()


def to_be_summed_up(items: Sequence[ModelItem]) -> list[ModelItem]:
    """What a model is shown to sum it up, the demand for a summary last.

    Calls and their outputs become words: some providers refuse them where no tool is offered. Reasoning is left
    out, since a provider reads only its own.
    """
    said = [shown for item in opened(items) for shown in _in_words(item)]
    return [*said, Message(id="", role="user", content=(InputText(text=_ASKED),))]


def _message(item: Compaction) -> Message:
    text = _SHOWN + item.encrypted_content.removeprefix(SUMMARY)
    return Message(id=item.id, role="user", content=(InputText(text=text),))


def _in_words(item: ModelItem) -> Iterator[ModelItem]:
    match item:
        case FunctionCall():
            text = f"[Called the tool {item.name} as {item.call_id} with {item.arguments}]"
            yield Message(id=item.id, role="assistant", content=(OutputText(text=text),))
        case FunctionCallOutput():
            head = InputText(text=f"[The tool's answer to {item.call_id}]")
            output: tuple[InputContent, ...]
            output = (InputText(text=item.output),) if isinstance(item.output, str) else item.output
            yield Message(id=item.id, role="user", content=(head, *output))
        case Reasoning():
            return
        case _:
            yield item
