"""Writes what is lost where a session changes its format, as tables between two markers in docs/switching.md.

Run as `python scripts/switching_table.py`; with `--check` it changes nothing and exits 1 when the page is out of
date. What it knows of losses is `core.carrying.dropped`, which the engine asks before each call; the items that it
asks about are what our decoders make of answers that the scripted upstream gives.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from stateline.core.carrying import WORDS, Dropped, dropped
from stateline.core.items import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Message,
    ModelItem,
    Sidecar,
)
from stateline.core.origin import origin
from stateline.core.stream import StreamBuilder
from stateline.models.formats import FORMATS
from stateline.testing.anthropic_bodies import MessageBody
from stateline.testing.converse import ConverseBody
from stateline.testing.gemini_bodies import GeminiBody
from stateline.testing.openai_bodies import ChatBody, ResponseBody
from stateline.testing.scripted import Answer, ScriptedCall, deltas_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "switching.md"
BEGIN = "<!-- losses: begin -->"
END = "<!-- losses: end -->"

Kind = Literal["text", "tools", "failed", "reasoning", "image"]
KINDS: dict[Kind, str] = {
    "text": "Text beside a call",
    "tools": "Two calls at once",
    "failed": "A tool that failed",
    "reasoning": "Reasoning before a call",
    "image": "An image in the question, with `detail`",
}


class Side(NamedTuple):
    """A format as the table and its tests meet it."""

    name: str
    cloud: str
    model: str

    @property
    def origin(self) -> str:
        return origin(self.name, self.cloud, self.model)


SIDES = (
    Side("openai-responses", "openai", "gpt-5"),
    Side("openai-chat", "openai", "gpt-5"),
    Side("anthropic-messages", "anthropic", "claude-opus-4-8"),
    Side("bedrock-converse", "aws", "us.anthropic.claude-opus-4-8-v1:0"),
    Side("gemini", "google", "gemini-3-pro"),
)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)


def answer(kind: Kind, step: int) -> Answer:
    """What a model says at a step of the tool loop."""
    calls = tuple(
        ScriptedCall(name="look_up", arguments=f'{{"word":"{kind}{step}{at}"}}', call_id=f"call_{kind}{step}{at}")
        for at in range(2 if kind == "tools" else 1)
    )
    text = f"Let me see {step}." if kind == "text" else ""
    thought = f"Thought number {step}." if kind == "reasoning" else ""
    return Answer(summary=thought, text=text, calls=calls)


def question(kind: Kind) -> Message:
    """What begins the loop."""
    text = InputText(text=f"look it up: {kind}")
    image = (InputImage(image_url=PIXEL, detail="low"),) if kind == "image" else ()
    return Message(id="q", role="user", content=(text, *image))


def said(side: Side, kind: Kind, step: int) -> tuple[tuple[ModelItem, ...], dict[str, Sidecar]]:
    """The items of an answer, read by the format's decoder, and what its provider gave beside them."""
    deltas = deltas_of(answer(kind, step), step)
    match side.name:
        case "openai-responses":
            body = ResponseBody(step, side.model, {"include": ["reasoning.encrypted_content"]}).whole(deltas)
        case "openai-chat":
            body = ChatBody(step, side.model, with_usage=True).whole(deltas)
        case "anthropic-messages":
            body = MessageBody(step, side.model).whole(deltas)
        case "bedrock-converse":
            body = ConverseBody().whole(deltas)
        case _:
            body = GeminiBody(step, side.model).whole(deltas)
    builder = StreamBuilder("table", step, 1, 2, 0)
    builder.feed(FORMATS[side.name].decode_response(body))
    return builder.end("completed")[0], builder.item_sidecars(side.origin)


def losses(by: Sequence[Side], to: Side, kind: Kind) -> tuple[Dropped, ...]:
    """What `to` does not get of a tool loop whose calls the models of `by` made, one after the other."""
    items: list[ModelItem] = [question(kind)]
    sidecars: dict[str, Sidecar] = {}
    for step, side in enumerate(by, 1):
        made, beside = said(side, kind, step)
        items += made
        sidecars |= beside
        items += [
            FunctionCallOutput(
                id=f"o{each.id}",
                call_id=each.call_id,
                output="again",
                status="incomplete" if kind == "failed" else "completed",
            )
            for each in made
            if isinstance(each, FunctionCall)
        ]
    return dropped(items, sidecars, to.origin)


def tables() -> str:
    """The tables of all kinds, and what their names mean."""
    lines: list[str] = []
    met: set[str] = set()
    for kind, title in KINDS.items():
        lines += [f"### {title}", "", "| from \\ to | " + " | ".join(f"`{side.name}`" for side in SIDES) + " |"]
        lines.append("|---" * (len(SIDES) + 1) + "|")
        for by in SIDES:
            cells: list[str] = []
            for to in SIDES:
                lost = losses([by], to, kind)
                met |= {each.what for each in lost}
                cells.append(", ".join(f"`{each.what}`" for each in lost) or "-")
            lines.append(f"| `{by.name}` | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["### The names", "", "| name | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {WORDS[name]} |" for name in sorted(WORDS)]
    assert met <= set(WORDS)
    return "\n".join(lines) + "\n"


def main(arguments: list[str], page: Path = PAGE) -> int:
    """Write the tables, or with `--check` say whether they are up to date."""
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    if old.count(BEGIN) != 1 or old.find(END) < old.find(BEGIN):
        print(f"{page.name}: the two markers of the tables are not there:\n{BEGIN}\n{END}", file=sys.stderr)
        return 1
    before, _, rest = old.partition(BEGIN)
    new = f"{before}{BEGIN}\n\n{tables()}\n{END}{rest.partition(END)[2]}"
    if "--check" in arguments:
        if new == old:
            return 0
        print(f"{page.name}: the tables are out of date; run python scripts/switching_table.py", file=sys.stderr)
        return 1
    page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
