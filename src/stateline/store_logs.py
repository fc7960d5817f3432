"""The configured store's logs, read without a server: for reports, exports and the doctor."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncGenerator

from stateline import config as settings
from stateline.core.errors import StoreUnavailable
from stateline.ports import LogPage
from stateline.stores.logs import Wanted


def need_driver() -> None:
    """Say in one line that PostgreSQL cannot be spoken to, where that is so.

    Raises:
        StoreUnavailable: ``store_driver_missing``.
    """
    if importlib.util.find_spec("asyncpg") is None:
        raise StoreUnavailable(
            "PostgreSQL's driver is missing; install stateline[postgres]", code="store_driver_missing"
        )


async def count_sessions(store: settings.Store) -> int:
    """How many sessions the configured store holds; it may be served at the same time.

    Raises:
        StoreUnavailable: it is not there, or cannot be read.
    """
    if store.path is not None:
        from stateline.stores.sqlite import logs as of_file

        return await of_file.count_sessions(store.path)
    need_driver()
    from stateline.stores.postgres import logs

    return await logs.count_sessions(settings.store_url(store, os.environ))


def read_logs(store: settings.Store, wanted: Wanted) -> AsyncGenerator[LogPage]:
    """Events of all sessions, read without writing; the store may be served at the same time."""
    if store.path is not None:
        from stateline.stores.sqlite import logs as of_file

        return of_file.read_logs(store.path, wanted)
    need_driver()
    from stateline.stores.postgres import logs

    return logs.read_logs(settings.store_url(store, os.environ), wanted)
