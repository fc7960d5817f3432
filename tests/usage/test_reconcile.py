"""`stateline usage reconcile`: a cloud's file against the meter of a store, with exit 0 where both agree."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.money.clouds import Row, more, scaled, unheard
from tests.usage.histories import NEXT_DAY, ONE_DAY, configure
from tests.usage.test_export import fill, refused, rows_of, run

from stateline.core.limits import RECONCILE_FIELD_CHARS_MAX, RECONCILE_LINE_BYTES_MAX, RECONCILE_ROWS_SHOWN_MAX
from stateline.money.focus_columns import COST_AND_USAGE
from stateline.stores.sqlite import open_sqlite

NEEDED_IN_1_0 = (
    "ChargeCategory", "ChargePeriodStart", "ChargePeriodEnd", "BillingAccountId", "BillingCurrency", "BilledCost",
    "ContractedCost", "EffectiveCost", "ListCost", "ConsumedQuantity", "ConsumedUnit", "PricingQuantity",
    "PricingUnit", "ResourceName", "ResourceId", "ServiceCategory", "ServiceName", "SkuId", "SkuPriceId",
    "ChargeDescription",
)  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Row]]:
    """A configuration over a filled store, and what the cloud would write of it."""
    folder = tmp_path_factory.mktemp("reconcile")

    async def made() -> None:
        await fill(await open_sqlite(folder / "stateline.db"))

    asyncio.run(made())
    config = configure(folder, f"sqlite:///{folder}/stateline.db")
    rows = rows_of(run("export", "--config", config))
    own = [{name: value for name, value in row.items() if not name.startswith("x_")} for row in rows]
    return config, [row for row, mine in zip(own, rows, strict=True) if not mine["x_stateline_reason"]]


def write(path: Path, rows: Sequence[Row], columns: Sequence[str] = COST_AND_USAGE) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def reconciled(config: str, file: str, *options: str, code: int) -> Any:
    return json.loads(run("reconcile", file, "--config", config, "--json", *options, code=code))


def test_the_clouds_own_words_of_the_same_calls_agree_but_for_the_lost_one(
    house: tuple[str, list[Row]], tmp_path: Path
) -> None:
    config, rows = house
    found = reconciled(config, write(tmp_path / "cloud.csv", rows), code=1)
    assert found["counts"] == {"estimated_here": 1}
    (one,) = found["differences"]
    assert (one["what"], one["model"], one["account"]) == ("estimated_here", "claude-opus-4-8", "acc-2")
    assert one["here"] == {"quantity": None, "cost": "0.75"}
    assert "worker_lost" in one["why"]
    # The next day has no lost call.
    later = reconciled(config, str(tmp_path / "cloud.csv"), "--from", NEXT_DAY.isoformat(), code=0)
    assert later["agrees"] is True
    assert (later["from"], later["compared"], later["differences"]) == (NEXT_DAY.isoformat(), 1, [])
    assert later["costs"]["USD"]["here"] == later["costs"]["USD"]["there"]


def reverse(rows: list[Row], path: Path) -> str:
    return write(path, rows[::-1], COST_AND_USAGE[::-1])


def of_1_0(rows: list[Row], path: Path) -> str:
    return write(path, rows, NEEDED_IN_1_0)


def gzipped(rows: list[Row], path: Path) -> str:
    path.write_bytes(gzip.compress(Path(write(path, rows)).read_bytes()))
    return str(path)


def with_a_mark(rows: list[Row], path: Path) -> str:
    path.write_bytes(b"\xef\xbb\xbf" + Path(write(path, rows)).read_bytes() + b"\r\n")
    return str(path)


@pytest.mark.parametrize("as_it_comes", [reverse, of_1_0, gzipped, with_a_mark])
def test_files_are_read_as_clouds_write_them(
    house: tuple[str, list[Row]], tmp_path: Path, as_it_comes: Callable[[list[Row], Path], str]
) -> None:
    config, rows = house
    file = as_it_comes(rows, tmp_path / "cloud.csv")
    assert reconciled(config, file, "--from", NEXT_DAY.isoformat(), code=0)["compared"] == 1


def test_differences_are_shown_with_their_reason(house: tuple[str, list[Row]], tmp_path: Path) -> None:
    config, rows = house
    changed = [dict(row) for row in rows if row["ChargePeriodStart"][:10] == NEXT_DAY.isoformat()]
    scaled(changed[0], 2)
    more(changed[1], 40)
    day = (NEXT_DAY - ONE_DAY).days
    changed.append({**unheard("gpt-6", day, "acc-1"), "ChargePeriodStart": NEXT_DAY.isoformat(), "ChargePeriodEnd": ""})
    changed.append({**changed[-1], "ChargeCategory": "Tax"})
    out = run("reconcile", write(tmp_path / "cloud.csv", changed), "--config", config, code=1)
    assert "0.125 here, 0.25 there" in out
    assert "40 more there" in out
    assert "missing_here: the cloud bills what the meter does not have" in out
    assert "not compared: 1 rows of Tax, 3.25 USD" in out
    assert out.endswith("they differ\n")
    only = write(tmp_path / "one.csv", changed[:1])
    assert run("reconcile", only, "--config", config, "--tolerance", "1", code=1).count("missing_there") == 3


def test_what_the_file_never_names_is_not_compared(house: tuple[str, list[Row]], tmp_path: Path) -> None:
    config, rows = house
    near = write(tmp_path / "near.csv", [row for row in rows if row["BillingAccountId"] == "acc-1"])
    found = reconciled(config, near, code=0)
    assert found["not_in_the_file"] == [{"account": "acc-2", "model": "claude-opus-4-8"}]
    out = run("reconcile", near, "--config", config)
    assert "not in the file, so not compared: claude-opus-4-8 in acc-2\n" in out
    assert "1 calls had not ended, and were left out\n" in out


def test_a_file_without_rows_agrees(house: tuple[str, list[Row]], tmp_path: Path) -> None:
    config, _ = house
    empty = write(tmp_path / "empty.csv", [])
    assert reconciled(config, empty, code=0)["compared"] == 0
    assert "no day, 0 days of a model compared" in run("reconcile", empty, "--config", config)


def test_a_long_table_is_cut(house: tuple[str, list[Row]], tmp_path: Path) -> None:
    config, _ = house
    rows = [unheard(f"model-{at}", 0, "acc-1") for at in range(RECONCILE_ROWS_SHOWN_MAX + 5)]
    out = run("reconcile", write(tmp_path / "long.csv", rows), "--config", config, code=1)
    assert "... and 5 more; --json has all of them\n" in out


def test_another_cost_may_be_compared(house: tuple[str, list[Row]], tmp_path: Path) -> None:
    config, rows = house
    changed = [dict(row, BilledCost="0") for row in rows]
    file = write(tmp_path / "cloud.csv", changed)
    since = ("--from", NEXT_DAY.isoformat())
    assert reconciled(config, file, *since, code=0)["cost_column"] == "ContractedCost"
    found = reconciled(config, file, *since, "--cost", "billed", code=1)
    assert (found["cost_column"], found["counts"]) == ("BilledCost", {"price_differs": 3})


def test_a_bad_file_is_one_line_with_its_place(house: tuple[str, list[Row]], tmp_path: Path) -> None:
    config, rows = house
    good = Path(write(tmp_path / "good.csv", rows)).read_text()
    bad = tmp_path / "bad.csv"
    lines = good.splitlines(keepends=True)
    packed = gzip.compress(good.encode())
    for content, place, code, words in (
        (b"", 1, "focus_columns_missing", "no column ChargePeriodStart"),
        (b"a,b\n1,2\n", 1, "focus_columns_missing", "no FOCUS export"),
        (good.replace("2100-11-03T00:00:00Z", "3.11.2100", 1).encode(), 2, "focus_row_invalid", "ChargePeriodEnd"),
        ("".join([*lines[:3], "1,2\n"]).encode(), 4, "focus_row_invalid", "2 fields, where the header has 65"),
        ((lines[0] + '"' + lines[1]).encode(), 2, "input_unreadable", "no CSV"),
        (good.encode() + b"\xff\n", len(lines) + 1, "input_unreadable", "UTF-8"),
        (packed[:-20], len(lines), "input_unreadable", "no CSV"),
        (packed[:40] + b"\0" * 40 + packed[80:], 1, "input_unreadable", "no CSV"),
        (lines[0].encode() + b'"' + b"x" * (RECONCILE_FIELD_CHARS_MAX + 9) + b'"\n', 2, "input_unreadable", "field"),
        (lines[0].encode() + b"x" * (RECONCILE_LINE_BYTES_MAX + 9), 2, "input_unreadable", "a line has more than"),
    ):
        bad.write_bytes(content)
        error = refused("reconcile", str(bad), "--config", config)
        assert (error.code, words in error.message, "\n" in error.message) == (code, True, False), error.message
        assert error.message.startswith(f"{bad}:{place}: "), error.message


def test_bad_input_is_one_line(house: tuple[str, list[Row]], tmp_path: Path) -> None:
    config, _ = house
    assert refused("reconcile", str(tmp_path / "none.csv"), "--config", config).code == "input_unreadable"
    empty = write(tmp_path / "empty.csv", [])
    for options in (("--tolerance", "much"), ("--tolerance", "-1"), ("--from", "x"), ("--tolerance", "NaN")):
        assert refused("reconcile", empty, "--config", config, *options).code == "invalid_value"
    missing = configure(tmp_path, f"sqlite:///{tmp_path}/none.db")
    assert refused("reconcile", empty, "--config", missing).code == "store_missing"


def test_help_has_examples() -> None:
    assert "stateline usage reconcile azure-focus-2026-11.csv" in run("reconcile", "--help")
