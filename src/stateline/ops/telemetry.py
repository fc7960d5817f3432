"""Spans of what turns did, sent to an OpenTelemetry collector (OTLP over HTTP), in batches and beside the work.

What cannot be sent is dropped and counted: a collector that is away holds nothing up, and the log has it all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from stateline.config import ConfigError, Telemetry
from stateline.config.secrets import from_environ
from stateline.core.events import Event
from stateline.core.limits import TELEMETRY_BATCH_MAX, TELEMETRY_EVERY_S, TELEMETRY_SPANS_MAX, TELEMETRY_TIMEOUT_S
from stateline.core.session import Session
from stateline.core.spans import Span, spans_of
from stateline.ports import Observe

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("stateline")


class Traced(Protocol):
    """The node that is observed."""

    def trace(self, observe: Observe) -> None: ...


class Tracing:
    """What a node's sessions record, as spans on their way to a collector.

    Attributes:
        dropped: spans that were not sent.
    """

    def __init__(self, exporter: SpanExporter, *, service_name: str, version: str, content: bool = False) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self.dropped = 0
        self._exporter = exporter
        self._resource = Resource.create({"service.name": service_name, "service.version": version})
        self._scope = InstrumentationScope("stateline", version)
        self._content = content
        self._waiting: deque[Span] = deque()
        self._complained = False

    def observe(self, before: Session, events: Sequence[Event]) -> None:
        """See ``ports.Observe``."""
        try:
            spans = spans_of(before, events, content=self._content)
        except Exception:
            # A span that cannot be made must not cost a turn.
            log.exception("spans of session %s cannot be made", before.ref.id)
            return
        for span in spans:
            if len(self._waiting) >= TELEMETRY_SPANS_MAX:
                self.dropped += 1
            else:
                self._waiting.append(span)

    async def keep(self, node: Traced) -> None:
        """Have a node tell what it records, and send what waits, every so often, for ever."""
        node.trace(self.observe)
        while True:
            await asyncio.sleep(TELEMETRY_EVERY_S)
            await self.flush()

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
            kind=SpanKind.CLIENT if span.kind == "client" else SpanKind.INTERNAL,
            status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.start_ms * 1_000_000,
            end_time=span.end_ms * 1_000_000,
            instrumentation_scope=self._scope,
        )


def tracing_of(telemetry: Telemetry, environ: Mapping[str, str], version: str) -> Tracing | None:
    """The configured tracing; None where none is.

    Raises:
        ConfigError: the SDK is not installed, or a secret is not where the configuration says.
    """
    if telemetry.endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(
            "config_invalid", "telemetry.endpoint is set, and OpenTelemetry is not installed", "install stateline[otel]"
        ) from None
    headers = {
        name: from_environ(environ, variable, "telemetry", "headers_env")
        for name, variable in telemetry.headers_env.items()
    }
    endpoint = telemetry.endpoint.rstrip("/")
    exporter = OTLPSpanExporter(
        endpoint=endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces",
        headers=headers,
        timeout=TELEMETRY_TIMEOUT_S,
    )
    return Tracing(exporter, service_name=telemetry.service_name, version=version, content=telemetry.content)
