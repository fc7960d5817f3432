"""`stateline usage export` over the stores themselves: every call once, whatever session it lies in."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from decimal import Decimal
from pathlib import Path

from tests.postgres import new_database
from tests.unit.money.test_focus import toolkit
from tests.usage.histories import FAR, NEAR, NEXT_DAY, ONE_DAY, USED, Ledger, configure
from typer.testing import CliRunner

from stateline.cli import app
from stateline.core.errors import StatelineError
from stateline.ports import Store
from stateline.stores.postgres import open_postgres
from stateline.stores.sqlite import open_sqlite
from stateline.testing.postgres_server import PostgresServer

COMMITMENTS = """
contract: openai-azure
parties: [openai, azure]
clauses:
  - id: spend
    text: A promise.
    kind: commitment
    payer: openai
    payee: azure
    effective: {from: 2026-01-01, until: 2027-01-01}
    amount: {min: "1000", unit: USD}
    commitment:
      model: minimum
      interval: annual
      focus:
        ContractCommitmentBenefitCategory: Discount
        ContractCommitmentCreated: 2026-01-01
        ContractCommitmentLastUpdated: 2026-01-01
        ContractCommitmentModel: Discontinuous
        ContractCommitmentOfferCategory: Negotiated
        ContractCommitmentPaymentInterval: Annual
        ContractCommitmentPaymentModel: No Upfront
        ContractCommitmentType: MACC
  - id: no-commitment
    kind: claim
