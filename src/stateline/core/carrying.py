"""What of a context a model gets back, and what it does not.

What a provider gave beside an item goes back to its origin alone (`core.origin`). Formats ask here what goes
back, and the log's `ModelCallStarted.dropped` names what does not, so the two cannot differ. Annotations and
log probabilities of earlier answers are output, no context: no format takes them, and they are not named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import UNSET

from stateline.core.items import (
    REDACTED,
    SIGNATURE,
    Content,
    FunctionCallOutput,
    InputImage,
    Item,
    Message,
    ModelItem,
    Reasoning,
    Sidecar,
)

What = Literal[
    "encrypted_reasoning",
    "image_detail",
    "output_status",
    "phase",
    "provider_id",
    "reasoning",
    "redacted_reasoning",
    "signature",
    "thought_signature",
]

WORDS: dict[What, str] = {
    "encrypted_reasoning": "reasoning that its provider encrypted",
    "image_detail": "the wish for more or less detail of an image",
    "output_status": "that a tool's output is incomplete, or an error",
    "phase": "whether a message was commentary or the final answer",
    "provider_id": "a provider's own id of an item",
    "reasoning": "the text of a reasoning item, or its summary",
    "redacted_reasoning": "reasoning that Claude redacted",
    "signature": "Claude's signature of its reasoning",
    "thought_signature": "Gemini's signature of a thought, a text or a call",
}
"""What each name means."""

NAMES: dict[str, What | None] = {
    "id": "provider_id",
    "call_id": None,
    "thought_signature": "thought_signature",
    "signed_from": None,
    "signed_to": None,
}
"""By the keys of sidecars, ``encrypted_content`` aside; None for what only says where
another belongs, and for the id of a call, which is the item's own as well."""

MIXED = "*"
"""Among the origins of a context: it holds something that some formats drop wherever it came from."""

_DETAILED = ("openai-chat", "openai-responses")
_SEALS_ON_BEDROCK = ("claude", "gpt")
_TAKES_STATUS = ("anthropic-messages", "openai-responses", "gemini")
_TAKES_STATUS_ON_BEDROCK = ("bedrock-converse/aws/claude", "bedrock-converse/aws/nova")
_SEALS: dict[str, What] = {SIGNATURE: "signature", REDACTED: "redacted_reasoning"}
_NOTHING: Mapping[str, Any] = {}


class Dropped(NamedTuple):
    """What a call does not get of its context, and in how many items."""

    what: What
    items: int


def own(item: ModelItem, sidecars: Mapping[str, Sidecar], origin: str) -> Mapping[str, Any]:
    """What this origin gave beside the item."""
    sidecar = sidecars.get(item.id)
    return sidecar.data if sidecar is not None and sidecar.origin == origin else _NOTHING


def sealed(item: Reasoning, sidecars: Mapping[str, Sidecar], origin: str) -> str | None:
    """The encrypted content that goes back to ``origin`` with a reasoning item; None where none does.

    A reasoning item without a sidecar came from the client, who vouches for it. Its content goes where it
    can have come from: Claude's begins with a word that tells it from all others.
    """
    vouched = item.id not in sidecars
    secret: object = item.encrypted_content if vouched else own(item, sidecars, origin).get("encrypted_content")
    if not isinstance(secret, str):
        return None
    claudes = secret.startswith((SIGNATURE, REDACTED))
    wire, _, rest = origin.partition("/")
    if wire == "openai-responses":
        return None if vouched and claudes else secret
    if vouched and wire == "bedrock-converse" and rest.partition("/")[2] not in _SEALS_ON_BEDROCK:
        return None
    return secret if claudes and wire in ("anthropic-messages", "bedrock-converse") else None


def thought_back(item: Reasoning, sidecars: Mapping[str, Sidecar], origin: str) -> bool:
    """Whether a reasoning item goes back to ``origin``."""
    if sealed(item, sidecars, origin):
        return True
    given = own(item, sidecars, origin)
    if origin.startswith("gemini/"):
        return isinstance(given.get("thought_signature"), str)
    # An open model's reasoning is plain text, and goes back as such.
    return origin.startswith("openai-responses/") and bool(given) and bool(item.content)


