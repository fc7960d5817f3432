"""Secrets sealed in the log: they open for their own tenant and name, and print nowhere."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import traceback
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.errors import BadRequest, NotFound
from stateline.core.events import Event, SecretStored
from stateline.core.limits import KEYS_REFRESH_S, SECRET_BYTES_MAX, SECRET_NAME_CHARS_MAX, VAULT_KEYS_MAX
from stateline.core.secrets import Secret, reference_of
from stateline.identity import vault as module
from stateline.identity.log import SystemLog
from stateline.identity.raw_keys import new_key
from stateline.identity.vault import (
    VAULT_SESSION,
    MasterKey,
    Vault,
    VaultUnusable,
    master_keys,
)
from stateline.stores.memory import MemoryStore
from stateline.stores.sqlite import open_sqlite

PLANTED = "tok-planted-3f9a1c77"
RAW_KEY = new_key(os.urandom)


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


def _key() -> MasterKey:
    return master_keys(new_key(os.urandom))[0]


async def _stored(store: MemoryStore) -> list[SecretStored]:
    return [event.body async for event in store.read(VAULT_SESSION) if isinstance(event.body, SecretStored)]


async def test_a_secret_opens_after_a_restart_and_the_latest_counts(store: MemoryStore, clock: SetClock) -> None:
    key = _key()
    vault = Vault(store, clock, os.urandom, [key])
    await vault.put("acme", "github", Secret("first"))
    shown = await vault.put("acme", "github", Secret(PLANTED))
    assert (shown.tenant, shown.name, shown.key_id, shown.written_at_ms) == ("acme", "github", key.id, clock.at_ms)
    for each in (vault, Vault(store, clock, os.urandom, [key])):
        assert (await each.open("acme", "github")).reveal() == PLANTED
        assert [one.name for one in await each.list()] == ["github"]


async def test_another_tenant_has_no_such_secret(store: MemoryStore, clock: SetClock) -> None:
    vault = Vault(store, clock, os.urandom, [_key()])
    await vault.put("acme", "github", Secret(PLANTED))
    for act in (vault.open, vault.remove):
        with pytest.raises(NotFound) as missing:
            await act("shop", "github")
        assert missing.value.code == "secret_not_found"


async def test_what_another_process_removed_is_gone_after_the_refresh(store: MemoryStore, clock: SetClock) -> None:
    key = _key()
    here, there = (Vault(store, clock, os.urandom, [key]) for _ in range(2))
    await here.put("acme", "github", Secret(PLANTED))
    await there.remove("acme", "github")
    clock.at_ms += int(KEYS_REFRESH_S * 1000) + 1
    with pytest.raises(NotFound):
        await here.open("acme", "github")
    assert await here.list() == ()


# -- tampering -----------------------------------------------------------------------------------------------


async def _forge(store: MemoryStore, clock: SetClock, body: SecretStored) -> None:
    def ignore(_: Event) -> None:
        pass

    await SystemLog(VAULT_SESSION, "forger", store, clock, os.urandom, apply=ignore).append(body)


async def test_a_record_that_is_moved_to_another_name_or_tenant_does_not_open(
    store: MemoryStore, clock: SetClock
) -> None:
    vault = Vault(store, clock, os.urandom, [_key()])
    await vault.put("acme", "github", Secret(PLANTED))
    await vault.put("acme", "other", Secret("theirs"))
    github, other = await _stored(store)
    for forged in (
        msgspec.structs.replace(github, tenant="shop"),
        msgspec.structs.replace(github, name="other"),
        msgspec.structs.replace(other, sealed=github.sealed),
        msgspec.structs.replace(other, wrapped=github.wrapped),
        msgspec.structs.replace(other, sealed=github.wrapped, wrapped=github.sealed),
        msgspec.structs.replace(other, sealed=b""),
        msgspec.structs.replace(other, wrapped=b"short"),
    ):
        await _forge(store, clock, forged)
        await vault.list()
        with pytest.raises(VaultUnusable) as refused:
            await vault.open(forged.tenant, forged.name)
        assert refused.value.code == "secret_unreadable"


async def test_every_changed_bit_of_a_record_is_found(store: MemoryStore, clock: SetClock) -> None:
    vault = Vault(store, clock, os.urandom, [_key()])
    await vault.put("acme", "github", Secret(PLANTED))
    (record,) = await _stored(store)
    for field in ("wrapped", "sealed"):
        whole = getattr(record, field)
        for at in range(len(whole)):
            changed = bytearray(whole)
            changed[at] ^= 1 << (at % 8)
            vault._sealed.records["acme", "github"] = msgspec.structs.replace(record, **{field: bytes(changed)})  # pyright: ignore[reportPrivateUsage]
            with pytest.raises(VaultUnusable):
                await vault.open("acme", "github")


# -- rotation ------------------------------------------------------------------------------------------------


async def test_after_a_rotation_the_old_master_key_is_not_needed(store: MemoryStore, clock: SetClock) -> None:
    old, new = _key(), _key()
    await Vault(store, clock, os.urandom, [old]).put("acme", "github", Secret(PLANTED))
    clock.at_ms += 5
    both = Vault(store, clock, os.urandom, [new, old])
    await both.put("acme", "later", Secret("x"))
    assert (await both.open("acme", "github")).reveal() == PLANTED
    assert await both.rotate() == 1
    assert await both.rotate() == 0
    alone = Vault(store, clock, os.urandom, [new])
    assert (await alone.open("acme", "github")).reveal() == PLANTED
    shown = {each.name: each for each in await alone.list()}
    assert {each.key_id for each in shown.values()} == {new.id}
    assert shown["github"].written_at_ms == clock.at_ms - 5
    left = Vault(store, clock, os.urandom, [old])
    with pytest.raises(VaultUnusable) as missing:
        await left.open("acme", "github")
    assert missing.value.code == "vault_key_missing"
    assert new.id in str(missing.value)


async def test_a_rotation_that_stops_goes_on_the_next_time(store: MemoryStore, clock: SetClock) -> None:
    lost, old, new = _key(), _key(), _key()
    await Vault(store, clock, os.urandom, [old]).put("acme", "a", Secret("a"))
    await Vault(store, clock, os.urandom, [lost]).put("acme", "b", Secret("b"))
    with pytest.raises(VaultUnusable):
        await Vault(store, clock, os.urandom, [new, old]).rotate()
    assert await Vault(store, clock, os.urandom, [new, old, lost]).rotate() == 1
    assert (await Vault(store, clock, os.urandom, [new]).open("acme", "b")).reveal() == "b"


# -- what may be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n", "abc", "x" * 44, "A" * 43 + "=\n!!", "A" * 40])
def test_what_is_no_master_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        master_keys(text)
    assert refused.value.code == "vault_key_invalid"
    assert not text.strip() or text.strip() not in str(refused.value)


def test_there_are_so_many_master_keys() -> None:
    made = "\n".join(new_key(os.urandom) for _ in range(VAULT_KEYS_MAX))
    assert len({key.id for key in master_keys(made)}) == VAULT_KEYS_MAX
    with pytest.raises(BadRequest):
        master_keys(made + "\n" + new_key(os.urandom))


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "a b", "ä", "a\n", "n" * (SECRET_NAME_CHARS_MAX + 1)])
async def test_what_cannot_be_a_name_is_refused(store: MemoryStore, clock: SetClock, name: str) -> None:
    with pytest.raises(BadRequest):
        await Vault(store, clock, os.urandom, [_key()]).put("acme", name, Secret("x"))
    with pytest.raises(BadRequest):
        reference_of(f"vault:{name}")


def test_a_reference_is_told_from_other_text() -> None:
    assert reference_of("vault:github-token.v2") == "github-token.v2"
    assert reference_of("Bearer vault:x") is None
    assert reference_of("plain") is None


async def test_a_secret_has_its_bounds(store: MemoryStore, clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(store, clock, os.urandom, [_key()])
    await vault.put("acme", "long", Secret("x" * SECRET_BYTES_MAX))
    for value in ("", "x" * (SECRET_BYTES_MAX + 1)):
        with pytest.raises(BadRequest):
            await vault.put("acme", "a", Secret(value))
    monkeypatch.setattr(module, "SECRETS_MAX", 1)
    await vault.put("acme", "long", Secret("again"))
    with pytest.raises(BadRequest) as full:
        await vault.put("acme", "second", Secret("x"))
    assert full.value.code == "too_many_secrets"


# -- nowhere -------------------------------------------------------------------------------------------------


def _joined(each: Any) -> str:
    return "x" + each


def _percent(each: object) -> str:
    return "%s" % each  # noqa: UP031


LEAKS: tuple[Callable[[Any], object], ...] = (
    str,
    format,
    _joined,
    _percent,
    pickle.dumps,
    copy.copy,
    copy.deepcopy,
    json.dumps,
    msgspec.json.encode,
    msgspec.msgpack.encode,
    msgspec.to_builtins,
    vars,
    bytes,
    list,
)


@given(st.text(min_size=12).filter(lambda text: text not in "<secret>"))
def test_a_secret_does_not_print(value: str) -> None:
    secret = Secret(value)
    assert repr(secret) == "<secret>"
    assert value not in repr([secret])
    for leak in LEAKS:
        with pytest.raises(TypeError) as refused:
            leak(secret)
        assert value not in str(refused.value)
    assert secret.reveal() == value


async def test_a_secret_is_nowhere_in_files_logs_and_tracebacks(
    tmp_path: Path, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = await open_sqlite(tmp_path / "stateline.db", clock=clock)
    vault = Vault(store, clock, os.urandom, master_keys(RAW_KEY))
    await vault.put("acme", "github", Secret(PLANTED))
    await vault.put("acme", "github", Secret(PLANTED + "-2"))
    assert (await vault.open("acme", "github")).reveal().startswith(PLANTED)
    shown = [repr(vault), repr(await vault.list()), repr([event async for event in store.read(VAULT_SESSION)])]
    vault._sealed.records["shop", "github"] = vault._sealed.records["acme", "github"]  # pyright: ignore[reportPrivateUsage]
    try:
        await vault.open("acme", "absent")
    except NotFound as error:
        shown += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    await vault.remove("acme", "github")
    shown.append(caplog.text)

    def looked_at() -> list[bytes]:
        return [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]

    everything = [*looked_at(), *(text.encode() for text in shown)]
    await store.close()
    everything += looked_at()
    assert any(b"secret_stored" in raw for raw in everything)
    for planted in (PLANTED, RAW_KEY):
        assert not any(planted.encode() in raw for raw in everything)
