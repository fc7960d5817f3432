"""Deltas as their reader sees them: how a text is divided among them says nothing."""

from __future__ import annotations

from collections.abc import Iterable

from stateline.core.calls import ModelDelta, TextDelta


def whole_texts(deltas: Iterable[ModelDelta]) -> list[ModelDelta]:
    """The same, with texts that follow each other as one."""
    out: list[ModelDelta] = []
    for delta in deltas:
        last = out[-1] if out else None
        if isinstance(delta, TextDelta) and isinstance(last, TextDelta) and not (delta.logprobs or last.logprobs):
            out[-1] = TextDelta(last.text + delta.text)
        else:
            out.append(delta)
    return out
