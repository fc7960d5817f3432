"""What is known of a model, whoever serves it. A fact that is not known is absent, and nothing follows from it."""

from __future__ import annotations

from typing import Literal

import msgspec

Modality = Literal["text", "image", "pdf", "audio", "video"]


class ModelFacts(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One model.

    Attributes:
        aliases: other names of the same model.
        input: what it takes. What is not in it, it does not take.
        tools, reasoning: whether it calls tools, and thinks before it answers; None: not known.
        input_tokens, output_tokens: the most of each in one call.
        service_tiers: tiers beyond the default.
        regions: where it is offered; empty: not known.
        source, read: whose word this is, and the day on which it was read (ISO 8601).
    """

    name: str
    vendor: str = ""
    aliases: tuple[str, ...] = ()
    input: tuple[Modality, ...] = ("text",)
    tools: bool | None = None
    reasoning: bool | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    service_tiers: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    source: str = ""
    read: str = ""

    @property
    def lacks(self) -> frozenset[str]:
        """What it is known not to take, of what placement looks at: ``images``, ``tools``."""
        lacking = {"images"} if "image" not in self.input else set[str]()
        if self.tools is False:
            lacking.add("tools")
        return frozenset(lacking)
