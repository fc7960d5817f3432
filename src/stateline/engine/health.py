"""What this node has seen of each deployment: its errors, its limits, how fast it answers.

Kept in memory, a fixed few numbers a deployment, and learned from real calls alone. Time comes in as an
argument (Unix milliseconds), so the same calls at the same times always give the same state.

A deployment's circuit is closed while it works. It opens after failures in a row, or at a rate of errors in
the window; then the deployment is left alone for a while that doubles each time, up to a bound. After that
a single call tries it: the circuit closes if that goes well, and opens again if not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

from stateline.core.errors import ModelError
from stateline.core.limits import (
    CIRCUIT_BUCKETS,
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
from stateline.core.measures import label
from stateline.core.placing import Standing
from stateline.ports import Deployment

Circuit = Literal["closed", "open", "half_open"]
Outcome = Literal["good", "failed", "limited", "denied", "unknown"]
"""How a call ended, as far as it tells of its deployment.

``denied``: its key, its quota or its configuration is refused, which the next call would not change.
``unknown``: it was stopped, or the fault was the request's.
"""
_BUCKET_MS = CIRCUIT_WINDOW_MS // CIRCUIT_BUCKETS
_MINUTE_MS = 60_000


def outcome_of(error: ModelError) -> Outcome:
    """What a failed call tells of its deployment."""
    if error.blame == "operator":
        return "denied"
    if error.code == "rate_limited":
        return "limited"
    return "failed" if error.retryable else "unknown"


def movable(error: ModelError) -> bool:
    """Whether the call may do better at another deployment: not where the fault is the request's own."""
    return error.retryable or error.blame == "operator" or not error.sent


