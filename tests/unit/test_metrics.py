"""The text that Prometheus reads."""

from __future__ import annotations

from stateline.api.metrics import RequestMetrics


def test_gauges_with_labels_share_the_line_that_says_what_they_are() -> None:
    gauges = {'calls{deployment="b"}': 2.0, 'calls{deployment="a"}': 1.0, "turns": 3.0}
    lines = RequestMetrics().text(gauges, {}).splitlines()
    assert [line for line in lines if "calls" in line or "turns" in line] == [
        "# TYPE stateline_calls gauge",
        'stateline_calls{deployment="a"} 1.0',
        'stateline_calls{deployment="b"} 2.0',
        "# TYPE stateline_turns gauge",
        "stateline_turns 3.0",
    ]


def test_counters_are_said_to_be_counters() -> None:
    lines = RequestMetrics().text({}, {'verdicts_total{clause="c/x"}': 3}).splitlines()
    assert lines[-2:] == ["# TYPE stateline_verdicts_total counter", 'stateline_verdicts_total{clause="c/x"} 3']


def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = RequestMetrics()
    metrics.record("/v1/models", "GET", 200, 0.02)
    metrics.record("/v1/models", "GET", 200, 400.0)
    readings = metrics.readings()
    assert readings.counters == {'http_requests_total{route="/v1/models",method="GET",status="200"}': 2}
    assert readings.gauges == {"http_requests_in_flight": 0, "websockets_open": 0}
    text = metrics.text(readings.gauges, readings.counters)
    assert 'stateline_http_requests_total{route="/v1/models",method="GET",status="200"} 2\n' in text
    assert 'stateline_http_request_duration_seconds_bucket{route="/v1/models",le="0.025"} 1\n' in text
    assert 'stateline_http_request_duration_seconds_count{route="/v1/models"} 2\n' in text
