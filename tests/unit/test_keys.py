"""API keys in the log: made, found, expired, revoked; by several writers; and the command line over them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stateline.cli import app
from stateline.cli.keys import seconds_of
from stateline.core.errors import BadRequest, Conflict, Unauthorized
from stateline.core.events import Event, KeyCreated
from stateline.core.limits import KEY_APPENDS_MAX, KEYS_REFRESH_S, KEYS_UNKNOWN_REFRESH_S, PRINCIPAL_NAME_CHARS_MAX
from stateline.core.principals import DEFAULT_SCOPES, SCOPES
from stateline.identity.admin_file import admin_file, admin_path, new_token, read_admin_file
from stateline.identity.keys import KEYS_SESSION, Keys, OpenAuthenticator
from stateline.ports import Fenced, Ownership
from stateline.stores.memory import MemoryStore


class SetClock:
    def __init__(self) -> None:
        self.at_ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.at_ms

    async def sleep(self, seconds: float) -> None:
        self.at_ms += int(seconds * 1000)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def store(clock: SetClock) -> AsyncGenerator[MemoryStore]:
    made = MemoryStore(clock=clock)
    yield made
    await made.close()


def _bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + key.encode()}


async def test_a_key_opens_its_tenant_and_survives_a_restart(store: MemoryStore, clock: SetClock) -> None:
    keys = Keys(store, clock, os.urandom)
    record, key = await keys.create("shop", "checkout")
    assert key.startswith("sk-sl-")
    for each in (keys, Keys(store, clock, os.urandom)):
        caller = await each.authenticate(_bearer(key))
        assert (caller.tenant, caller.id, caller.scopes) == ("shop", record.id, DEFAULT_SCOPES)
        assert await each.authenticate({b"x-api-key": key.encode()}) == caller


async def test_only_the_hash_of_a_key_is_kept(store: MemoryStore, clock: SetClock) -> None:
    _, key = await Keys(store, clock, os.urandom).create("shop", "checkout")
    kept = str([event async for event in store.read(KEYS_SESSION)])
    assert key not in kept
    assert key.removeprefix("sk-sl-") not in kept


async def test_a_key_has_the_scopes_and_the_bounds_that_it_was_made_with(store: MemoryStore, clock: SetClock) -> None:
    keys = Keys(store, clock, os.urandom)
    record, key = await keys.create("shop", "desk", scopes=["audit", "approve"], user="ann", agent="desk")
    assert (record.scopes, record.user, record.agent) == (("approve", "audit"), "ann", "desk")
    for each in (keys, Keys(store, clock, os.urandom)):
        caller = await each.authenticate(_bearer(key))
        assert (caller.kind, caller.user, caller.agent, caller.scopes) == ("key", "ann", "desk", {"approve", "audit"})
        assert caller.allows("approve")
        assert not caller.allows("responses")


async def test_a_key_of_before_there_were_scopes_may_what_keys_may(store: MemoryStore, clock: SetClock) -> None:
    old = KeyCreated(key_id="key_old", tenant="shop", name="old", hash=sha256(b"sk-sl-old").hexdigest())
    await store.create(KEYS_SESSION)
    own = Ownership(session=KEYS_SESSION, owner="then", epoch=1, head=0)
    await store.append(own, 0, [Event(session=KEYS_SESSION, seq=1, at_ms=clock.now_ms(), body=old)], release=True)
    assert (await Keys(store, clock, os.urandom).authenticate(_bearer("sk-sl-old"))).scopes == DEFAULT_SCOPES


@pytest.mark.parametrize("scopes", [[], ["respones"], ["responses", ""], ["x" * 500]])
async def test_scopes_that_do_not_exist_are_refused(store: MemoryStore, clock: SetClock, scopes: list[str]) -> None:
    with pytest.raises(BadRequest, match=", ".join(SCOPES)) as refused:
        await Keys(store, clock, os.urandom).create("shop", "x", scopes=scopes)
    assert refused.value.param == "scopes"
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("bound", [{"user": "a" * (PRINCIPAL_NAME_CHARS_MAX + 1)}, {"agent": "a\n"}])
async def test_who_a_key_speaks_for_has_a_printable_name(
    store: MemoryStore, clock: SetClock, bound: dict[str, str]
) -> None:
    with pytest.raises(BadRequest) as refused:
        await Keys(store, clock, os.urandom).create(
            "shop", "x", user=bound.get("user", ""), agent=bound.get("agent", "")
        )
    assert refused.value.param in bound


async def test_a_key_expires_on_time(store: MemoryStore, clock: SetClock) -> None:
    keys = Keys(store, clock, os.urandom)
    _, key = await keys.create("shop", "trial", expires_in_s=10)
    clock.at_ms += 9_999
    await keys.authenticate(_bearer(key))
    clock.at_ms += 1
    with pytest.raises(Unauthorized, match="expired"):
        await keys.authenticate(_bearer(key))


async def test_a_key_holds_until_it_is_revoked_or_over(store: MemoryStore, clock: SetClock) -> None:
    keys = Keys(store, clock, os.urandom)
    kept, _ = await keys.create("shop", "kept")
    short, _ = await keys.create("shop", "short", expires_in_s=60)
    gone, _ = await keys.create("shop", "gone")
    await keys.revoke(gone.id)
    assert [keys.holds("shop", each.id) for each in (kept, short, gone)] == [True, True, False]
    # Another tenant's key, or who is no key at all, is not judged here.
    assert keys.holds("other", gone.id)
    assert keys.holds("shop", "user:ann")
    clock.at_ms += 60_000
    assert [keys.holds("shop", each.id) for each in (kept, short)] == [True, False]


async def test_what_another_process_does_is_seen_after_the_refresh(store: MemoryStore, clock: SetClock) -> None:
    here, there = Keys(store, clock, os.urandom), Keys(store, clock, os.urandom)
    await here.load()
    record, key = await there.create("shop", "new")
    with pytest.raises(Unauthorized):
        await here.authenticate(_bearer(key))
    clock.at_ms += int(KEYS_REFRESH_S * 1000) + 1
    await here.authenticate(_bearer(key))
    await there.revoke(record.id)
    clock.at_ms += int(KEYS_REFRESH_S * 1000) + 1
    with pytest.raises(Unauthorized):
        await here.authenticate(_bearer(key))


async def test_a_key_that_was_just_made_elsewhere_is_looked_for_but_not_at_every_try(
    store: MemoryStore, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Keys(store, clock, os.urandom), Keys(store, clock, os.urandom)
    await here.load()
    _, key = await there.create("shop", "new")
    clock.at_ms += int(KEYS_UNKNOWN_REFRESH_S * 1000) + 1
    assert (await here.authenticate(_bearer(key))).tenant == "shop"
    looks, load = 0, here.load

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await load()

    monkeypatch.setattr(here, "load", counted)
    for _ in range(5):
        with pytest.raises(Unauthorized):
            await here.authenticate(_bearer("sk-sl-unknown"))
    assert looks == 0


async def test_many_writers_lose_no_key(store: MemoryStore, clock: SetClock) -> None:
    writers = [Keys(store, clock, os.urandom) for _ in range(4)]
    await asyncio.gather(*(writer.create("shop", f"key {at}") for at, writer in enumerate(writers)))
    assert {record.name for record in await Keys(store, clock, os.urandom).list()} == {f"key {at}" for at in range(4)}


async def test_an_epoch_that_was_raised_without_an_event_is_passed(store: MemoryStore, clock: SetClock) -> None:
    keys = Keys(store, clock, os.urandom)
    await keys.create("shop", "first")
    own = Ownership(session=KEYS_SESSION, owner="died", epoch=2, head=2)
    await store.append(own, 2, [])
    await store.release(own, seen=0)
    await keys.create("shop", "second")
    assert len(await keys.list()) == 2


async def test_there_is_a_last_key(store: MemoryStore, clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateline.identity.keys.KEYS_MAX", 2)
    keys = Keys(store, clock, os.urandom)
    for name in ("one", "two"):
        await keys.create("shop", name)
    with pytest.raises(BadRequest) as full:
        await keys.create("shop", "three")
    assert full.value.code == "too_many_keys"


async def test_a_session_that_others_keep_taking_is_given_up(store: MemoryStore, clock: SetClock) -> None:
    keys = Keys(store, clock, os.urandom)
    await keys.create("shop", "one")
    tries = 0

    async def fenced(*_: object, **__: object) -> int:
        nonlocal tries
        tries += 1
        raise Fenced("taken")

    store.append = fenced
    with pytest.raises(Conflict):
        await keys.create("shop", "two")
    assert tries == KEY_APPENDS_MAX


async def test_revoking_twice_is_no_error(store: MemoryStore, clock: SetClock) -> None:
    keys = Keys(store, clock, os.urandom)
    record, _ = await keys.create("shop", "a")
    assert await keys.revoke(record.id) == await keys.revoke(record.id)


async def test_the_admin_token_is_told_from_keys() -> None:
    token = new_token(os.urandom)
    door = OpenAuthenticator(token)
    assert (await door.authenticate(_bearer(token))).scopes == {"admin"}
    assert (await door.authenticate(_bearer("anything"))).scopes == DEFAULT_SCOPES | {"approve"}
    assert (await OpenAuthenticator().authenticate({})).tenant == "default"


# -- the file beside the database ---------------------------------------------------------------------------


def test_the_admin_file_is_for_its_owner_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    database = tmp_path / "stateline.db"
    assert read_admin_file(database) is None
    with admin_file(database, "http://127.0.0.1:1", "token") as path:
        assert path == admin_path(database)
        assert path.stat().st_mode & 0o777 == 0o600
        access = read_admin_file(database)
        assert access is not None
        assert (access.url, access.token) == ("http://127.0.0.1:1", "token")
    assert read_admin_file(database) is None


def test_a_broken_admin_file_is_named(tmp_path: Path) -> None:
    admin_path(tmp_path / "a.db").write_text("{")
    with pytest.raises(BadRequest, match=r"a\.db\.admin"):
        read_admin_file(tmp_path / "a.db")


# -- the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "stateline.toml"
    path.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/stateline.db"\n')
    return path


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_keys_are_made_listed_and_revoked_without_a_server(config: Path) -> None:
    key = _run("create", "--tenant", "shop", "--name", "agent", "--expires", "90d", "-c", str(config)).strip()
    assert key.startswith("sk-sl-")
    listed = _run("list", "-c", str(config))
    assert "shop" in listed
    assert "in force" in listed
    assert key not in listed
    key_id = next(word for word in listed.split() if word.startswith("key_"))
    assert "revoked" in _run("revoke", key_id, "-c", str(config))
    assert '"revoked_at": null' not in _run("list", "--json", "-c", str(config))


def test_scopes_and_bounds_are_listed(config: Path) -> None:
    bounds = ("--scope", "approve", "--scope", "audit", "--user", "ann", "--agent", "desk")
    _run("create", "--tenant", "shop", "--name", "x", *bounds, "-c", str(config))
    assert _run("list", "-c", str(config)).splitlines()[1].endswith("in force  approve audit  ann agent/desk")
    assert '"user": "ann"' in _run("list", "--json", "-c", str(config))


def test_a_file_that_a_killed_server_left_is_passed_over(config: Path, tmp_path: Path) -> None:
    admin_path(tmp_path / "stateline.db").write_text('{"url": "http://127.0.0.1:9", "token": "t", "pid": 1}')
    assert _run("create", "--tenant", "a", "--name", "b", "-c", str(config)).startswith("sk-sl-")


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("90d", 7_776_000), ("2w", 1_209_600), ("1y", 31_536_000)])
def test_durations(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "d", "0d", "-1d", "1.5d", "9999999999d", "1 d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="90d"):
        seconds_of(text)
