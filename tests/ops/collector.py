"""A collector of OpenTelemetry's, in process: what it was sent over OTLP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from aiohttp import web


class Collector:
    """What came, decoded.

    Attributes:
        url: where it listens.
        spans: in the order in which they came.
        metrics: by name, as each was sent last.
        raw: every body as it came.
    """

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.raw: list[bytes] = []
        self._came = asyncio.Event()

    async def until(self, holds: Callable[[], object], timeout_s: float = 20.0) -> None:
        """Return once it holds, looking whenever something came."""
        async with asyncio.timeout(timeout_s):
            while not holds():
                self._came.clear()
                await self._came.wait()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The data points of a metric, each with its attributes."""
        metric = self.metrics[name]
        data = getattr(metric, metric.WhichOneof("data"))
        return [(told(point.attributes), point) for point in data.data_points]

    def counted(self, name: str, **wanted: str) -> float:
        """A counter's or a gauge's value, over the points that have these attributes; ``__`` stands for dots."""
        pairs = {key.replace("__", "."): value for key, value in wanted.items()}
        points = self.points(name) if name in self.metrics else []
        return sum(point.as_double or point.as_int for about, point in points if pairs.items() <= about.items())

    async def take(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        raw = await request.read()
        self.raw.append(raw)
        if request.path.endswith("/traces"):
            traces: Any = ExportTraceServiceRequest.FromString(raw)
            for group in traces.resource_spans:
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
        else:
            values: Any = ExportMetricsServiceRequest.FromString(raw)
            for group in values.resource_metrics:
                self.metrics |= {each.name: each for scope in group.scope_metrics for each in scope.metrics}
        self._came.set()
        return web.Response(body=b"", content_type="application/x-protobuf")


def told(attributes: Any) -> dict[str, Any]:
    """Attributes as they were set."""
    out: dict[str, Any] = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        out[each.key] = tuple(one.string_value for one in value.values) if kind == "array_value" else value
    return out


@contextlib.asynccontextmanager
async def collecting() -> AsyncGenerator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    app.router.add_post("/v1/metrics", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()
