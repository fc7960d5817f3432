"""`stateline db`: keep, copy, put back and bring up to date the database.

While a server runs it alone may use a SQLite file, so it is asked. Otherwise the work is done on the
file. With a PostgreSQL database it is done from here, beside whatever nodes run on it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config, print_json
from stateline.cli._progress import progress_bar
from stateline.core.errors import BadRequest
from stateline.ops.asking import Shown, ask_server

if TYPE_CHECKING:
    from stateline.config import Store
    from stateline.ports import Backup, KeptStore, Progress

app = command_app("Prune, back up, restore or migrate the database.")

_T = TypeVar("_T")
_PRUNE_TIMEOUT_S = 3600.0
_POLL_S = 0.2
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and delete nothing.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what [retention] does not keep; a running server does so every minute.

    \b
    Examples:
      stateline db prune --dry-run
      stateline db prune --dry-run --json
      stateline db prune --config /etc/stateline/stateline.toml
    """
    settings = load_config(config)
    path, body = settings.store.path, {"dry_run": dry_run}
    asked = None if path is None else ask_server(path, "POST", "/v1/admin/prune", body, timeout_s=_PRUNE_TIMEOUT_S)
    if asked is None:

        async def directly(store: KeptStore) -> Shown:
            from stateline.admission import auditor_of
            from stateline.stores.clock import SystemClock

            witness = auditor_of(settings, store, SystemClock())
            done = await store.maintenance.prune(settings.retention, dry_run=dry_run, witness=witness)
            counts = {"chunks": done.chunks, "sessions": done.sessions, "snapshots": done.snapshots}
            return {"object": "prune", "dry_run": dry_run, **counts}

        asked = _on_database(settings.store, directly)
    if as_json:
        print_json(asked)
    else:
        verb = "would delete" if dry_run else "deleted"
        counts = f"{asked['chunks']} chunks, {asked['sessions']} sessions, {asked['snapshots']} snapshots"
        sys.stdout.write(f"{verb} {counts}\n")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="The folder to make. A running server must be able to write there.")],
    force: ForceOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the database and its large content into a new folder, also while a server serves.

    \b
    Examples:
      stateline db backup /var/backups/stateline-2026-11-25
      stateline db backup latest --force --json
    """
    store = load_config(config).store
    target = target.absolute()
    with progress_bar("Backing up") as progress:
        # A PostgreSQL database is copied from here, whichever nodes run on it.
        made = None if store.path is None else _backup_by_server(store.path, target, progress, force=force)
        if made is None:

            async def directly(opened: KeptStore) -> Shown:
                import msgspec

                made = await opened.maintenance.backup(str(target), force=force, progress=progress)
                return msgspec.to_builtins(made)

            made = _on_database(store, directly)
    _print_backup(made, "backed up to", as_json=as_json)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `stateline db backup` made of such a store.")],
    force: ForceOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a backup, and put it in the place of the configured database. No server may run on it.

    Of a SQLite database a backup holds files, of a PostgreSQL database its tables; each is restored to its kind.

    \b
    Examples:
      stateline db restore /var/backups/stateline-2026-11-25
      stateline db restore latest --force --config /etc/stateline/stateline.toml
    """
    import msgspec

    store = load_config(config).store
    with progress_bar("Restoring") as progress:
        done = _restore(store, source, progress, force=force)
    _print_backup(msgspec.to_builtins(done), "restored", as_json=as_json)


@app.command()
def migrate(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Bring the database to this release's schema, as the next start of the server would.

    \b
    Examples:
      stateline db backup before-upgrade && stateline db migrate
    """
    store = load_config(config).store
    status = None if store.path is None else ask_server(store.path, "GET", "/v1/admin/status")
    if status is not None:
        after = before = status["store"]["schema_version"]
    else:
        before = _schema_version(store)

        async def version(opened: KeptStore) -> int:
            return (await opened.maintenance.status()).schema_version

        after = _on_database(store, version)
    if as_json:
        print_json({"object": "migration", "before": before, "after": after})
    else:
        what = f"schema version {after}, nothing to do" if before == after else f"schema version {before} -> {after}"
        sys.stdout.write(f"{store.path or store.url}: {what}\n")


# -- the two ways --------------------------------------------------------------------------------------


def _backup_by_server(database: Path, target: Path, progress: Progress | None, *, force: bool) -> Shown | None:
    """Begin a backup and watch it; None where no server runs."""
    state = ask_server(database, "POST", "/v1/admin/backups", {"path": str(target), "force": force})
    if state is None:
        return None
    while state["status"] == "running":
        time.sleep(_POLL_S)
        state = ask_server(database, "GET", "/v1/admin/backups")
        if state is None:
            raise BadRequest("the server stopped before the backup was done", code="backup_failed")
        if progress is not None and state["total_bytes"]:
            progress(state["done_bytes"], state["total_bytes"])
    if state["status"] != "done":
        raise BadRequest(str(state["message"] or "no backup was made"), code=str(state["code"] or "backup_failed"))
    return state["backup"]


def _restore(store: Store, source: Path, progress: Progress | None, *, force: bool) -> Backup:
    import asyncio
    import os

    if store.path is not None:
        from stateline.stores.sqlite import backup as of_files

        return of_files.restore(source, store.path, force=force, progress=progress)
    from stateline.config import store_url
    from stateline.stores.postgres import backup as of_tables

    return asyncio.run(of_tables.restore(store_url(store, os.environ), source, force=force, progress=progress))


def _schema_version(store: Store) -> int:
    import asyncio
    import os

    if store.path is not None:
        from stateline.stores.sqlite.opening import schema_version

        return schema_version(store.path)
    from stateline.config import store_url
    from stateline.stores.postgres.opening import version_at

    return asyncio.run(version_at(store_url(store, os.environ)))


def _on_database(where: Store, work: Callable[[KeptStore], Coroutine[Any, Any, _T]]) -> _T:
    """Open an existing database, which fails in one line where a server has its file."""
    import asyncio

    from stateline.stores.clock import SystemClock
    from stateline.wiring import open_store

    if where.path is not None and not where.path.is_file():
        raise BadRequest(f"there is no database at {where.path}; see store.url", code="store_missing")

    async def run() -> _T:
        store = await open_store(where, SystemClock())
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


# -- what is shown -------------------------------------------------------------------------------------


def _print_backup(done: Shown, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"object": "backup", **done})
        return
    files = f"{done['files']} large files, " if done["files"] else ""
    sys.stdout.write(f"{verb} {done['path']}: {done['sessions']} sessions, {files}{done['bytes']} bytes\n")
