"""Reloading and stopping, of the real server process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from openai import NotFoundError, PermissionDeniedError, RateLimitError
from tests.crash.harness import Server, running_server, until
from tests.ops.server import admin, status_of

from stateline.testing import Answer, Gate, ScriptedUpstream
from stateline.testing.scripted import Asked


class Script:
    """Says which upstream model was asked; waits at the gate where a test has shut it."""

    def __init__(self) -> None:
        self.gate: Gate | None = None

    def __call__(self, asked: Asked, attempt: int) -> Answer:
        return Answer(text=f"answered by {asked.model} to {asked.user_text}", gate=self.gate)


class House(NamedTuple):
    server: Server
    script: Script
    url: str

    def edit(self, old: str, new: str) -> None:
        text = self.server.config.read_text()
        assert old in text
        self.server.config.write_text(text.replace(old, new))

    async def reload(self) -> dict[str, Any]:
        status, body = await admin(self.server, "POST", "/v1/admin/reload")
        assert status == 200, body
        return body

    async def ask(self, model: str = "scripted", **options: Any) -> Any:
        async with self.server.client() as client:
            created: Any = client.responses.create
            return await created(model=model, input="hi", **options)


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    script = Script()
    async with ScriptedUpstream(script) as url, running_server(tmp_path, url) as server:
        yield House(server, script, url)


async def test_a_reload_brings_new_models_limits_and_the_rest_and_names_what_it_cannot(house: House) -> None:
    assert await house.reload() == {"object": "reload", "changed": [], "restart_needed": []}
    house.edit('name = "chat"\nmodel = "scripted"', 'name = "chat"\nmodel = "renamed"\nupstream_model = "up-2"')
    house.edit("[server]\n", '[server]\nlog_level = "warning"\nhost = "localhost"\n')
    house.edit(f"port = {house.server.port}", "port = 1")
    house.edit("stateline.db", "other.db")
    with house.server.config.open("a") as out:
        out.write('[limits]\nsteps_max = 7\n[retention]\nidle_s = 100000\n[auth]\nmode = "keys"\n')
    assert await house.reload() == {
        "object": "reload",
        "changed": ["server.log_level", "limits.steps_max", "retention.idle_s", "deployments.chat"],
        "restart_needed": ["server.host", "server.port", "auth.mode", "store.url"],
    }
    assert "up-2" in (await house.ask("renamed")).output_text
    with pytest.raises(NotFoundError):
        await house.ask("scripted")
    # What waits for a restart is named again; what was changed is not.
    again = await house.reload()
    assert again["changed"] == []
    assert again["restart_needed"] == ["server.host", "server.port", "auth.mode", "store.url"]
    lines = house.server.log.read_text()
    assert '"reloaded the configuration; changed:' not in lines.partition("steps_max")[2]


@pytest.mark.parametrize(
    ("broken", "code", "line"),
    [
        ("[limits]\nsteps_mx = 1\n", "config_unknown_key", "unknown key `steps_mx`; did you mean `steps_max`?"),
        ("[[[", "config_syntax", "not valid TOML"),
        (
            '[[deployments]]\nname = "x"\nmodel = "x"\ncloud = "openai"\napi_key_env = "NOT_SET_ANYWHERE"\n',
            "config_secret_missing",
            "deployment x: NOT_SET_ANYWHERE is not set",
        ),
    ],
)
async def test_a_file_that_does_not_validate_changes_nothing(house: House, broken: str, code: str, line: str) -> None:
    house.edit('name = "chat"\nmodel = "scripted"', 'name = "chat"\nmodel = "renamed"')
    good = house.server.config.read_text()
    house.server.config.write_text(good + broken)
    status, body = await admin(house.server, "POST", "/v1/admin/reload")
    assert (status, body["error"]["code"]) == (400, code)
    assert line in body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    assert (await house.ask()).status == "completed"
    house.server.signal(SIGHUP)
    await until(lambda: house.server.log.read_text().count("the configuration was not reloaded") == 2)
    assert (await house.ask()).status == "completed"


async def test_sighup_reloads_and_a_turn_that_runs_keeps_its_deployment(house: House) -> None:
    gate = house.script.gate = Gate()
    gate.step(2)
    asking = asyncio.create_task(house.ask())
    async with asyncio.timeout(30):
        await gate.held()
    text = house.server.config.read_text()
    house.server.config.write_text(re.sub(r"\[\[deployments\]\]\nname = \"chat\".*?(?=\[\[)", "", text, flags=re.S))
    house.server.signal(SIGHUP)
    await until(lambda: "reloaded the configuration; changed: deployments.chat" in house.server.log.read_text())
    with pytest.raises(NotFoundError):
        await house.ask()
    gate.open()
    response = await asking
    assert response.status == "completed"
    assert response.stateline["deployment"] == "chat"


async def test_a_key_in_a_file_is_read_anew(house: House, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first")
    house.edit('auth = "none"\n\n[[dep', f'api_key_file = "{key}"\n\n[[dep')
    await house.reload()
    assert (await house.ask()).status == "completed"
    key.unlink()
    status, body = await admin(house.server, "POST", "/v1/admin/reload")
    assert (status, body["error"]["code"]) == (400, "config_secret_missing")
    assert (await house.ask()).status == "completed"


# -- stopping ------------------------------------------------------------------------------------------


async def test_a_stop_says_that_it_is_not_ready_while_it_still_answers(house: House) -> None:
    house.edit("[server]\n", "[server]\ndrain_s = 3\n")
    # A reload changes it as well, without a restart.
    assert (await house.reload())["changed"] == ["server.drain_s"]
    assert await status_of(house.server, "/readyz") == 200
    house.server.signal(SIGTERM)
    async with asyncio.timeout(3):
        while await status_of(house.server, "/readyz") == 200:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.01)
    assert await status_of(house.server, "/healthz") == 200
    assert (await house.ask()).status == "completed"
    process = house.server.process
    assert process is not None
    async with asyncio.timeout(30):
        assert await process.wait() == 0
    house.server.process = None


async def test_ctrl_c_and_a_second_signal_wait_for_no_load_balancer(house: House) -> None:
    house.edit("[server]\n", "[server]\ndrain_s = 60\n")
    await house.reload()
    assert await house.server.end(SIGINT, timeout_s=20) == 0
    await house.server.start()
    house.server.signal(SIGTERM)
    await until(lambda: "draining for 60 s" in house.server.log.read_text())
    assert await house.server.end(SIGTERM, timeout_s=20) == 128 + SIGTERM


def certificate(folder: Path, name: str) -> None:
    """Write a certificate for ``name`` and its key to where the configuration says."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
