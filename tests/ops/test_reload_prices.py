"""Prices of the real server: files that are read at a start and a reload, and mistakes that change nothing."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from signal import SIGHUP
from typing import Any

import pytest
from tests.crash.harness import Server, running_server, until
from tests.ops.server import admin

from stateline.testing import ScriptedUpstream

ROW = """
[[prices]]
cloud = "openai-compatible"
model = "scripted"
currency = "USD"
input_per_mtok = 0
per_call = "{fee}"
"""


async def cost(server: Server) -> list[tuple[Decimal, str]]:
    async with server.client() as client:
        created: Any = client.responses.create
        response = await created(model="scripted", input="hi")
        return [(Decimal(each["amount"]), each["currency"]) for each in response.stateline["cost"]]


def usd(amount: str) -> list[tuple[Decimal, str]]:
    return [(Decimal(amount), "USD")]


BROKEN = [
    ({"b.toml": ROW.format(fee="1")}, "price_overlap", "has two prices on one day"),
    ({"a.toml": ROW.format(fee="7").replace('currency = "USD"\n', "")}, "price_invalid", "a price has a currency"),
    ({"b.json": '{"prices": [{"cloud": "aws", "mod'}, "price_invalid", "as a file is that came in part"),
]


@pytest.mark.parametrize(("files", "code", "said"), BROKEN)
async def test_prices_that_cannot_be_used_leave_those_in_force(
    tmp_path: Path, files: dict[str, str], code: str, said: str
) -> None:
    prices = tmp_path / "prices"
    prices.mkdir()
    (prices / "a.toml").write_text(ROW.format(fee="0.25"))
    settings = f'\n[prices]\npath = "{prices}"\n'
    async with ScriptedUpstream() as url, running_server(tmp_path, url, settings=settings) as server:
        assert await cost(server) == usd("0.25")
        for name, text in files.items():
            (prices / name).write_text(text)
        status, body = await admin(server, "POST", "/v1/admin/reload")
        assert (status, body["error"]["code"]) == (400, code)
        assert said in body["error"]["message"]
        assert "\n" not in body["error"]["message"]
        server.signal(SIGHUP)
        await until(lambda: server.log.read_text().count("the configuration was not reloaded") == 2)
        assert await cost(server) == usd("0.25")

        for name in files:
            (prices / name).unlink(missing_ok=True)
        (prices / "a.toml").write_text(ROW.format(fee="0.50"))
        status, body = await admin(server, "POST", "/v1/admin/reload")
        assert status == 200, body
        assert await cost(server) == usd("0.5")


def test_a_start_with_prices_that_cannot_be_used_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "a.toml").write_text(ROW.format(fee="-1"))
    config = tmp_path / "stateline.toml"
    config.write_text('[prices]\npath = "prices"\n')
    command = [sys.executable, "-c", "from stateline.cli import main; main()", "serve", "--config", str(config)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert "a.toml: prices[0]: scripted on openai-compatible" in line
    assert "a price of a call that is no amount" in line
    assert [each.name for each in tmp_path.iterdir() if "stateline.db" in each.name] == []
