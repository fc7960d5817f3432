"""`stateline contracts report --usage`: FOCUS files, drawn down, as text and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.contracts.build import contract
from tests.unit.contracts.test_drawdown import commitment
from typer.testing import CliRunner

from stateline.cli import app
from stateline.contracts.rows import UsageError

HEAD = "ChargePeriodStart,BilledCost,ContractedCost,BillingCurrency,InvoiceIssuerName,RegionId\n"


def report(folder: Path, usage: str | bytes, *more: str, at: str = "2026-07-01") -> str:
    (folder / "contracts").mkdir(exist_ok=True)
    clauses = (
        commitment("model: minimum, interval: quarterly, accrues: use"),
        commitment("model: prepaid, interval: monthly, accrues: use, rollover: true", id="y"),
        commitment("model: minimum, accrues: use", id="z", amount="{exact: 5, unit: GW}"),
    )
    (folder / "contracts" / "c.yaml").write_text(contract(*clauses))
    (folder / "use.csv").write_bytes(usage if isinstance(usage, bytes) else usage.encode())
    arguments = ["contracts", "report", "--contracts", str(folder / "contracts"), "--at", at]
    result = CliRunner().invoke(app, [*arguments, "--usage", str(folder / "use.csv"), *more])
    if result.exception:
        raise result.exception
    return result.stdout


def rows(*lines: str) -> str:
    return HEAD + "".join(f"{line}\n" for line in lines)


def read(text: str) -> dict[str, Any]:
    return json.loads(text)["drawdown"]


def test_burn_down_pace_forecast_and_expected_shortfall_by_interval(tmp_path: Path) -> None:
    usage = rows("2026-01-05T00:00:00Z,120,120,USD,aws,", "2026-04-05,91,150,USD,AWS,", "2026-04-06,9,9,EUR,aws,")
    found = read(report(tmp_path, usage, "--json", at="2026-05-16"))
    assert (found["rows"], found["at"]) == (3, "2026-05-16")
    minimum, prepaid = found["commitments"]
    over, running, *ahead = minimum["intervals"]
    assert (over["from"], over["until"], over["status"]) == ("2026-01-01", "2026-04-01", "over")
    assert (over["promised"], over["drawn"], over["shortfall"], over["charge"]) == ("300", "120", "180", "180")
    assert "expected_shortfall" not in over
    assert (running["drawn"], running["remaining"], running["pace"]) == ("91", "209", "0.6134")
    assert (running["forecast"], running["expected_shortfall"], running["expected_charge"]) == (
        "184.02",
        "115.98",
        "115.98",
    )
    assert [one["status"] for one in ahead] == ["ahead", "ahead"]
    assert minimum["unconverted"] == {"EUR": 1}
    assert prepaid["intervals"][3]["drawn"] == "150"
    assert prepaid["intervals"][3]["carried_in"] == "200"
    assert found["not_drawn"] == [{"id": "c/z", "why": "its unit is GW, and use is drawn down as money"}]


def test_it_reads_in_a_terminal(tmp_path: Path) -> None:
    usage = rows("2026-01-05,120,120,USD,aws,", "2026-04-05,91,150,USD,AWS,eu", "2026-04-06,9,9,EUR,aws,")
    text = report(tmp_path, usage)
    assert "Drawn down, by 3 rows of use before 2026-07-01; forecasts go on in a straight line" in text
    assert "2026-04-01 to 2026-07-01, over: 91 of 300; shortfall 209, charged 209" in text
    assert "1 rows in EUR count nothing, since there is no rate; give --rate EUR/USD=…" in text
    assert "… 2 earlier; --json has all of them" in text
    assert "… 4 later" in text
    assert "c/z: not drawn down" in text
    assert "count nothing" not in report(tmp_path, usage, "--rate", "EUR/USD=1.1")
    running = report(tmp_path, rows("2026-01-05,700,700,USD,aws,"), at="2026-02-01")
    assert "running: 700 of 300; pace 6.7742; forecast 2,032.26; expected shortfall 0, charged 0" in running
    assert "over: 700 of 100; shortfall 0, charged 0; 600 beyond it" in running
    assert "no commitment" in report(tmp_path, HEAD, "--payer", "nobody")


def test_without_usage_the_report_is_what_it_was(tmp_path: Path) -> None:
    report(tmp_path, HEAD)
    result = CliRunner().invoke(
        app, ["contracts", "report", "--contracts", str(tmp_path / "contracts"), "--at", "2026-03-18", "--json"]
    )
    assert "drawdown" not in json.loads(result.stdout)


@pytest.mark.parametrize(
    ("usage", "words"),
    [
        ("A,B\n1,2\n", "use.csv has no column BilledCost"),
        ("", "use.csv has no column BilledCost"),
        (rows("2026-01-05,1,1,USD,aws,", "2026-01-05,,1,USD,aws,"), "use.csv:3: a row has no BilledCost"),
        (rows("soon,1,1,USD,aws,"), 'use.csv:2: "soon" is no ChargePeriodStart'),
        (HEAD.encode() + b"\xff\xfe\n", "no CSV in UTF-8"),
    ],
)
def test_a_file_that_is_no_usage_says_where(tmp_path: Path, usage: str | bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        report(tmp_path, usage)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.csv cannot be read: No such file"):
        report(tmp_path, HEAD, "--usage", str(tmp_path / "nowhere.csv"))