class Bucket:
    """So many a minute: it fills evenly, and holds a minute's worth at most.

    Its level is counted in what one takes in a minute's milliseconds, so that it is exact.
    """

    __slots__ = ("_at_ms", "_full", "_level", "per_minute")

    def __init__(self, per_minute: int, now_ms: int) -> None:
        self.per_minute = per_minute
        self._level = self._full = per_minute * _MINUTE_MS
        self._at_ms = now_ms

    def wait_ms(self, amount: int, now_ms: int) -> int:
        """How long until it holds ``amount``; more than it can ever hold is given out when it is full."""
        self._fill(now_ms)
        missing = min(amount * _MINUTE_MS, self._full) - self._level
        return 0 if missing <= 0 else -(-missing // self.per_minute)

    def take(self, amount: int, now_ms: int) -> None:
        """Take ``amount`` (given back where it is negative), even where it is not there."""
        self._fill(now_ms)
        self._level = min(self._level - amount * _MINUTE_MS, self._full)

    def _fill(self, now_ms: int) -> None:
        if now_ms > self._at_ms:
            self._level = min(self._level + (now_ms - self._at_ms) * self.per_minute, self._full)
        # A clock that was set back begins anew from there.
        self._at_ms = now_ms


class Health:
    """One deployment, as this node has seen it.

    Attributes:
        in_flight: calls that have a place, begun or about to.
        latency_ms: from the call to its first delta, smoothed over about ten calls; None before the first.
    """

    __slots__ = (
        "_bad", "_cool_ms", "_good", "_in_row", "_limited_ms", "_open_ms", "_probing", "_requests", "_slot",
        "_tokens", "circuit", "in_flight", "latency_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.circuit: Circuit = "closed"
        self.in_flight = 0
        self.latency_ms: float | None = None
        self._good = [0] * CIRCUIT_BUCKETS
        self._bad = [0] * CIRCUIT_BUCKETS
        self._slot = 0
        self._in_row = 0
        self._open_ms = 0
        self._cool_ms = CIRCUIT_COOL_MS_BASE
        self._probing = False
        self._limited_ms = 0
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None

    # -- asked before a call ----------------------------------------------------------------------------

    def standing(self, deployment: Deployment, now_ms: int, tokens: int) -> Standing:
        """Whether it takes a call of about ``tokens`` now, else why not and until when."""
        name = deployment.name
        # A time further off than can have been set is one by a clock that was set back since.
        if 0 < self._limited_ms - now_ms <= RETRY_AFTER_MS_MAX:
            return Standing(name, "rate_limited", self._limited_ms)
        if self.circuit != "closed":
            if 0 < self._open_ms - now_ms <= CIRCUIT_COOL_MS_MAX:
                return Standing(name, "circuit_open", self._open_ms)
            if self._probing:
                return Standing(name, "circuit_open", now_ms + CIRCUIT_PROBE_MS)
        if deployment.rpm is not None:
            wait_ms = self._bucket("_requests", deployment.rpm, now_ms).wait_ms(1, now_ms)
            if wait_ms:
                return Standing(name, "rpm", now_ms + wait_ms)
        if deployment.tpm is not None:
            wait_ms = self._bucket("_tokens", deployment.tpm, now_ms).wait_ms(tokens, now_ms)
            if wait_ms:
                return Standing(name, "tpm", now_ms + wait_ms)
        if deployment.max_concurrency is not None and self.in_flight >= deployment.max_concurrency:
            return Standing(name, "max_concurrency")
        return Standing(name)

    def _bucket(self, which: Literal["_requests", "_tokens"], per_minute: int, now_ms: int) -> Bucket:
        bucket: Bucket | None = getattr(self, which)
        if bucket is None or bucket.per_minute != per_minute:
            bucket = Bucket(per_minute, now_ms)
            setattr(self, which, bucket)
        return bucket

    def errors(self, now_ms: int) -> tuple[int, int]:
        """Calls in the window, and how many of them failed."""
        self._turn_to(now_ms)
        bad = sum(self._bad)
        return sum(self._good) + bad, bad

    # -- told of a call -----------------------------------------------------------------------------------

    def take(self, deployment: Deployment, now_ms: int, tokens: int) -> bool:
        """A call has a place here. True where it is the one that tries an open circuit."""
        self.in_flight += 1
        if deployment.rpm is not None:
            self._bucket("_requests", deployment.rpm, now_ms).take(1, now_ms)
        if deployment.tpm is not None:
            self._bucket("_tokens", deployment.tpm, now_ms).take(tokens, now_ms)
        if self.circuit == "closed":
            return False
        self.circuit, self._probing = "half_open", True
        return True

    def answers(self, latency_ms: float) -> None:
        """A call brought its first delta."""
        known = self.latency_ms
        self.latency_ms = latency_ms if known is None else known + (latency_ms - known) / 10

    def end(self, outcome: Outcome, now_ms: int, *, probe: bool, retry_after_ms: int | None, owed_tokens: int) -> None:
        """A call that had a place has ended.

        ``retry_after_ms`` is what the provider asked for, ``owed_tokens`` what it used beyond what was taken.
        """
        self.in_flight -= 1
        if self._tokens is not None and owed_tokens:
            self._tokens.take(owed_tokens, now_ms)
        if probe:
            self._probing = False
        if outcome == "limited" or (outcome == "failed" and retry_after_ms):
            wait_ms = RATE_LIMITED_MS if retry_after_ms is None else min(retry_after_ms, RETRY_AFTER_MS_MAX)
            self._limited_ms = max(self._limited_ms, now_ms + wait_ms)
        if outcome == "unknown":
            return
        if self.circuit != "closed":
            # What began before the circuit opened tells nothing new.
            if probe:
                self._tried(outcome, now_ms)
            return
        self._count(outcome, now_ms)

    def _tried(self, outcome: Outcome, now_ms: int) -> None:
        if outcome in ("failed", "denied"):
            self._cool_ms = min(self._cool_ms * 2, CIRCUIT_COOL_MS_MAX)
            self._open(now_ms)
            return
        # One that limits the rate is alive; until when it does is known by itself.
        self.circuit, self._cool_ms, self._in_row = "closed", CIRCUIT_COOL_MS_BASE, 0
        self._good = [0] * CIRCUIT_BUCKETS
        self._bad = [0] * CIRCUIT_BUCKETS

    def _count(self, outcome: Outcome, now_ms: int) -> None:
        if outcome == "denied":
            self._cool_ms = CIRCUIT_COOL_MS_MAX
            self._open(now_ms)
            return
        self._turn_to(now_ms)
        at = self._slot % CIRCUIT_BUCKETS
        if outcome != "failed":
            self._good[at] += 1
            self._in_row = 0
            return
        self._bad[at] += 1
        self._in_row += 1
        calls, bad = sum(self._good) + sum(self._bad), sum(self._bad)
        if self._in_row >= CIRCUIT_FAILURES_IN_ROW or (
            calls >= CIRCUIT_CALLS_MIN and bad >= calls * CIRCUIT_ERROR_RATE
        ):
            self._open(now_ms)

    def _open(self, now_ms: int) -> None:
        self.circuit = "open"
        self._open_ms = now_ms + self._cool_ms

    def _turn_to(self, now_ms: int) -> None:
        """Forget the pieces of the window that lie too far back."""
        slot = now_ms // _BUCKET_MS
        gone = slot - self._slot
        # A clock that was set back begins anew from there.
        for step in range(1, min(gone, CIRCUIT_BUCKETS) + 1 if gone >= 0 else CIRCUIT_BUCKETS + 1):
            at = (self._slot + step) % CIRCUIT_BUCKETS
            self._good[at] = self._bad[at] = 0
        self._slot = slot


class Permit:
    """A call's place at a deployment, from its placement to its end. Ending it twice does nothing."""

    __slots__ = ("_began_ms", "_health", "_now_ms", "_open", "_probe", "_tokens")

    def __init__(self, health: Health, deployment: Deployment, now_ms: Callable[[], int], tokens: int) -> None:
        self._health = health
        self._now_ms = now_ms
        self._tokens = tokens
        self._began_ms = now_ms()
        self._probe = health.take(deployment, self._began_ms, tokens)
        self._open = True

    def began(self) -> None:
        """The call goes out: what it waited before is not the deployment's doing."""
        self._began_ms = self._now_ms()

    def said(self) -> None:
        """The first delta has come."""
        self._health.answers(self._now_ms() - self._began_ms)

    def end(self, outcome: Outcome, retry_after_s: float | None = None, used_tokens: int | None = None) -> None:
        """Give the place back."""
        if not self._open:
            return
        self._open = False
        self._health.end(
            outcome,
            self._now_ms(),
            probe=self._probe,
            retry_after_ms=None if retry_after_s is None else int(retry_after_s * 1000),
            owed_tokens=0 if used_tokens is None else used_tokens - self._tokens,
        )

    def failed(self, error: ModelError) -> None:
        """Give the place back after a failure."""
        self.end(outcome_of(error), error.retry_after_s, 0 if not error.sent else None)


class Seen(NamedTuple):
    """A deployment's health, for who shows it."""

    circuit: Circuit
    in_flight: int
    calls: int
    failed: int
    latency_ms: float | None


class Monitor:
    """The health of every deployment that was looked at, by its name."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self._by_name: dict[str, Health] = {}

    def of(self, deployment: Deployment) -> Health:
        health = self._by_name.get(deployment.name)
        if health is None:
            health = self._by_name[deployment.name] = Health()
        return health

    def take(self, deployment: Deployment, tokens: int) -> Permit:
        return Permit(self.of(deployment), deployment, self.now_ms, tokens)

    def keep(self, names: Collection[str]) -> None:
        """Forget all but these: the configuration has changed, and names are all that ties it to what was seen."""
        self._by_name = {name: health for name, health in self._by_name.items() if name in names}

    def gauges(self) -> dict[str, float]:
        """The same for /metrics: deployments that nobody has to choose from are not looked at, and not here."""
        out: dict[str, float] = {}
        for name, seen in self.seen().items():
            deployment = label(name)
            values = {
                "circuit_open": float(seen.circuit != "closed"),
                "calls_in_flight": float(seen.in_flight),
                "window_calls": float(seen.calls),
                "window_failures": float(seen.failed),
            }
            if seen.latency_ms is not None:
                values["first_delta_ms"] = round(seen.latency_ms, 1)
            out |= {f'deployment_{what}{{deployment="{deployment}"}}': value for what, value in values.items()}
        return out

    def seen(self) -> dict[str, Seen]:
        """What is known now, by deployment."""
        now_ms = self.now_ms()
        return {
            name: Seen(health.circuit, health.in_flight, *health.errors(now_ms), health.latency_ms)
            for name, health in self._by_name.items()
        }
