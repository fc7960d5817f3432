"""Items for a format that wants the answers to calls right behind the calls."""

from __future__ import annotations

from stateline.core.items import (
    Content,
    FunctionCall,
    FunctionCallOutput,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Refusal,
)
from stateline.models.formats.openai_shared import refused


class BehindCalls:
    """Takes items in their order; what stands between a call and its answers comes behind those.

    Attributes:
        system: what the system and the developer say, in order: it has one place, wherever it stood.
    """

    def __init__(self, wire: str) -> None:
        self.system: list[str] = []
        self._wire = wire
        self._held: list[ModelItem] = []
        self._unanswered: set[str] = set()

    def take(self, item: ModelItem) -> None:
        """The next item. What stands between a call and its answers is held back until they are there."""
        match item:
            case FunctionCall():
                if self._held:
                    # Calls begin anew while others are not answered: those never will be.
                    self._release()
                self._unanswered.add(item.call_id)
                self._call(item)
            case FunctionCallOutput():
                self._answer(item)
                self._unanswered.discard(item.call_id)
                if not self._unanswered:
                    self._release()
            case Message(role="system" | "developer"):
                self.system += [self._plain(part) for part in item.content]
            case _ if self._unanswered:
                self._held.append(item)
            case _:
                self._add(item)

    def _release(self) -> None:
        self._unanswered.clear()
        held, self._held = self._held, []
        for item in held:
            self._add(item)

    def _plain(self, part: Content) -> str:
        match part:
            case InputText() | OutputText():
                return part.text
            case Refusal():
                # The format knows no refusals; it is what the assistant said.
                return part.refusal
            case _:
                raise refused("input", f"A {part.__struct_config__.tag} part in this place", self._wire)

    def _call(self, item: FunctionCall) -> None:
        raise NotImplementedError

    def _answer(self, item: FunctionCallOutput) -> None:
        raise NotImplementedError

    def _add(self, item: ModelItem) -> None:
        raise NotImplementedError