async def test_a_renewed_certificate_is_shown_after_a_reload_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    server = Server(tmp_path, "http://127.0.0.1:9/v1")
    text = server.config.read_text().replace("[server]\n", '[server]\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n')
    server.config.write_text(text)
    pem = tmp_path / "cert.pem"

    def shown() -> str:
        with contextlib.suppress(OSError):
            return ssl.get_server_certificate(("127.0.0.1", server.port), timeout=5).strip()
        return ""

    await server.spawn()
    try:
        await until_true(lambda: shown() == pem.read_text().strip())
        pem.write_text("broken")
        server.signal(SIGHUP)
        await until_true(lambda: "the configuration was not reloaded: server.tls_cert" in server.log.read_text())
        certificate(tmp_path, "second")
        server.signal(SIGHUP)
        await until_true(lambda: shown() == pem.read_text().strip())
        assert await server.end(SIGTERM) == 0
    finally:
        await server.close()


async def until_true(holds: Callable[[], bool]) -> None:
    """Wait for what a look from this thread would hold up."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - What is looked at is in another process.
            await asyncio.sleep(0.05)


CONTRACT = """contract: c
clauses:
  - id: {clause}
    text: This vendor's models go nowhere else.
    kind: exclusivity
    readings:
      - {{id: all, held_by: [a], deny: 'model.vendor == "lab"'}}
      - {{id: some, held_by: [b], deny: '{deny}'}}
