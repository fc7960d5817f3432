"""What a legal stream is, and what a client makes of one; told apart from the code that makes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stateline.core import events as e
from stateline.core.response import Dialect, Response
from stateline.core.view import TurnView

Json = dict[str, Any]
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}


def stream(
    log: Iterable[e.Event],
    response_id: str,
    *,
    cursor: int = -1,
    pruned: bool = False,
    dialect: Dialect = "open-responses",
) -> tuple[list[Json], Response]:
    """A turn's stream events after ``cursor`` as a client reads them, and its response."""
    view = TurnView(response_id, dialect=dialect, cursor=cursor)
    out: list[Json] = []
    for event in log:
        if not (pruned and isinstance(event.body, e.Chunk)):
            out += [shown(each) for each in view.apply(event)]
    return out, view.response()


def shown(value: msgspec.Struct) -> Json:
    """As a client reads it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def numbers(events: Sequence[Json]) -> list[int]:
    return [event["sequence_number"] for event in events]


@dataclass
class _Part:
    kind: str
    text: str = ""
    notes: list[Json] = field(default_factory=list)
    said: bool = False
    done: bool = False


@dataclass
class _Item:
    id: str
    type: str
    parts: dict[tuple[str, int], _Part] = field(default_factory=dict)
    done: Json | None = None


_DELTAS = {
    "response.output_text": ("content", "output_text", "text"),
    "response.refusal": ("content", "refusal", "refusal"),
    "response.reasoning": ("content", "reasoning_text", "text"),
    "response.reasoning_text": ("content", "reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary", "summary_text", "text"),
    "response.function_call_arguments": ("arguments", "arguments", "arguments"),
}


class Client:
    """Follows a stream and asserts that each event may come where it comes.

    Args:
        lossy: the stream was resumed inside pruned deltas: a ``done`` may tell more than the deltas did.
    """

    def __init__(self, *, lossy: bool = False) -> None:
        self.items: dict[int, _Item] = {}
        self.last: Json | None = None
        self.final: Json | None = None
        self._lossy = lossy

    def follow(self, events: Sequence[Json]) -> Client:
        for event in events:
            self.take(event)
        return self

    def take(self, event: Json) -> None:
        kind: str = event["type"]
        assert self.final is None, "an event after the last"
        if self.last is None:
            assert (kind, event["sequence_number"]) == ("response.created", 0)
        else:
            assert event["sequence_number"] > self.last["sequence_number"]
        self.last = event
        if kind in ("response.created", "response.queued", "response.in_progress"):
            assert not self.items
            assert event["response"]["output"] == []
        elif kind in TERMINAL:
            self._end(event)
        elif kind == "response.output_item.added":
            self._add(event)
        elif kind == "response.output_item.done":
            self._done(event)
        else:
            self._part(kind, event)

    def _add(self, event: Json) -> None:
        item = event["item"]
        assert event["output_index"] == len(self.items), "an output index was left out, or used twice"
        assert item["id"] not in {known.id for known in self.items.values()}
        assert not any(item.get(name) for name in ("content", "summary", "arguments"))
        assert item.get("status") in (None, "in_progress")
        self.items[event["output_index"]] = _Item(item["id"], item["type"])

    def _part(self, kind: str, event: Json) -> None:
        item = self.items[event["output_index"]]
        assert item.done is None
        assert item.id == event["item_id"]
        base, _, what = kind.rpartition(".")
        if kind.startswith(("response.content_part.", "response.reasoning_summary_part.")):
            place = "summary" if "summary" in kind else "content"
            key = (place, event[f"{place}_index"])
            if what == "added":
                assert key not in item.parts
                assert key[1] == len([at for at in item.parts if at[0] == place])
                assert not text_of(event["part"])
                item.parts[key] = _Part(event["part"]["type"])
            else:
                part = item.parts[key]
                assert part.done
                assert (event["part"]["type"], text_of(event["part"])) == (part.kind, part.text)
                if "annotations" in event["part"]:
                    assert event["part"]["annotations"] == part.notes
            return
        if base == "response.output_text.annotation":
            part = item.parts["content", event["content_index"]]
            assert not part.done
            assert event["annotation_index"] == len(part.notes)
            part.notes.append(event["annotation"])
            return
        place, part_kind, name = _DELTAS[base]
        if place == "arguments":
            part = item.parts.setdefault((place, 0), _Part(place))
            assert item.type == "function_call"
        else:
            part = item.parts[place, event[f"{place}_index"]]
        assert part.kind == part_kind
        assert not part.done
        if what == "delta":
            part.text += event["delta"]
            part.said = True
        else:
            assert what == "done"
            if self._lossy:
                assert event[name].startswith(part.text)
                part.text = event[name]
            assert event[name] == part.text
            part.done = True

    def _done(self, event: Json) -> None:
        known, item = self.items[event["output_index"]], event["item"]
        assert known.done is None
        assert (item["id"], item["type"]) == (known.id, known.type)
        assert all(part.done for part in known.parts.values())
        assert item.get("status") != "in_progress"
        if item["type"] == "function_call":
            shown = {("arguments", 0): item["arguments"]}
        else:
            places = [(place, part) for place in ("content", "summary") for part in item.get(place, [])]
            shown = {
                (place, at): text_of(part)
                for place in ("content", "summary")
                for at, part in enumerate([part for where, part in places if where == place])
            }
        assert shown == {key: part.text for key, part in known.parts.items()}
        known.done = item

    def _end(self, event: Json) -> None:
        response = event["response"]
        assert all(item.done is not None for item in self.items.values())
        ended = "incomplete" if response["status"] == "cancelled" else response["status"]
        assert event["type"] == f"response.{ended}"
        done = [item.done for item in self.items.values()]
        # The final output leaves abandoned items out and changes nothing of the others, nor their order.
        kept = [item for item in done if item in response["output"]]
        assert kept == response["output"]
        abandoned = [item for item in done if item is not None and item not in response["output"]]
        assert all(item.get("status") in (None, "incomplete", "completed") for item in abandoned)
        self.final = response


def text_of(part: Json) -> str:
    return part["refusal"] if part["type"] == "refusal" else part["text"]