def takes_status(origin: str) -> bool:
    """Whether a tool's output says there that it is incomplete, or an error.

    Chat Completions has no place for it. Bedrock's ``toolResult.status`` is for Claude and Nova alone:
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolResultBlock.html.
    """
    return origin.partition("/")[0] in _TAKES_STATUS or origin in _TAKES_STATUS_ON_BEDROCK


def origins_of(items: Iterable[Item], sidecars: Mapping[str, Sidecar]) -> frozenset[str]:
    """Whose sidecars are there, with ``MIXED`` where a look at the items is needed.

    A context whose only origin is a call's own drops nothing there.
    """
    found = {sidecar.origin for sidecar in sidecars.values()}
    if any(_marked(item, sidecars) for item in items):
        found.add(MIXED)
    return frozenset(found)


def _marked(item: Item, sidecars: Mapping[str, Sidecar]) -> bool:
    if type(item) is Message:
        return item.phase is not UNSET or _detailed(item.content)
    if type(item) is FunctionCallOutput:
        return item.status == "incomplete" or (not isinstance(item.output, str) and _detailed(item.output))
    if type(item) is Reasoning:
        sidecar = sidecars.get(item.id)
        return sidecar is None or not thought_back(item, sidecars, sidecar.origin)
    return False


def dropped(items: Sequence[ModelItem], sidecars: Mapping[str, Sidecar], origin: str) -> tuple[Dropped, ...]:
    """What a call to ``origin`` does not get of these items, by name, each with the items that it counts."""
    if not sidecars and not any(_marked(item, sidecars) for item in items):
        return ()  # What most calls bring.
    counts: dict[What, int] = {}
    wire = origin.partition("/")[0]
    bare = False
    for item in items:
        lost: set[What] = set()
        match item:
            case Reasoning():
                back = thought_back(item, sidecars, origin)
                lost = set() if back else _thought(item, sidecars)
                # Items with their provider's ids ask for the reasoning before them, so those go as well.
                bare = wire == "openai-responses" and (bare or not back)
            case Message():
                bare = bare and item.role == "assistant"
                lost = _foreign(item, sidecars, origin, bare=bare)
                if isinstance(item.phase, str) and wire != "openai-responses":
                    lost.add("phase")
                if wire not in _DETAILED and _detailed(item.content):
                    lost.add("image_detail")
            case FunctionCallOutput():
                bare = False
                if item.status == "incomplete" and not takes_status(origin):
                    lost.add("output_status")
                if wire not in _DETAILED and not isinstance(item.output, str) and _detailed(item.output):
                    lost.add("image_detail")
            case _:
                lost = _foreign(item, sidecars, origin, bare=bare)
        for what in lost:
            counts[what] = counts.get(what, 0) + 1
    return tuple(Dropped(what, counts[what]) for what in sorted(counts))


def _foreign(item: ModelItem, sidecars: Mapping[str, Sidecar], origin: str, *, bare: bool) -> set[What]:
    """The names of what stays behind with an item that itself goes."""
    sidecar = sidecars.get(item.id)
    if sidecar is None or (sidecar.origin == origin and not bare):
        return set()
    return _names(sidecar.data)


def _thought(item: Reasoning, sidecars: Mapping[str, Sidecar]) -> set[What]:
    """The names of what a reasoning item holds."""
    sidecar = sidecars.get(item.id)
    lost = _names({"encrypted_content": item.encrypted_content} if sidecar is None else sidecar.data)
    if item.summary or item.content:
        lost.add("reasoning")
    return lost


def _names(data: Mapping[str, Any]) -> set[What]:
    names: set[What] = {name for key in data if (name := NAMES.get(key)) is not None}
    secret = data.get("encrypted_content")
    if isinstance(secret, str):
        sealed: list[What] = [name for word, name in _SEALS.items() if secret.startswith(word)]
        names.add(sealed[0] if sealed else "encrypted_reasoning")
    return names


def _detailed(parts: Iterable[Content]) -> bool:
    return any(type(part) is InputImage and part.detail != "auto" for part in parts)
