"""What turns and bare calls did, told to an OpenTelemetry collector (OTLP over HTTP) as spans and as metrics.

Both are made beside the work and sent in batches. What cannot be sent is dropped and counted: a collector that is
away holds nothing up, and the log has it all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from stateline.config import ConfigError
from stateline.config import Telemetry as Settings
from stateline.config.secrets import from_environ
from stateline.core import events as e
from stateline.core.call_spans import BareCall, ObserveCall, call_spans
from stateline.core.limits import (
    TELEMETRY_BATCH_MAX,
    TELEMETRY_BEGUN_MAX,
    TELEMETRY_EVERY_S,
    TELEMETRY_SPANS_MAX,
    TELEMETRY_TIMEOUT_S,
)
from stateline.core.measures import Readings
from stateline.core.session import Session
from stateline.core.spans import Begun, Span, StepKey, spans_of
from stateline.ops.measuring import Measured, Measuring
from stateline.ports import Observe

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("stateline")


class Observed(Measured, Protocol):
    """The engine that is observed."""

    def trace(self, observe: Observe, observe_call: ObserveCall | None = None) -> None: ...

    def show(self, source: Callable[[], Readings]) -> None: ...


class Telemetry:
    """Makes spans of what is recorded, and gives them to whoever wants them.

    Args:
        tracing: sends them; None: nobody does.
        measuring: measures them; None: nobody does.
        content: whether texts, arguments and outputs are told.

    Attributes:
        dropped: turns, calls and tools of which no span was made, for want of room.
    """

    def __init__(
        self, *, tracing: Tracing | None = None, measuring: Measuring | None = None, content: bool = False
    ) -> None:
        self.tracing = tracing
        self.measuring = measuring
        self.dropped = 0
        self._content = content
        self._ended: deque[Span | BareCall] = deque()
        self._begun: dict[StepKey, Begun] = {}
        self._sending: asyncio.Task[None] | None = None

    # -- on the way of the work ------------------------------------------------------------------------

    def observe(self, before: Session, events: Sequence[e.Event]) -> None:
        """See ``ports.Observe``."""
        try:
            for event in events:
                self._note(event.session.id, event.body, event.at_ms)
            for span in spans_of(before, events, content=self._content, begun=self._begun):
                self._take(span)
            self._forget(before, events)
        except Exception:
            # A span that cannot be made must not cost a turn.
            log.exception("spans of session %s cannot be made", before.ref.id)

    def observe_call(self, call: BareCall) -> None:
        """See ``core.call_spans.ObserveCall``; its spans are made later."""
        self._take(call)

    def _take(self, ended: Span | BareCall) -> None:
        if len(self._ended) >= TELEMETRY_SPANS_MAX:
            self.dropped += 1
        else:
            self._ended.append(ended)

    def _note(self, session: str, body: e.Body, at_ms: int) -> None:
        """Keep what the fold does not keep until the end."""
        if type(body) is e.Chunk:
            for key in (StepKey(session, body.turn, body.step), StepKey(session, body.turn, 0)):
                begun = self._begun.get(key)
                if begun is None or not begun.first_ms:
                    self._begun[key] = (begun or Begun())._replace(first_ms=at_ms)
        elif type(body) is e.ModelCallStarted and body.verdict is not None:
            self._begun[StepKey(session, body.turn, body.step)] = Begun(ruling=body.verdict)
        while len(self._begun) > TELEMETRY_BEGUN_MAX:
            del self._begun[next(iter(self._begun))]

    def _forget(self, before: Session, events: Sequence[e.Event]) -> None:
        for event in events:
            body = event.body
            if type(body) is e.ModelCallFinished or type(body) is e.ModelCallFailed:
                self._begun.pop(StepKey(before.ref.id, body.turn, body.step), None)
            elif type(body) in e.TERMINAL:
                turn = before.turns + 1 if before.turn is None else before.turn.number_in_session
                self._begun.pop(StepKey(before.ref.id, turn, 0), None)

    # -- beside it -----------------------------------------------------------------------------------------

    async def keep(self, engine: Observed) -> None:
        """Have an engine tell what it does, and pass that on every so often, for ever."""
        if self.measuring is not None:
            self.measuring.read_from(engine)
        engine.show(self.counts)
        engine.trace(self.observe, self.observe_call)
        while True:
            await asyncio.sleep(TELEMETRY_EVERY_S)
            await self.collect()
            # A collector that takes its time must not hold up what is measured.
            if self.tracing is not None and (self._sending is None or self._sending.done()):
                self._sending = asyncio.get_running_loop().create_task(self.tracing.flush())

    async def collect(self) -> None:
        """Make spans of what has ended, measure them, and leave them to be sent."""
        if self._ended:
            ended, self._ended = self._ended, deque()
            await asyncio.to_thread(self._spread, ended)

    def _spread(self, ended: deque[Span | BareCall]) -> None:
        try:
            spans = [span for one in ended for span in ([one] if isinstance(one, Span) else call_spans(one))]
            if self.measuring is not None:
                self.measuring.record(spans)
            if self.tracing is not None:
                self.tracing.take(spans)
        except Exception:
            log.exception("%d ended operations cannot be told to the collector", len(ended))

    def counts(self) -> Readings:
        """What was dropped, for /metrics: for want of room, or since the collector did not take it."""
        dropped = self.dropped + (0 if self.tracing is None else self.tracing.dropped)
        return Readings({}, {"telemetry_dropped_total": dropped})

    async def close(self) -> None:
        """Send what waits, within TELEMETRY_TIMEOUT_S each."""
        await self.collect()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=TELEMETRY_TIMEOUT_S)
        if self.tracing is not None:
            await self.tracing.close()
        if self.measuring is not None:
            await self.measuring.close()


class Tracing:
    """Spans on their way to a collector.

    Attributes:
        dropped: spans that were not sent.
    """

    def __init__(self, exporter: SpanExporter, *, service_name: str, version: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self.dropped = 0
        self._exporter = exporter
        self._resource = Resource.create({"service.name": service_name, "service.version": version})
        self._scope = InstrumentationScope("stateline", version)
        self._waiting: deque[Span] = deque()
        self._complained = False

    def take(self, spans: Sequence[Span]) -> None:
        """Let them wait to be sent, as far as there is room."""
        room = max(0, TELEMETRY_SPANS_MAX - len(self._waiting))
        self._waiting.extend(spans[:room])
        self.dropped += len(spans[room:])

    async def flush(self) -> None:
        """Send what waits."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), TELEMETRY_BATCH_MAX))]
            if not await asyncio.to_thread(self._send, batch):
                self.dropped += len(batch)
                if not self._complained:
                    log.warning("traces cannot be sent to the collector; they are dropped until it answers")
                self._complained = True
                return
            self._complained = False

    async def close(self) -> None:
        """Send what waits, within TELEMETRY_TIMEOUT_S."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELEMETRY_TIMEOUT_S):
                await self.flush()
        await asyncio.to_thread(self._exporter.shutdown)

    def _send(self, batch: Sequence[Span]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            return self._exporter.export([self._readable(span) for span in batch]) is SpanExportResult.SUCCESS
        except Exception:
            log.exception("traces cannot be sent")
            return False

    def _readable(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(span_id: str, *, remote: bool) -> SpanContext:
            return SpanContext(int(span.trace_id, 16), int(span_id, 16), is_remote=remote, trace_flags=TraceFlags(1))

        attributes = dict(span.attributes)
        if span.error is not None:
            attributes["error.type"] = span.error
        return ReadableSpan(
            name=span.name,
            context=context(span.span_id, remote=False),
            parent=context(span.parent_id, remote=True) if span.parent_id else None,
            resource=self._resource,
            attributes=attributes,
            kind=SpanKind[span.kind.upper()],
            status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.start_ms * 1_000_000,
            end_time=span.end_ms * 1_000_000,
            instrumentation_scope=self._scope,
        )


def telemetry_of(settings: Settings, environ: Mapping[str, str], version: str) -> Telemetry | None:
    """The configured telemetry; None where there is none.

    What the configuration leaves open OpenTelemetry's own variables say, such as OTEL_METRIC_EXPORT_INTERVAL and
    OTEL_RESOURCE_ATTRIBUTES.

    Raises:
        ConfigError: the SDK is not installed, or a secret is not where the configuration says.
    """
    if settings.endpoint is None or not (settings.traces or settings.metrics):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(
            "config_invalid", "telemetry.endpoint is set, and OpenTelemetry is not installed", "install stateline[otel]"
        ) from None
    headers = {
        name: from_environ(environ, variable, "telemetry", "headers_env")
        for name, variable in settings.headers_env.items()
    }
    base = settings.endpoint.rstrip("/").removesuffix("/v1/traces").removesuffix("/v1/metrics")
    name, tracing, measuring = settings.service_name, None, None
    if settings.traces:
        spans = OTLPSpanExporter(endpoint=f"{base}/v1/traces", headers=headers, timeout=TELEMETRY_TIMEOUT_S)
        tracing = Tracing(spans, service_name=name, version=version)
    if settings.metrics:
        values = OTLPMetricExporter(endpoint=f"{base}/v1/metrics", headers=headers, timeout=TELEMETRY_TIMEOUT_S)
        measuring = Measuring(values, service_name=name, version=version)
    return Telemetry(tracing=tracing, measuring=measuring, content=settings.content)
