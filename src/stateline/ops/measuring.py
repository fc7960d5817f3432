"""Metrics on their way to an OpenTelemetry collector: what spans measure, and what ``/metrics`` shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from stateline.core.limits import TELEMETRY_READ_S, TELEMETRY_SERIES_MAX, TELEMETRY_TIMEOUT_S
from stateline.core.measures import HISTOGRAMS, SHOWN, Readings, bare_name, labels_of, measures_of
from stateline.core.spans import Span

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics.export import MetricExporter

log = logging.getLogger("stateline")

_OVERFLOW = {"otel.metric.overflow": True}


class Measured(Protocol):
    """The engine whose counts are told."""

    def readings(self, *, budgets: bool = True) -> Coroutine[Any, Any, Readings]: ...


class Measuring:
    """Instruments of the official SDK, which sends them every OTEL_METRIC_EXPORT_INTERVAL (default a minute).

    Each has at most TELEMETRY_SERIES_MAX sets of attributes; whatever comes beyond is counted under
    ``otel.metric.overflow``, as OpenTelemetry has it.
    """

    def __init__(self, exporter: MetricExporter, *, service_name: str, version: str) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource

        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(exporter, export_timeout_millis=TELEMETRY_TIMEOUT_S * 1000)],
            Resource.create({"service.name": service_name, "service.version": version}),
            shutdown_on_exit=False,
        )
        meter = self._provider.get_meter("stateline", version)
        self._known: dict[str, set[tuple[tuple[str, str], ...]]] = {name: set() for name in HISTOGRAMS}
        self._histograms = {
            name: meter.create_histogram(name, each.unit, each.about, explicit_bucket_boundaries_advisory=each.bounds)
            for name, each in HISTOGRAMS.items()
        }
        self._engine: tuple[Measured, asyncio.AbstractEventLoop] | None = None
        self._closing = False
        self._shown: dict[str, list[tuple[float, dict[str, str]]]] = {}
        self._read_s = -TELEMETRY_READ_S
        for name, each in SHOWN.items():
            create = meter.create_observable_gauge if each.kind == "gauge" else meter.create_observable_counter
            create(each.name, [partial(self._observed, name)], each.unit, f"stateline_{name} of /metrics.")

    def record(self, spans: Iterable[Span]) -> None:
        """Measure what has ended."""
        for span in spans:
            for measure in measures_of(span):
                attributes = self._bounded(measure.name, measure.attributes)
                self._histograms[measure.name].record(measure.value, attributes)

    def _bounded(self, name: str, attributes: Mapping[str, str]) -> Mapping[str, str | bool]:
        """The attributes, if the instrument may have one more set of them."""
        known, key = self._known[name], tuple(attributes.items())
        if key not in known:
            if len(known) >= TELEMETRY_SERIES_MAX:
                return _OVERFLOW
            known.add(key)
        return attributes

    # -- what /metrics shows ---------------------------------------------------------------------------

    def read_from(self, engine: Measured) -> None:
        """Tell what this engine counts, which is asked on the running loop whenever metrics are sent."""
        self._engine = (engine, asyncio.get_running_loop())

    def _observed(self, name: str, _: CallbackOptions) -> Sequence[Observation]:
        """The values of one instrument; called on the SDK's thread."""
        from opentelemetry.metrics import Observation

        if monotonic() - self._read_s > TELEMETRY_READ_S:
            self._read()
            self._read_s = monotonic()
        values = self._shown.get(name, ())
        return [Observation(value, attributes) for value, attributes in values[:TELEMETRY_SERIES_MAX]]

    def _read(self) -> None:
        """Ask the engine; where it does not answer in time, what it said before stands."""
        if self._engine is None:
            return
        engine, loop = self._engine
        reading = engine.readings(budgets=not self._closing)
        future = None
        try:
            future = asyncio.run_coroutine_threadsafe(reading, loop)
            found = future.result(TELEMETRY_TIMEOUT_S)
        except Exception as error:
            if future is None:
                reading.close()
            else:
                future.cancel()
            log.warning("what /metrics shows cannot be told to the collector: %s", type(error).__name__)
            return
        shown: dict[str, list[tuple[float, dict[str, str]]]] = {}
        for series, value in (*found.gauges.items(), *found.counters.items()):
            shown.setdefault(bare_name(series), []).append((value, labels_of(series)))
        if self._closing:
            # The store is closed: what budgets stood at last is what is known.
            shown = {name: values for name, values in self._shown.items() if name.startswith("budget_")} | shown
        self._shown = shown

    async def close(self) -> None:
        """Send what was measured, within TELEMETRY_TIMEOUT_S."""
        self._closing = True
        self._read_s = -TELEMETRY_READ_S
        await asyncio.to_thread(self._provider.shutdown, TELEMETRY_TIMEOUT_S * 1000)
