"""What a store's calls cost, exported, draws the contracts' commitments down to the last digit."""

from __future__ import annotations

import asyncio
import csv
import json
from decimal import Decimal
from pathlib import Path

from tests.usage.histories import NEXT_DAY, configure
from tests.usage.test_export import fill
from typer.testing import CliRunner

from stateline.cli import app
from stateline.stores.sqlite import open_sqlite

CONTRACT = """
contract: clouds
clauses:
  - id: azure
    kind: commitment
    payer: us
    payee: microsoft
    effective: {from: 2100-01-01, until: 2101-01-01}
    amount: {exact: "1000", unit: USD}
    commitment: {model: minimum, interval: annual, accrues: use}
  - id: aws-half
    kind: commitment
    payer: us
    payee: amazon
    effective: {from: 2100-01-01, until: 2101-01-01}
    amount: {exact: "1", unit: USD}
    commitment:
      model: minimum
      accrues: use
      applicability:
        InclusionOperator: And
        Inclusions:
          - {Dimension: BillingAccountId, Operator: In, Values: [acc-2], Applicability: {Cost: 0.5}}
"""


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result
    return result.stdout


def test_exported_use_is_what_the_report_draws_down(tmp_path: Path) -> None:
    url = tmp_path / "stateline.db"

    async def filled() -> None:
        await fill(await open_sqlite(url))

    asyncio.run(filled())
    file, contracts = tmp_path / "usage.csv", tmp_path / "contracts"
    contracts.mkdir()
    (contracts / "c.yaml").write_text(CONTRACT)
    config = configure(tmp_path, f"sqlite:///{url}")
    run("usage", "export", "--config", config, "-o", str(file))
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    billed = {
        cloud: sum((Decimal(row["BilledCost"]) for row in rows if row["InvoiceIssuerName"] == cloud), Decimal(0))
        for cloud in ("azure", "aws")
    }
    text = run(
        "contracts", "report", "--contracts", str(contracts), "--at", "2100-12-01", "--usage", str(file), "--json"
    )
    azure, aws = json.loads(text)["drawdown"]["commitments"]
    assert all(billed.values())
    assert Decimal(azure["intervals"][0]["drawn"]) == billed["azure"]
    assert Decimal(aws["intervals"][0]["drawn"]) == billed["aws"] / 2
    early = run(
        "contracts", "report", "--contracts", str(contracts), "--at", str(NEXT_DAY), "--usage", str(file), "--json"
    )
    assert Decimal(json.loads(early)["drawdown"]["commitments"][0]["intervals"][0]["drawn"]) < billed["azure"]
