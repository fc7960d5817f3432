"""What the server counts about its requests, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from stateline.core.measures import Readings

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class RequestMetrics:
    """Requests by route, method and status, and how long they took.

    Routes are templates (``/v1/responses/{response_id}``), so the number of series is bounded.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.websockets = 0
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[str, list[float]] = {}

    def record(self, route: str, method: str, status: int, duration_s: float) -> None:
        key = (route, method, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        row = self._durations.get(route)
        if row is None:
            # One count a bucket, one for what is beyond, and the sum.
            row = self._durations[route] = [0.0] * (len(BUCKETS_S) + 2)
        row[bisect_left(BUCKETS_S, duration_s)] += 1
        row[-1] += duration_s

    def readings(self) -> Readings:
        """Requests by route, method and status, and those under way."""
        gauges = {"http_requests_in_flight": self.in_flight, "websockets_open": self.websockets}
        counters = {
            f'http_requests_total{{route="{route}",method="{method}",status="{status}"}}': count
            for (route, method, status), count in self._counts.items()
        }
        return Readings(gauges, counters)

    def text(self, gauges: Mapping[str, float], counters: Mapping[str, float]) -> str:
        """The exposition: present values, what was counted (``readings`` among them), and how long requests took.

        The name of a gauge or a counter may end in its labels, in braces.
        """
        lines = ["# TYPE stateline_http_request_duration_seconds histogram"]
        for route, row in sorted(self._durations.items()):
            lines += _histogram(route, row)
        lines += _series(gauges, "gauge")
        lines += _series(counters, "counter")
        return "\n".join(lines) + "\n"


def _series(values: Mapping[str, float], kind: str) -> list[str]:
    lines: list[str] = []
    typed = ""
    for name, value in sorted(values.items()):
        bare = name.partition("{")[0]
        if bare != typed:
            lines.append(f"# TYPE stateline_{bare} {kind}")
            typed = bare
        lines.append(f"stateline_{name} {value}")
    return lines


def _histogram(route: str, row: list[float]) -> list[str]:
    name = "stateline_http_request_duration_seconds"
    lines: list[str] = []
    total = 0
    for at, bound in enumerate(BUCKETS_S):
        total += int(row[at])
        lines.append(f'{name}_bucket{{route="{route}",le="{bound}"}} {total}')
    total += int(row[len(BUCKETS_S)])
    lines.append(f'{name}_bucket{{route="{route}",le="+Inf"}} {total}')
    lines.append(f'{name}_sum{{route="{route}"}} {row[-1]:.6f}')
    lines.append(f'{name}_count{{route="{route}"}} {total}')
    return lines
