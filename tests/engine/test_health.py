"""What calls tell of a deployment, and what follows for the next ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.errors import Blame, ModelError
from stateline.core.limits import (
    CIRCUIT_CALLS_MIN,
    CIRCUIT_COOL_MS_BASE,
    CIRCUIT_COOL_MS_MAX,
    CIRCUIT_ERROR_RATE,
    CIRCUIT_FAILURES_IN_ROW,
    CIRCUIT_PROBE_MS,
    CIRCUIT_WINDOW_MS,
    RATE_LIMITED_MS,
    RETRY_AFTER_MS_MAX,
)
from stateline.core.placing import Standing
from stateline.engine.health import Bucket, Monitor, Outcome, Permit, movable, outcome_of
from stateline.ports import Deployment

START_MS = 1_700_000_000_000


def deployment(**fields: object) -> Deployment:
    shape = {"name": "d", "model": "m", "cloud": "openai", "format": "openai-chat", "base_url": ""}
    return Deployment(**(shape | {"upstream_model": "m"} | fields))  # pyright: ignore[reportArgumentType]


class Watched:
    """One deployment under a clock that the test moves."""

    def __init__(self, **fields: object) -> None:
        self.now_ms = START_MS
        self.monitor = Monitor(lambda: self.now_ms)
        self.deployment = deployment(**fields)

    @property
    def health(self) -> object:
        return self.monitor.of(self.deployment)

    def standing(self, tokens: int = 0) -> Standing:
        return self.monitor.of(self.deployment).standing(self.deployment, self.now_ms, tokens)

    def take(self, tokens: int = 0) -> Permit:
        return self.monitor.take(self.deployment, tokens)

    def call(self, outcome: Outcome, retry_after_s: float | None = None) -> None:
        self.take().end(outcome, retry_after_s)

    def opened(self) -> None:
        for _ in range(CIRCUIT_FAILURES_IN_ROW):
            self.call("failed")


def test_failures_in_a_row_open_the_circuit_and_one_before_does_not() -> None:
    d = Watched()
    for _ in range(CIRCUIT_FAILURES_IN_ROW - 1):
        d.call("failed")
    assert d.standing().why is None
    d.call("failed")
    assert d.standing() == Standing("d", "circuit_open", d.now_ms + CIRCUIT_COOL_MS_BASE)


def test_a_rate_of_errors_opens_it_once_there_are_calls_enough() -> None:
    d = Watched()
    calls = 0
    while d.standing().why is None:
        d.call("good" if calls % 2 == 0 else "failed")
        calls += 1
        assert calls <= CIRCUIT_CALLS_MIN
    assert calls == CIRCUIT_CALLS_MIN
    assert CIRCUIT_ERROR_RATE == 0.5


def test_errors_that_are_long_past_no_longer_count() -> None:
    d = Watched()
    for _ in range(CIRCUIT_CALLS_MIN // 2 - 1):
        d.call("failed")
        d.call("good")
    d.now_ms += CIRCUIT_WINDOW_MS
    assert d.monitor.seen()["d"].calls == 0
    for _ in range(CIRCUIT_CALLS_MIN // 2):
        d.call("good")
        d.call("failed")
        d.call("good")
    assert d.standing().why is None


def test_after_its_pause_one_call_tries_it_and_the_others_look_again_later() -> None:
    d = Watched()
    d.opened()
    d.now_ms += CIRCUIT_COOL_MS_BASE
    assert d.standing().why is None
    probe = d.take()
    assert d.standing() == Standing("d", "circuit_open", d.now_ms + CIRCUIT_PROBE_MS)
    probe.end("good")
    assert d.monitor.seen()["d"].circuit == "closed"
    # What failed before is forgotten.
    d.call("failed")
    assert d.standing().why is None


def test_each_try_that_fails_doubles_the_pause_up_to_its_bound() -> None:
    d = Watched()
    d.opened()
    pauses: list[int] = []
    for _ in range(9):
        until_ms = d.standing().until_ms
        assert until_ms is not None
        pauses.append(until_ms - d.now_ms)
        d.now_ms = until_ms
        d.call("failed")
    assert pauses[:3] == [CIRCUIT_COOL_MS_BASE, 2 * CIRCUIT_COOL_MS_BASE, 4 * CIRCUIT_COOL_MS_BASE]
    assert pauses[-2:] == [CIRCUIT_COOL_MS_MAX, CIRCUIT_COOL_MS_MAX]


def test_a_try_that_was_stopped_says_nothing_and_another_may_try() -> None:
    d = Watched()
    d.opened()
    d.now_ms += CIRCUIT_COOL_MS_BASE
    d.call("unknown")
    assert d.standing().why is None
    assert d.monitor.seen()["d"].circuit == "half_open"


def test_calls_from_before_it_opened_neither_close_it_nor_keep_it_open() -> None:
    d = Watched()
    early = [d.take() for _ in range(4)]
    d.opened()
    early[0].end("good")
    early[1].end("failed")
    assert d.standing() == Standing("d", "circuit_open", d.now_ms + CIRCUIT_COOL_MS_BASE)


def test_a_refused_key_opens_it_at_once_and_for_long() -> None:
    d = Watched()
    d.call("denied")
    assert d.standing() == Standing("d", "circuit_open", d.now_ms + CIRCUIT_COOL_MS_MAX)


@pytest.mark.parametrize(
    ("after_s", "wait_ms"), [(None, RATE_LIMITED_MS), (2.5, 2_500), (1e6, RETRY_AFTER_MS_MAX), (0.0, None)]
)
def test_a_limited_rate_is_kept_for_as_long_as_the_provider_says(after_s: float | None, wait_ms: int | None) -> None:
    d = Watched()
    d.call("limited", after_s)
    if wait_ms is None:
        assert d.standing().why is None
        return
    assert d.standing() == Standing("d", "rate_limited", d.now_ms + wait_ms)
    d.now_ms += wait_ms
    assert d.standing().why is None
    assert d.monitor.seen()["d"].circuit == "closed"


def test_an_overloaded_provider_that_names_a_time_gets_it() -> None:
    d = Watched()
    d.call("failed", 4.0)
    assert d.standing() == Standing("d", "rate_limited", d.now_ms + 4_000)


def test_requests_a_minute_are_counted_and_come_back_evenly() -> None:
    d = Watched(rpm=2)
    d.call("good")
    d.call("good")
    assert d.standing() == Standing("d", "rpm", d.now_ms + 30_000)
    d.now_ms += 30_000
    assert d.standing().why is None


def test_tokens_are_taken_before_a_call_and_put_right_after_it() -> None:
    d = Watched(tpm=6_000)
    permit = d.take(tokens=5_000)
    assert d.standing(tokens=2_000) == Standing("d", "tpm", d.now_ms + 10_000)
    permit.end("good", used_tokens=1_000)
    assert d.standing(tokens=5_000).why is None
    d.take(tokens=0).end("good", used_tokens=11_000)
    assert d.standing(tokens=1_000) == Standing("d", "tpm", d.now_ms + 70_000)
    # A call that is larger than a minute's worth is let through when all of it is there.
    d.now_ms += 120_000
    assert d.standing(tokens=1_000_000).why is None


def test_a_changed_limit_counts_from_new() -> None:
    d = Watched(rpm=1)
    d.call("good")
    assert d.standing().why == "rpm"
    d.deployment = deployment(rpm=2)
    assert d.standing().why is None


def test_it_is_full_at_its_max_concurrency_and_a_place_is_given_back_once() -> None:
    d = Watched(max_concurrency=2)
    first, second = d.take(), d.take()
    assert d.standing() == Standing("d", "max_concurrency")
    first.end("good")
    first.end("failed")
    assert d.monitor.seen()["d"][:4] == ("closed", 1, 1, 0)
    second.end("unknown")
    assert d.standing().why is None


def test_the_time_to_the_first_delta_is_smoothed_and_does_not_count_the_wait_before() -> None:
    d = Watched()
    permit = d.take()
    d.now_ms += 5_000
    permit.began()
    d.now_ms += 200
    permit.said()
    assert d.monitor.seen()["d"].latency_ms == 200
    permit = d.take()
    d.now_ms += 300
    permit.said()
    assert d.monitor.seen()["d"].latency_ms == 210


def test_deployments_that_the_configuration_has_no_more_are_forgotten() -> None:
    d = Watched()
    d.opened()
    d.monitor.keep({"other"})
    assert d.monitor.seen() == {}
    assert d.standing().why is None


def test_what_is_known_is_shown_under_the_deployments_name_whatever_that_is() -> None:
    d = Watched(name='a "b"')
    d.opened()
    assert d.monitor.gauges()['deployment_circuit_open{deployment="a \\"b\\""}'] == 1
    assert d.monitor.gauges()['deployment_window_failures{deployment="a \\"b\\""}'] == CIRCUIT_FAILURES_IN_ROW


def error(code: str, *, retryable: bool, blame: Blame = "upstream", sent: bool = True) -> ModelError:
    made = ModelError("", code=code, retryable=retryable, sent=sent)
    made.blame = blame
    return made


@pytest.mark.parametrize(
    ("failure", "outcome", "moves"),
    [
        (error("upstream_error", retryable=True), "failed", True),
        (error("rate_limited", retryable=True), "limited", True),
        (error("upstream_auth_failed", retryable=False, blame="operator"), "denied", True),
        (error("context_length_exceeded", retryable=False, blame="client"), "unknown", False),
        (error("unsupported_parameter", retryable=False, sent=False), "unknown", True),
        (error("answer_too_large", retryable=False), "unknown", False),
    ],
)
def test_what_a_failure_tells_of_its_deployment_and_whether_another_may_do_better(
    failure: ModelError, outcome: Outcome, moves: bool
) -> None:
    assert outcome_of(failure) == outcome
    assert movable(failure) == moves


# -- whatever happens ----------------------------------------------------------------------------------------

OUTCOMES: tuple[Outcome, ...] = ("good", "failed", "limited", "denied", "unknown")
Step = tuple[str, int, Outcome, float | None, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("take", "end", "wait")),
        st.integers(0, 7),
        st.sampled_from(OUTCOMES),
        st.none() | st.floats(0, 2_000),
        # A clock may be set back.
        st.integers(-100_000, 200_000),
    ),
    max_size=60,
)


@given(STEPS, st.booleans())
def test_at_most_one_call_tries_an_open_circuit_and_every_wait_is_bounded(steps: list[Step], limits: bool) -> None:
    d = Watched(rpm=5, tpm=50, max_concurrency=3) if limits else Watched()
    running: list[Permit] = []
    for what, at, outcome, after_s, later_ms in steps:
        if what == "wait":
            d.now_ms += later_ms
        elif what == "end" and running:
            running.pop(at % len(running)).end(outcome, after_s, at)
        elif what == "take" and d.standing(at).why is None:
            running.append(d.take(at))
        standing = d.standing(at)
        seen = d.monitor.seen()["d"]
        assert seen.in_flight == len(running)
        assert sum(permit._probe for permit in running) <= 1  # pyright: ignore[reportPrivateUsage]
        assert 0 <= seen.failed <= seen.calls
        if standing.until_ms is not None:
            assert 0 < standing.until_ms - d.now_ms <= RETRY_AFTER_MS_MAX
    # Left alone, it takes calls again sooner or later.
    for permit in running:
        permit.end("unknown")
    d.now_ms += 24 * 3_600_000
    assert d.standing().why is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20_000)), max_size=50))
def test_a_bucket_never_gives_out_more_than_two_minutes_worth_in_a_minute(takes: list[tuple[int, int]]) -> None:
    bucket, now_ms, given_out = Bucket(30, 0), 0, list[tuple[int, int]]()
    for amount, later_ms in takes:
        now_ms += later_ms
        if bucket.wait_ms(amount, now_ms) == 0:
            bucket.take(amount, now_ms)
            given_out.append((now_ms, amount))
        else:
            assert bucket.wait_ms(amount, now_ms + bucket.wait_ms(amount, now_ms)) == 0
            bucket = _again(30, given_out, now_ms)
        assert sum(each for at, each in given_out if at > now_ms - 60_000) <= 60


def _again(per_minute: int, given_out: list[tuple[int, int]], now_ms: int) -> Bucket:
    """The same bucket as of ``now_ms``: looking ahead has filled the other."""
    bucket = Bucket(per_minute, 0)
    for at, amount in given_out:
        bucket.take(amount, at)
    bucket.wait_ms(0, now_ms)
    return bucket