"""


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["usage", *arguments])
    assert result.exit_code == code, result
    return result.stdout


def refused(*arguments: str) -> StatelineError:
    """The error that the command line prints as one line, and answers with exit 2."""
    error = CliRunner().invoke(app, ["usage", *arguments]).exception
    assert isinstance(error, StatelineError), error
    return error


async def fill(store: Store) -> None:
    """Two tenants, a fork, two days, a lost call, stateless calls, calls without a price, and one under way."""
    try:
        ledger = Ledger(store)
        # The calls first: their tariffs lie in sessions that are read later.
        one = await ledger.create("one", tenant="acme")
        await ledger.call(one, NEAR)
        fork = await ledger.create("fork", one, tenant="acme")
        await ledger.call(fork, NEAR)
        await ledger.call(one, None)
        await ledger.lost(one, FAR, "0.75")
        await ledger.call(one, NEAR, day=NEXT_DAY)
        first = await ledger.node("node-1", NEAR)
        second = await ledger.node("node-2", FAR, day=NEXT_DAY)
        await ledger.stateless(first, "c1", NEAR)
        await ledger.stateless(second, "c2", FAR)
        await ledger.stateless(second, "c3", FAR, ends=False)
    finally:
        await store.close()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def shown(rows: list[dict[str, str]]) -> list[tuple[str, ...]]:
    return [
        (row["ChargePeriodStart"][:10], json.loads(row["Tags"])["stateline/tenant"], row["x_stateline_model"],
         row["SkuMeter"], row["ConsumedQuantity"])
        for row in rows
    ]  # fmt: skip


def sums(rows: list[dict[str, str]], column: str) -> Decimal:
    return sum((Decimal(row[column]) for row in rows), Decimal(0))


def check_everything(config: str, folder: Path) -> None:
    rows = rows_of(run("export", "--config", config))
    assert sorted(shown(rows)) == sorted(
        [
            ("2100-11-02", "acme", "gpt-5", "Cached Input Tokens", "400"),
            ("2100-11-02", "acme", "gpt-5", "Input Tokens", "1600"),
            ("2100-11-02", "acme", "gpt-5", "Output Tokens", "200"),
            ("2100-11-02", "other", "gpt-5", "Cached Input Tokens", "200"),
            ("2100-11-02", "other", "gpt-5", "Input Tokens", "800"),
            ("2100-11-02", "other", "gpt-5", "Output Tokens", "100"),
            ("2100-11-02", "other", "claude-opus-4-8", "Cached Input Tokens", "200"),
            ("2100-11-02", "other", "claude-opus-4-8", "Input Tokens", "800"),
            ("2100-11-02", "other", "claude-opus-4-8", "Output Tokens", "100"),
            ("2100-11-02", "acme", "claude-opus-4-8", "Reserved Amount", "1"),
            ("2100-11-03", "acme", "gpt-5", "Cached Input Tokens", "200"),
            ("2100-11-03", "acme", "gpt-5", "Input Tokens", "800"),
            ("2100-11-03", "acme", "gpt-5", "Output Tokens", "100"),
        ]
    )
    cost = sum((Decimal(row["BilledCost"]) for row in rows), Decimal(0))
    file = folder / "usage.csv"
    summary = json.loads(run("export", "--config", config, "-o", str(file), "--json"))
    assert rows_of(file.read_text()) == rows
    assert [path.name for path in folder.iterdir() if "part" in path.name] == []
    assert summary["rows"] == len(rows)
    assert summary["calls"] == 7
    assert summary["under_way"] == 1
    assert Decimal(summary["costs"]["USD"]) == cost
    assert summary["unpriced"] == [
        {"deployment": "unpriced", "model": "gpt-5", "calls": 1, "tokens": USED.total_tokens}
    ]
    code, out = toolkit("validate", str(file), "--supports", "SupportsUnitPricing")
    assert code == 0, out
    later = rows_of(run("export", "--config", config, "--from", NEXT_DAY.isoformat()))
    assert shown(later) == [row for row in shown(rows) if row[0] == "2100-11-03"]
    early = rows_of(run("export", "--config", config, "--to", ONE_DAY.isoformat()))
    assert shown(early) == [row for row in shown(rows) if row[0] == "2100-11-02"]
    assert run("export", "--config", config, "--to", "2020-01-01").count("\n") == 1


async def test_all_calls_of_a_sqlite_file_are_exported_once(tmp_path: Path) -> None:
    await fill(await open_sqlite(tmp_path / "stateline.db"))
    await asyncio.to_thread(check_everything, configure(tmp_path, f"sqlite:///{tmp_path}/stateline.db"), tmp_path)


async def test_all_calls_of_a_postgresql_database_are_exported_once(postgres: PostgresServer, tmp_path: Path) -> None:
    url = await new_database(postgres)
    await fill(await open_postgres(url))
    await asyncio.to_thread(check_everything, configure(tmp_path, url), tmp_path)


async def test_the_words_beside_the_rows_say_what_is_in_none(tmp_path: Path) -> None:
    await fill(await open_sqlite(tmp_path / "stateline.db"))
    config = configure(tmp_path, f"sqlite:///{tmp_path}/stateline.db")
    result = await asyncio.to_thread(CliRunner().invoke, app, ["usage", "export", "--config", config])
    assert "no price is known for 1 calls at unpriced (1100 tokens); they are in no row\n" in result.stderr
    assert "1 calls had not ended; they are in no row\n" in result.stderr
    assert "7 calls in 13 rows: 0.76" in result.stderr


async def test_a_tariff_that_is_nowhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "stateline.db")
    ledger = Ledger(store)
    await ledger.call(await ledger.create("one"), NEAR)
    await store.close()
    config = configure(tmp_path, f"sqlite:///{tmp_path}/stateline.db")
    error = await asyncio.to_thread(refused, "export", "--config", config)
    assert error.code == "tariff_missing"
    assert NEAR.id in error.message


def test_commitments_are_exported_from_the_contracts(tmp_path: Path) -> None:
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "c.yaml").write_text(COMMITMENTS)
    config = configure(tmp_path, "sqlite:///none.db", f'[contracts]\npath = "{tmp_path}/contracts"\n')
    file = tmp_path / "commitments.csv"
    options = ("export", "--config", config, "--dataset", "contract-commitment", "--to", "2026-06-01")
    assert json.loads(run(*options, "-o", str(file), "--json"))["rows"] == 1
    (row,) = rows_of(file.read_text())
    assert (row["ContractCommitmentId"], row["ContractCommitmentCost"], row["ContractCommitmentLifecycleStatus"]) == (
        "openai-azure/spend", "1000", "Active",
    )  # fmt: skip
    code, out = toolkit("validate", str(file), "--dataset", "contract-commitment")
    assert code == 0, out
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    (incomplete / "c.yaml").write_text(COMMITMENTS.replace("        ContractCommitmentType: MACC\n", ""))
    error = refused(*options, "--contracts", str(incomplete))
    assert error.code == "focus_column_missing"
    assert "openai-azure/spend has no ContractCommitmentType" in error.message


PAID = """
contract: acme-azure
parties: [acme, azure]
clauses:
  - id: prepaid
    kind: commitment
    payer: acme
    payee: azure
    effective: {from: 2100-11-01, until: 2101-11-01}
    amount: {exact: "0.005", unit: USD}
    commitment: {model: prepaid, interval: full, accrues: use}
  - id: minimum
    kind: commitment
    payer: acme
    payee: azure
    effective: {from: 2100-11-01, until: 2101-11-01}
    amount: {exact: "1000", unit: USD}
    commitment: {model: minimum, interval: annual, accrues: use}
  - id: power
    kind: commitment
    payer: other
    payee: azure
    effective: {from: 2100-11-01, until: 2101-11-01}
    amount: {exact: "2", unit: GW}
    commitment: {model: reserved}
