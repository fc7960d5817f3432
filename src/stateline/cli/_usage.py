"""What `stateline usage` reads: the calls of a time, with what each cost, out of the configured store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta

from stateline.config import Config
from stateline.core.billing import Metered, Tariff
from stateline.core.errors import BadRequest, StoreUnavailable
from stateline.core.ids import SYSTEM_TENANT
from stateline.core.metered import TAGS, TARIFF_TAGS, Calls
from stateline.ports import Progress
from stateline.store_logs import count_sessions, read_logs
from stateline.stores.logs import ALWAYS_MS, Wanted


def parse_day(text: str, option: str) -> date:
    """A day as it is given on the command line; raises BadRequest."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadRequest(f'{option}: "{text}" is no day; write it as 2026-11-30', code="invalid_value") from None


def between(since: date | None, until: date | None) -> tuple[int, int]:
    """From the first day's beginning to the last day's end, UTC, in Unix milliseconds; None: without a bound."""
    first = 0 if since is None else _ms(since)
    last = ALWAYS_MS if until is None else _ms(until + timedelta(days=1))
    if last <= first:
        raise BadRequest(f"--to {until} is before --from {since}", code="invalid_value")
    return first, last


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


class Usage:
    """Reads calls, and keeps what was seen beside them.

    Attributes:
        tariffs: by id; those of every call that was read are here.
        sessions: how many were looked through; ``newer``: how many of them only a newer release can read.
    """

    def __init__(self, config: Config, span: tuple[int, int]) -> None:
        self.tariffs: dict[str, Tariff] = {}
        self.sessions = 0
        self.newer = 0
        self._store = config.store
        self._since_ms, self._until_ms = span
        self._calls = Calls()

    @property
    def under_way(self) -> int:
        """Calls that had not ended."""
        return self._calls.under_way

    def look_at(self, span: tuple[int, int]) -> None:
        """Another time, as ``between`` gives it."""
        self._since_ms, self._until_ms = span

    async def calls(self, progress: Progress | None) -> AsyncGenerator[Metered]:
        """The calls that ended in that time, of all sessions.

        Raises:
            StoreUnavailable: the store is not there, or cannot be read; ``tariff_missing``.
        """
        total = await count_sessions(self._store)
        wanted = Wanted(TAGS, self._since_ms, self._until_ms)
        async with aclosing(read_logs(self._store, wanted)) as pages:
            async for page in pages:
                self.sessions, self.newer = page.sessions, page.newer
                for event in page.events:
                    for call in self._calls.see(event):
                        if self._since_ms <= call.at_ms < self._until_ms:
                            await self._know_tariff(call)
                            yield call
                if progress is not None:
                    progress(page.sessions, max(total, page.sessions))

    async def _know_tariff(self, call: Metered) -> None:
        """A tariff lies in a session of its own, and may have been recorded long before its calls."""
        if call.charge is None or call.charge.tariff in self.tariffs:
            return
        await self.read_tariffs()
        if call.charge.tariff not in self.tariffs:
            message = f"call {call.id} was charged by tariff {call.charge.tariff}, which this store does not have"
            raise StoreUnavailable(message, code="tariff_missing")

    async def read_tariffs(self) -> None:
        """All that were ever recorded."""
        wanted = Wanted(TARIFF_TAGS, tenant=SYSTEM_TENANT)
        async with aclosing(read_logs(self._store, wanted)) as pages:
            async for page in pages:
                for event in page.events:
                    self._calls.see(event)
        self.tariffs.update(self._calls.tariffs)
