"""Connections: what a URL means, how they are set up, and what their failures are called here.

asyncpg is named here alone. Everything that libpq's users expect goes through: hosts, services,
``sslmode`` and its files, ``PG…`` variables, ``~/.pgpass``. One option is our own:
``stateline_pooler=transaction`` says that a pooler stands between, which gives each transaction
another connection of the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
from asyncpg import exceptions as pg  # pyright: ignore[reportMissingTypeStubs]

from stateline.core.errors import StatelineError, StoreUnavailable
from stateline.core.limits import CONNECT_TIMEOUT_S, LOCK_WAIT_S

SERVER_MIN = 140_000
_OPTION = "stateline_pooler"
SETTING = "stateline.tenant"
"""The setting that says for whom a connection works (walls.py)."""
EVERY = "*"
"""It works across tenants."""
NOBODY = "0"
"""It works for a tenant that there is not: numbers begin at 1."""
_SECRETS = frozenset({"password", "sslpassword"})

Record = Sequence[Any]
"""A row; columns by place."""


class Connection(Protocol):
    """What is used of asyncpg's connection."""

    async def fetch(self, query: str, *args: object) -> list[Record]: ...
    async def fetchrow(self, query: str, *args: object) -> Record | None: ...
    async def fetchval(self, query: str, *args: object) -> Any: ...
    async def execute(self, query: str, *args: object) -> str: ...
    async def executemany(self, command: str, args: Sequence[Sequence[object]]) -> None: ...
    async def close(self, *, timeout: float | None = None) -> None: ...  # noqa: ASYNC109 - As asyncpg has it.
    async def copy_from_query(self, query: str, *, output: Callable[[bytes], Awaitable[None]], format: str) -> str: ...
    async def copy_to_table(
        self, table_name: str, *, source: AsyncIterator[bytes], columns: Sequence[str], format: str
    ) -> str: ...
    def is_in_transaction(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...
    def get_server_pid(self) -> int: ...
    def add_log_listener(self, callback: Callable[[object, Any], None]) -> None: ...
    def remove_log_listener(self, callback: Callable[[object, Any], None]) -> None: ...
    def add_termination_listener(self, callback: Callable[[object], None]) -> None: ...
    async def add_listener(self, channel: str, callback: Callable[[object, int, str, object], None]) -> None: ...


class Place(NamedTuple):
    """A database: how to reach it, and how to call it where people read."""

    url: str
    shown: str
    pooler: bool


def place_of(url: str) -> Place:
    """What a ``postgresql://`` URL names.

    Raises:
        StoreUnavailable: it is none; nothing of it is repeated, since a part may be a password.
    """
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        _ = parts.hostname
    except ValueError:
        raise _unreadable() from None
    pooler = dict(options).get(_OPTION, "none")
    if pooler not in {"none", "transaction"}:
        raise StoreUnavailable(f'{_OPTION} is "transaction", or left out', code="store_unreachable")
    user, _, _ = parts.netloc.rpartition("@")[0].partition(":")
    hosts = parts.netloc.rpartition("@")[2]
    shown = {key: value for key, value in options if key not in _SECRETS}
    query = urlencode([(key, value) for key, value in options if key != _OPTION], quote_via=quote)
    return Place(
        # By hand: for urlunsplit an empty place and none are the same.
        f"postgresql://{parts.netloc}{parts.path}" + (f"?{query}" if query else ""),
        f"postgresql://{user + '@' if user else ''}{hosts}{parts.path}" + (f"?{urlencode(shown)}" if shown else ""),
        pooler == "transaction",
    )


def _unreadable() -> StoreUnavailable:
    return StoreUnavailable(
        "the PostgreSQL URL cannot be read; write special characters of a password as %40 (@), %2F (/), %23 (#)",
        code="store_unreachable",
    )


_SETTINGS = {
    "application_name": "stateline",
    # A commit is given up by nobody; locks are waited for, since others hold them for one commit.
    "statement_timeout": "0",
    "lock_timeout": str(round(LOCK_WAIT_S * 1000)),
    # A host that vanishes in mid-transaction must not hold its locks for hours.
    "idle_in_transaction_session_timeout": "30000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # Every statement here has its index; the planner's guesses on young tables are bad, and planning
    # a commit anew costs more than running it.
    "enable_seqscan": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
LOCAL_SETTINGS = (
    "SET LOCAL statement_timeout = 0;"
    f" SET LOCAL lock_timeout = {round(LOCK_WAIT_S * 1000)};"
    " SET LOCAL enable_seqscan = off; SET LOCAL jit = off;"
    " SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)
"""The same for one transaction, where the connection is a pooler's."""


class Apiece(asyncpg.Connection):  # pyright: ignore[reportUntypedBaseClass]
    """A pooler's connection: what it works for must go along with each transaction, so each statement is in one."""

    works_for = EVERY

    async def _alone(self, method: str, query: str, *args: object, **options: object) -> Any:
        call: Callable[..., Awaitable[Any]] = getattr(super(), method)
        run = cast("Callable[[str], Awaitable[str]]", super().execute)  # pyright: ignore[reportUnknownMemberType]
        local = f"SET LOCAL {SETTING} = '{self.works_for}'"
        if query.startswith("BEGIN"):
            return await call(f"{query}; {local}", *args, **options)
        if self.is_in_transaction():
            return await call(query, *args, **options)
        await run(f"BEGIN; {local}")
        try:
            result = await call(query, *args, **options)
        except Exception:
            if not self.is_closed():
                await run("ROLLBACK")
            raise
        await run("COMMIT")
        return result

    async def fetch(self, query: str, *args: object, **options: object) -> Any:
        return await self._alone("fetch", query, *args, **options)

    async def fetchrow(self, query: str, *args: object, **options: object) -> Any:
        return await self._alone("fetchrow", query, *args, **options)

    async def fetchval(self, query: str, *args: object, **options: object) -> Any:
        return await self._alone("fetchval", query, *args, **options)

    async def execute(self, query: str, *args: object, **options: object) -> Any:
        return await self._alone("execute", query, *args, **options)


async def work_for(db: Connection, whom: str) -> None:
    """Let ``db`` see what ``whom`` may from now on: a tenant's number, EVERY or NOBODY."""
    # Any connection of asyncpg's is an instance of any class of them.
    if type(db) is Apiece:
        db.works_for = whom
    else:
        await db.execute(f"SET {SETTING} = '{whom if whom == EVERY else int(whom)}'")


async def connect(place: Place, whom: str = EVERY) -> Connection:
    """A connection that may write, and works for ``whom``: a tenant's number, EVERY or NOBODY.

    Raises:
        StoreUnavailable: with one line that says why.
    """
    options: dict[str, Any] = {}
    if "target_session_attrs" not in place.url:
        options["target_session_attrs"] = "read-write"
    if place.pooler:
        options["statement_cache_size"] = 0
        options["connection_class"] = Apiece
    else:
        options["server_settings"] = _SETTINGS | {SETTING: whom}
    open_one = cast("Callable[..., Any]", asyncpg.connect)  # pyright: ignore[reportUnknownMemberType]
    opening: asyncio.Future[Any] = asyncio.ensure_future(open_one(place.url, timeout=CONNECT_TIMEOUT_S, **options))
    try:
        db = cast("Connection", await asyncio.shield(opening))
    except asyncio.CancelledError:
        # Cut off in the middle, it would leave its socket open.
        with contextlib.suppress(Exception):
            (await opening).terminate()
        raise
    except (pg.ClientConfigurationError, ValueError):
        raise _unreadable() from None
    except (pg.PostgresError, pg.InterfaceError, OSError) as error:
        raise unreachable(place, error) from error
    if not place.pooler:
        try:
            # Acknowledged means on the disk, whatever the database's default is.
            await db.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        except (pg.PostgresError, pg.InterfaceError, OSError) as error:
            db.terminate()
            raise unreachable(place, error) from error
    else:
        await work_for(db, whom)
    return db


@contextlib.asynccontextmanager
async def apart(place: Place) -> AsyncGenerator[Connection]:
    """A connection of its own, for what takes long or has transactions.

    Raises:
        StoreUnavailable: it cannot be made, or something fails on it.
    """
    db = await connect(place)
    try:
        yield db
    except StatelineError:
        raise
    except Exception as error:
        raise unavailable(error) from error
    finally:
        await close(db)


async def close(db: Connection) -> None:
    """End a connection in order, or at once where that fails."""
    try:
        await db.close(timeout=2.0)
    except (pg.PostgresError, pg.InterfaceError, OSError):
        with contextlib.suppress(Exception):
            db.terminate()


# -- errors ------------------------------------------------------------------------------------------


def is_its(error: BaseException) -> bool:
    """Whether the database, or the way to it, is to blame for an error."""
    return isinstance(error, pg.PostgresError | pg.InterfaceError | pg.InternalClientError | OSError | TimeoutError)


def is_lost(error: BaseException) -> bool:
    """Whether the connection or the server went away, or is one that cannot write any more."""
    if isinstance(error, pg.InterfaceError):
        # A value that does not fit its column is one, too.
        return not isinstance(error, ValueError)
    return isinstance(
        error,
        OSError
        | TimeoutError
        | pg.PostgresConnectionError
        | pg.InternalClientError
        | pg.AdminShutdownError
        | pg.CrashShutdownError
        | pg.CannotConnectNowError
        | pg.DatabaseDroppedError
        | pg.IdleInTransactionSessionTimeoutError
        | pg.ReadOnlySQLTransactionError,
    )


def passes(error: BaseException) -> bool:
    """Whether the same transaction may go well the next time."""
    return isinstance(
        error,
        pg.DeadlockDetectedError
        | pg.SerializationError
        | pg.LockNotAvailableError
        | pg.UniqueViolationError
        | pg.QueryCanceledError,
    )


def lacks_part(error: BaseException) -> bool:
    """Whether a chunk found no partition for its time."""
    return isinstance(error, pg.CheckViolationError) and "no partition" in str(error)


def lacks_proof(error: BaseException) -> bool:
    """Whether the writer's own row is not what it must be."""
    return isinstance(error, pg.DivisionByZeroError)


def lacks_room(error: BaseException) -> bool:
    """Whether balances had no room for what was to be held of them, or were not there."""
    return isinstance(error, pg.InvalidArgumentForPowerFunctionError)


def lacks_table(error: BaseException) -> bool:
    return isinstance(error, pg.UndefinedTableError)


def is_theirs(error: BaseException) -> bool:
    """Whether the database or the way to it raised it."""
    return isinstance(error, pg.PostgresError | pg.InterfaceError | OSError)


def of_the_server(error: BaseException) -> bool:
    """Whether the server, its disk or its administrator is at fault, not what was asked."""
    return is_lost(error) or isinstance(
        error,
        pg.InsufficientResourcesError
        | pg.OperatorInterventionError
        | pg.PostgresSystemError
        | pg.InsufficientPrivilegeError
        | pg.UndefinedTableError
        | pg.InternalServerError,
    )


def unavailable(error: BaseException) -> StoreUnavailable:
    """What a failed statement is called here."""
    if isinstance(error, StoreUnavailable):
        return error
    return StoreUnavailable(f"the store cannot be used now: {reason_of(error)}", retry_after_s=5.0)


def unreachable(place: Place, error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(
        f"cannot use PostgreSQL at {place.shown}: {reason_of(error)}", code="store_unreachable", retry_after_s=5.0
    )


def reason_of(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
