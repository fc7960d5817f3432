"""`stateline audit`: export sessions' signed hash chains, and check such an export offline."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config, print_json
from stateline.core.errors import BadRequest

if TYPE_CHECKING:
    from stateline import config as settings
    from stateline.core.audit import Verdict
    from stateline.identity.audit import AuditKey

app = command_app("Export what agents did as signed hash chains, and check an export.")

_PATH = "/v1/admin/audit"
_TIMEOUT_S = 600.0


@app.command()
def key(
    public: Annotated[bool, typer.Option("--public", help="Print the configured keys' public halves instead.")] = False,
    config: ConfigOption = None,
) -> None:
    """Print a new signing key, for the file or variable that [audit] names.

    \b
    Examples:
      (umask 077 && stateline audit key > audit.key)
      stateline audit key --public
    """
    import os
    from base64 import b64encode

    from stateline.identity.raw_keys import new_key

    if not public:
        sys.stdout.write(new_key(os.urandom) + "\n")
        return
    for each in _keys(load_config(config)):
        sys.stdout.write(b64encode(each.public).decode() + "\n")


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    session: Annotated[str | None, typer.Option("--session", help="This session alone.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant alone.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All sessions, the erased ones too.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write signed chains: with contents and salts where the sessions are not erased.

    \b
    Examples:
      stateline audit export --all --out audit.jsonl
      stateline audit export --session 0123456789abcdefghjkmnpq --out one.jsonl
    """
    import asyncio

    if every == (session is not None):
        raise BadRequest("say what to export: --session ID, or --all", code="invalid_value")
    loaded = load_config(config)
    keys = _keys(loaded)
    chains = asyncio.run(_write(loaded, keys, out, session=session, tenant=tenant))
    if session is not None and not chains:
        out.unlink(missing_ok=True)
        raise BadRequest(f"there is no session {session[:64]!r}", code="session_not_found")
    if as_json:
        print_json({"object": "audit.export", "file": str(out), "chains": chains})
    else:
        sys.stdout.write(f"wrote {chains} chains to {out}\n")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="What `stateline audit export` wrote.")],
    keys: Annotated[
        list[str] | None, typer.Option("--key", help="A public key to trust. Default: those that the file names.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check an export offline; exit 1 where it does not hold, with the first link that is broken.

    \b
    Examples:
      stateline audit verify audit.jsonl --key "$(cat audit.pub)"
      stateline audit verify audit.jsonl --json
    """
    from stateline.core.audit import NotAnExport
    from stateline.core.audit import verify as check
    from stateline.identity.audit import check_signature, public_keys

    trusted = public_keys(keys) if keys else ()
    try:
        with file.open("rb") as lines:
            verdict = check(lines, check_signature, trusted)
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}", code="file_unreadable") from None
    except NotAnExport as error:
        raise BadRequest(f"{file}: {error}", code="not_an_export") from None
    _tell(verdict, named=bool(trusted), as_json=as_json)
    if verdict.broken is not None:
        raise typer.Exit(1)


def _tell(verdict: Verdict, *, named: bool, as_json: bool) -> None:
    from base64 import b64encode

    broken = verdict.broken
    signers = [b64encode(each).decode() for each in verdict.keys]
    if as_json:
        shown = {
            "object": "audit.verdict",
            "holds": broken is None,
            "broken": None if broken is None else broken._asdict(),
            "chains": verdict.chains,
            "records": verdict.records,
            "erased": verdict.erased,
            "anchors": verdict.anchors,
            "keys": signers,
        }
        print_json(shown)
        return
    if broken is not None:
        where = f"line {broken.line}"
        if broken.session:
            where += f", session {broken.session} of {broken.tenant}"
        if broken.kind:
            where += f", event {broken.seq} ({broken.kind})"
        sys.stdout.write(f"does not hold: {where}: {broken.what}\n")
        return
    sys.stdout.write(
        f"holds: {verdict.chains} chains ({verdict.erased} erased), {verdict.records} records, "
        f"{verdict.anchors} anchors\n"
    )
    if not named:
        sys.stdout.write(f"signed by {', '.join(signers)}, as the file says; --key makes sure of it\n")


def _keys(loaded: settings.Config) -> tuple[AuditKey, ...]:
    import os

    from stateline import config as settings
    from stateline.identity.audit import audit_keys

    if loaded.audit is None:
        raise BadRequest("no key signs audits; set [audit] key_file or key_env", code="audit_off")
    return audit_keys(settings.audit_keys(loaded.audit, os.environ))


async def _write(
    loaded: settings.Config, keys: tuple[AuditKey, ...], out: Path, *, session: str | None, tenant: str | None
) -> int:
    """How many chains were written. The file takes its name when it is whole."""
    import os

    from stateline.core.audit import Writer

    writer = Writer([each.public for each in keys])
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    count, now_ms = 0, 0
    try:
        # Contents are in it: nobody else reads it before its owner has said so.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(writer.begin())
            async for lines, now_ms in _chains(loaded, session, tenant):  # noqa: B007 - the last one is the export's
                file.write(writer.chain(line.encode() for line in lines))
                count += 1
            file.write(writer.end(now_ms, keys[0].sign))
        part.replace(out)
    except OSError as error:
        raise BadRequest(f"{out} cannot be written: {error.strerror}", code="output_unwritable") from error
    finally:
        part.unlink(missing_ok=True)
    return count


async def _chains(
    loaded: settings.Config, session: str | None, tenant: str | None
) -> AsyncIterator[tuple[list[str], int]]:
    """Each chain's lines, and the time: through the server that has the database, or from the database itself."""
    from stateline.admission import auditor_of
    from stateline.core.errors import NotFound
    from stateline.ops.asking import ask_server
    from stateline.stores.clock import SystemClock
    from stateline.wiring import open_store

    clock, path = SystemClock(), loaded.store.path
    wanted = [ref for ref in await _sessions(loaded, tenant) if session in (None, ref[1])]
    served = path is not None and ask_server(path, "GET", "/v1/admin/status") is not None
    store = None if served else await open_store(loaded.store, clock)
    try:
        auditor = None if store is None else auditor_of(loaded, store, clock)
        for whose, name in wanted:
            if auditor is not None:
                try:
                    yield await auditor.chain(whose, name), clock.now_ms()
                except NotFound:
                    continue  # It was erased meanwhile, and nothing had happened in it.
                continue
            assert path is not None
            body = {"tenant": whose, "session": name}
            answer = ask_server(path, "POST", _PATH, body, timeout_s=_TIMEOUT_S)
            if answer is None:
                raise BadRequest("the server stopped before the export was done; try again", code="server_stopped")
            yield answer["lines"], clock.now_ms()
    finally:
        if store is not None:
            await store.close()


async def _sessions(loaded: settings.Config, tenant: str | None) -> list[tuple[str, str]]:
    """All sessions and erased ones whose chains are kept, by tenant and id."""
    from contextlib import aclosing

    from stateline.core.events import AuditKept, SessionCreated
    from stateline.store_logs import read_logs
    from stateline.stores.logs import Wanted

    found: set[tuple[str, str]] = set()
    async with aclosing(read_logs(loaded.store, Wanted(("session_created", "audit_kept")))) as pages:
        async for page in pages:
            for event in page.events:
                body = event.body
                if type(body) is AuditKept:
                    found.add((body.tenant, body.session))
                elif type(body) is SessionCreated and body.kind != "system":
                    found.add(event.session)
    return sorted(ref for ref in found if tenant in (None, ref[0]))
