"""The text that Prometheus reads."""

from __future__ import annotations

from stateline.api.metrics import RequestMetrics


def test_gauges_with_labels_share_the_line_that_says_what_they_are() -> None:
    gauges = {'calls{deployment="b"}': 2.0, 'calls{deployment="a"}': 1.0, "turns": 3.0}
    lines = RequestMetrics().text({}, gauges).splitlines()
    assert [line for line in lines if "calls" in line or "turns" in line] == [
        "# TYPE stateline_calls gauge",
        'stateline_calls{deployment="a"} 1.0',
        'stateline_calls{deployment="b"} 2.0',
        "# TYPE stateline_turns gauge",
        "stateline_turns 3.0",
    ]


def test_counters_are_said_to_be_counters() -> None:
    lines = RequestMetrics().text({}, {}, {'verdicts_total{clause="c/x"}': 3}).splitlines()
    assert lines[-2:] == ["# TYPE stateline_verdicts_total counter", 'stateline_verdicts_total{clause="c/x"} 3']
