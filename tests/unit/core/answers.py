"""Hypothesis strategies: what a model may say, as deltas."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import strategies as st

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
    Usage,
)
from stateline.core.items import UrlCitation

TEXTS = st.text(max_size=5)
LOGPROBS = st.none() | st.lists(
    st.fixed_dictionaries(
        {
            "token": TEXTS,
            "logprob": st.floats(-9, 0),
            "bytes": st.just([1]),
            "top_logprobs": st.just([]),
        }
    ),
    max_size=2,
)
NOTES = st.builds(UrlCitation, url=TEXTS, start_index=st.integers(0, 3), end_index=st.integers(4, 9), title=TEXTS)
USAGES = st.none() | st.builds(
    Usage,
    input_tokens=st.integers(0, 50),
    output_tokens=st.integers(0, 50),
    cached_tokens=st.integers(0, 9),
    reasoning_tokens=st.integers(0, 9),
)
FINISHES = st.builds(
    Finish,
    reason=st.sampled_from(["stop", "stop", "stop", "tool_calls", "length", "content_filter"]),
    usage=USAGES,
    upstream_id=st.none() | TEXTS,
    upstream_model=st.none() | TEXTS,
    service_tier=st.sampled_from([None, "default", "flex"]),
)


def _text_part(draw: st.DrawFn) -> list[ModelDelta]:
    out: list[ModelDelta] = [
        TextDelta(text, logprobs)
        for text, logprobs in draw(st.lists(st.tuples(TEXTS, LOGPROBS), min_size=1, max_size=4))
    ]
    out += [AnnotationDelta(note) for note in draw(st.lists(NOTES, max_size=2))]
    return out


def _parts(draw: st.DrawFn, kinds: list[type]) -> Iterable[list[ModelDelta]]:
    previous: type | None = None
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=3)):
        part: list[ModelDelta] = [PartStart()] if kind is previous or draw(st.booleans()) else []
        if kind is TextDelta:
            part += _text_part(draw)
        else:
            part += [kind(text) for text in draw(st.lists(TEXTS, min_size=1, max_size=3))]
        previous = kind
        yield part


_STARTS: list[list[ModelDelta]] = [
    [],
    [ItemStart("message")],
    [ItemStart("message", "commentary")],
    [ItemStart("message", "final_answer")],
]


@st.composite
def _messages(draw: st.DrawFn) -> list[ModelDelta]:
    start = draw(st.sampled_from(_STARTS))
    return list(itertools.chain(start, *_parts(draw, [TextDelta, RefusalDelta])))


@st.composite
def _reasonings(draw: st.DrawFn) -> list[ModelDelta]:
    out: list[ModelDelta] = [ItemStart("reasoning")] if draw(st.booleans()) else []
    out += list(itertools.chain(*_parts(draw, [ReasoningDelta, SummaryDelta])))
    if draw(st.booleans()):
        out.append(SidecarDelta({"encrypted_content": draw(TEXTS), "id": "rs_upstream"}))
    return out


_serial = itertools.count()


@st.composite
def _calls(draw: st.DrawFn) -> list[ModelDelta]:
    """One call, or some side by side whose arguments come interleaved."""
    count = draw(st.integers(1, 3))
    base = next(_serial) * 10  # The builder tells the calls of one answer apart by index.
    out: list[ModelDelta] = []
    begun = 0
    for piece in draw(st.lists(st.integers(-1, count - 1), max_size=8)):
        if piece >= begun or (piece < 0 and begun < count):
            out.append(CallStart(base + begun, f"call_{base}_{begun}", "f"))
            begun += 1
        elif piece >= 0:
            out.append(CallDelta(base + piece, draw(TEXTS)))
    return out


@st.composite
def saids(draw: st.DrawFn) -> list[ModelDelta]:
    """A well-formed answer without its finish."""
    segments = draw(st.lists(st.one_of(_messages(), _reasonings(), _calls()), max_size=4))
    out = list(itertools.chain(*segments))
    if draw(st.booleans()):
        out.insert(draw(st.integers(0, len(out))), SidecarDelta({"signature": draw(TEXTS)}))
    return out


ANY_DELTA: st.SearchStrategy[ModelDelta] = st.one_of(
    st.builds(TextDelta, TEXTS, LOGPROBS),
    st.builds(RefusalDelta, TEXTS),
    st.builds(ReasoningDelta, TEXTS),
    st.builds(SummaryDelta, TEXTS),
    st.builds(AnnotationDelta, NOTES),
    st.builds(CallStart, st.integers(0, 2), st.just("call"), st.just("f")),
    st.builds(CallDelta, st.integers(0, 2), TEXTS),
    st.builds(SidecarDelta, st.dictionaries(st.sampled_from(["a", "encrypted_content"]), TEXTS, max_size=2)),
    st.builds(ItemStart, st.sampled_from(["message", "reasoning"])),
    st.just(PartStart()),
    FINISHES,
)
"""Any delta at any place: a provider may send what it likes."""