"""


async def test_use_that_a_commitment_has_paid_is_not_billed_again(tmp_path: Path) -> None:
    await fill(await open_sqlite(tmp_path / "stateline.db"))
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "c.yaml").write_text(PAID)
    config = configure(tmp_path, f"sqlite:///{tmp_path}/stateline.db", f'[contracts]\npath = "{tmp_path}/contracts"\n')

    def check() -> None:
        file = tmp_path / "usage.csv"
        summary = json.loads(run("export", "--config", config, "-o", str(file), "--json"))
        assert [one["id"] for one in summary["not_applied"]] == ["acme-azure/power"]
        rows = [row for row in rows_of(file.read_text()) if row["ServiceProviderName"] == "azure"]
        # Three calls of 0.002025 on the first day, and one on the second; 0.005 were paid before.
        assert sums(rows, "ContractedCost") == Decimal("0.0081")
        assert sums(rows, "EffectiveCost") == Decimal("0.0081")
        assert sums(rows, "BilledCost") == Decimal("0.0031")
        applied = [
            (each["ContractCommitmentId"], Decimal(str(each["ContractCommitmentAppliedCost"])))
            for row in rows
            for each in json.loads(row["ContractApplied"])["Elements"]
        ]
        assert sum(cost for name, cost in applied if name == "acme-azure/prepaid") == Decimal("0.005")
        assert sum(cost for name, cost in applied if name == "acme-azure/minimum") == Decimal("0.0031")
        # What was used before the first day that is asked for counts, too.
        later = rows_of(run("export", "--config", config, "--from", NEXT_DAY.isoformat()))
        assert sums(later, "BilledCost") == Decimal("0.002025")
        other = rows_of(run("export", "--config", config, "--payer", "other"))
        assert {row["ContractApplied"] for row in other} == {""}
        code, out = toolkit("validate", str(file), "--supports", "SupportsUnitPricing")
        assert code == 0, out

    await asyncio.to_thread(check)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    config = configure(tmp_path, f"sqlite:///{tmp_path}/none.db")
    for arguments, code in (
        (("--from", "November"), "invalid_value"),
        (("--from", "2026-11-02", "--to", "2026-11-01"), "invalid_value"),
        (("--json",), "invalid_value"),
        ((), "store_missing"),
        (("--dataset", "contract-commitment"), "contracts_missing"),
    ):
        error = refused("export", "--config", config, *arguments)
        assert error.code == code
        assert "\n" not in error.message


async def test_a_file_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    await fill(await open_sqlite(tmp_path / "stateline.db"))
    config = configure(tmp_path, f"sqlite:///{tmp_path}/stateline.db")
    error = await asyncio.to_thread(refused, "export", "--config", config, "-o", str(tmp_path / "none" / "usage.csv"))
    assert error.code == "output_unwritable"


def test_help_has_examples() -> None:
    assert "stateline usage export --from 2026-11-01" in run("export", "--help")
