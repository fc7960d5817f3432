"""What a bare model call did, as spans: one of the request, and one of each try of it. Pure.

Turns are told by their log (``spans``); a bare call is kept in none, so the relay keeps what it did until it ends.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stateline.core.calls import Finish, Usage
from stateline.core.ids import digest
from stateline.core.placing import Ruling
from stateline.core.spans import Span, Value, add_ruling, add_usage, provider_of, traced


class BareTry(msgspec.Struct, gc=False, kw_only=True):
    """One call of a deployment.

    Attributes:
        origin: whose answer it is (``core.origin``).
        began_ms, first_ms, ended_ms: Unix time; ``first_ms`` is 0 until something was said.
        ruling: the verdict on the deployment; None where there are no contracts.
        reason, usage, upstream_id, upstream_model: of its answer, once it has one.
        code: the stable code of what it failed with.
    """

    deployment: str
    origin: str
    began_ms: int
    ruling: Ruling | None = None
    first_ms: int = 0
    ended_ms: int = 0
    reason: str | None = None
    usage: Usage | None = None
    upstream_id: str | None = None
    upstream_model: str | None = None
    code: str | None = None

    def answered(self, finish: Finish, at_ms: int) -> None:
        """Keep what the last delta says, and nothing of the answer."""
        self.reason, self.usage = finish.reason, finish.usage
        self.upstream_id, self.upstream_model = finish.upstream_id, finish.upstream_model
        self.ended_ms = at_ms

    def failed(self, code: str, usage: Usage | None, at_ms: int) -> None:
        """Keep why it ended without an answer."""
        self.code, self.usage, self.ended_ms = code, usage, at_ms


class BareCall(msgspec.Struct, kw_only=True):
    """One request of the stateless plane.

    Attributes:
        key: its own, random.
        interface: as in ``CallFacts``.
        stream: it was asked to be answered piece by piece.
        traceparent: the caller's trace, as W3C writes it.
        tries: in their order.
        code: the stable code of what it failed with; ``cancelled``: the caller left.
    """

    key: str
    tenant: str
    interface: str
    model: str
    stream: bool
    traceparent: str
    began_ms: int
    ended_ms: int = 0
    first_ms: int = 0
    tries: list[BareTry] = msgspec.field(default_factory=list[BareTry])
    code: str | None = None

    @property
    def operation(self) -> str:
        """``gen_ai.operation.name``."""
        return "embeddings" if self.interface == "embeddings" else "chat"

    @property
    def trace(self) -> tuple[str, str]:
        """The trace that it is of, its caller's or its own, and its span."""
        caller = traced(self.traceparent)
        own = digest(b"call", self.key.encode())
        return (own if caller is None else caller[0], own[:16])


ObserveCall = Callable[[BareCall], None]
"""Told of a bare call that has ended; it must return at once, and raises nothing."""


def call_spans(call: BareCall) -> list[Span]:
    """A bare call that has ended: its tries, then the call itself."""
    trace_id, span_id = call.trace
    out = [_try(call, one, at, trace_id, span_id) for at, one in enumerate(call.tries, start=1)]
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": call.operation,
        "gen_ai.request.model": call.model,
        "stateline.interface": call.interface,
        "stateline.tenant": call.tenant,
        "stateline.tries": len(call.tries),
    }
    if call.tries:
        add_usage(attributes, call.tries[-1].usage)
    caller = traced(call.traceparent)
    span = Span(
        name="stateline.call",
        kind="server",
        trace_id=trace_id,
        span_id=span_id,
        parent_id="" if caller is None else caller[1],
        start_ms=call.began_ms,
        end_ms=call.ended_ms,
        attributes=attributes,
        first_ms=call.first_ms if call.stream else 0,
        error=call.code,
    )
    return [*out, span]


def _try(call: BareCall, one: BareTry, number: int, trace_id: str, parent_id: str) -> Span:
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": call.operation,
        "gen_ai.provider.name": provider_of(one.origin),
        "gen_ai.request.model": call.model,
        "stateline.deployment": one.deployment,
        "stateline.try": number,
    }
    add_ruling(attributes, one.ruling)
    add_usage(attributes, one.usage)
    if one.reason is not None:
        attributes["gen_ai.response.finish_reasons"] = (one.reason,)
    if one.upstream_model is not None:
        attributes["gen_ai.response.model"] = one.upstream_model
    if one.upstream_id is not None:
        attributes["gen_ai.response.id"] = one.upstream_id
    return Span(
        name=f"{call.operation} {call.model}",
        kind="client",
        trace_id=trace_id,
        span_id=digest(b"try", call.key.encode(), str(number).encode())[:16],
        parent_id=parent_id,
        start_ms=one.began_ms,
        end_ms=one.ended_ms or call.ended_ms,
        attributes=attributes,
        first_ms=one.first_ms if call.stream else 0,
        error=one.code,
    )