"""
NOBODY = 'model.vendor == "nobody"'


@pytest.mark.parametrize(
    ("broken", "code", "line"),
    [
        (CONTRACT.format(clause="b", deny='model.vendr == "lab"'), "contract_predicate", "contracts/c.yaml:8"),
        (CONTRACT.format(clause="b", deny='model.vendor == "lab"') + "partys: [a]\n", "contract_invalid", "partys"),
        ("contract: [", "contract_syntax", "contracts/c.yaml"),
        (
            CONTRACT.format(clause="b", deny='model.vendor == "lab"')
            + "    effective: {from: 2026-02-01, until: 2026-01-01}\n",
            "contract_invalid",
            "contracts/c.yaml:9",
        ),
        (
            CONTRACT.format(clause="b", deny='model.vendor == "lab"') + "    amount: {exact: '38', unit: ''}\n",
            "contract_invalid",
            "is no ISO 4217 currency",
        ),
    ],
)
async def test_contracts_that_do_not_validate_leave_those_in_force(
    house: House, broken: str, code: str, line: str
) -> None:
    config = house.server.config
    config.write_text(
        re.sub(r"^cloud = ", 'vendor = "lab"\ncloud = ', config.read_text(), flags=re.M)
        + '[contracts]\npath = "contracts"\nposture = "b"\n'
    )
    folder = config.parent / "contracts"
    folder.mkdir()
    file = folder / "c.yaml"
    file.write_text(CONTRACT.format(clause="a", deny=NOBODY))
    await house.reload()
    assert (await house.ask()).stateline["verdict"]["clause"] == "c/a"
    gate = house.script.gate = Gate()
    gate.step(2)
    asking = asyncio.create_task(house.ask())
    async with asyncio.timeout(30):
        await gate.held()

    file.write_text(broken)
    status, body = await admin(house.server, "POST", "/v1/admin/reload")
    assert (status, body["error"]["code"]) == (400, code)
    assert line in body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    house.server.signal(SIGHUP)
    await until(lambda: "the configuration was not reloaded" in house.server.log.read_text())
    gate.open()
    assert (await asking).status == "completed"
    house.script.gate = None
    assert (await house.ask()).stateline["verdict"]["clause"] == "c/a"

    file.write_text(CONTRACT.format(clause="b", deny='model.vendor == "lab"'))
    await house.reload()
    with pytest.raises(PermissionDeniedError, match="c/b"):
        await house.ask()


async def test_policies_that_do_not_validate_leave_those_in_force(house: House) -> None:
    config = house.server.config
    config.write_text(config.read_text() + '[policy]\npath = "policies"\n')
    folder = config.parent / "policies"
    status, body = await admin(house.server, "POST", "/v1/admin/reload")
    assert (status, body["error"]["code"]) == (400, "policy_unreadable")
    folder.mkdir()
    (folder / "a.cedar").write_text("permit(principal, action, resource);")
    assert {"policy.path", "policy"} <= set((await house.reload())["changed"])
    (folder / "a.cedar").write_text("\npermit(principal, action, resource) when { context.aproved };")
    status, body = await admin(house.server, "POST", "/v1/admin/reload")
    assert (status, body["error"]["code"]) == (400, "policy_invalid")
    assert "policies/a.cedar:2: attribute `aproved`" in body["error"]["message"]
    (folder / "a.cedar").write_text("permit(principal, action, resource);")
    assert (await house.reload())["changed"] == []
    (folder / "a.cedar").write_text("permit(principal, action, resource) when { context.approved };")
    assert (await house.reload())["changed"] == ["policy"]


async def test_a_budget_below_what_is_spent_changes_nothing(house: House) -> None:
    def budget(limit: str, mode: str = "hard") -> str:
        return f'[[budgets]]\nname = "ours"\ntenant = "default"\nusd_per_month = "{limit}"\nmode = "{mode}"\n'

    async def spent() -> list[str]:
        status, body = await admin(house.server, "GET", "/v1/admin/budgets")
        assert status == 200
        return [f"{each['name']} {each['limit']}" for each in body["data"] if Decimal(each["spent"]) > 0]

    given = house.server.config.read_text()
    bare = re.sub(r"^price = .*\n", "", re.sub(r"\[\[budgets\]\][^\[]*", "", given), flags=re.M)
    price = 'price = {currency = "USD", input_per_mtok = "1000", output_per_mtok = "1000"}\n'
    priced = re.sub(r"^(cloud = .*\n)", r"\1" + price, bare, flags=re.M)
    house.server.config.write_text(priced + budget("1000"))
    await house.reload()
    await until_async(house.ask, spent)
    assert await spent() == ["ours 1000"]

    house.server.config.write_text(priced + budget("0.000001"))
    status, body = await admin(house.server, "POST", "/v1/admin/reload")
    assert (status, body["error"]["code"]) == (400, "budget_below_spent")
    assert "spent" in body["error"]["message"]
    assert await spent() == ["ours 1000"]
    assert (await house.ask()).status == "completed"

    house.server.config.write_text(priced + budget("0.000001", "warn"))
    await house.reload()
    assert (await house.ask()).status == "completed"


async def test_a_reload_brings_rate_limits_and_takes_them_away(house: House) -> None:
    given = house.server.config.read_text()
    refused: list[RateLimitError] = []

    async def ask() -> None:
        async with house.server.client() as client:
            create: Any = client.with_options(max_retries=0).responses.create
            try:
                await create(model="scripted", input="hi")
            except RateLimitError as error:
                refused.append(error)

    async def was_refused() -> bool:
        return bool(refused)

    async def was_not_refused() -> bool:
        before = len(refused)
        await ask()
        return len(refused) == before

    house.server.config.write_text(given + "\n[[rate_limits]]\nrequests_per_minute = 1\n")
    assert (await house.reload())["changed"] == ["rate_limits.all"]
    await until_async(ask, was_refused)
    assert refused[0].code == "rate_limit_exceeded"
    house.server.config.write_text(given)
    assert (await house.reload())["changed"] == ["rate_limits.all"]
    await until_async(ask, was_not_refused)
    assert (await house.ask()).status == "completed"


async def until_async(do: Callable[[], Awaitable[Any]], holds: Callable[[], Awaitable[Any]], tries: int = 50) -> None:
    """Do it until something holds: a reload's prices count a moment later."""
    for _ in range(tries):
        await do()
        if await holds():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it never held")
