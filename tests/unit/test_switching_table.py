"""docs/switching.md shows what the server's own function says of losses."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import switching_table
from scripts.switching_table import BEGIN, END, PAGE, SIDES, losses, main

from stateline.models.formats import FORMATS


def test_the_page_is_up_to_date_and_checked() -> None:
    assert main(["--check"]) == 0
    assert "scripts/switching_table.py --check" in (switching_table.ROOT / "Makefile").read_text()


def test_every_format_has_its_row() -> None:
    assert {side.name for side in SIDES} == set(FORMATS)


def test_what_is_out_of_date_is_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    assert main(["--check"], page) == 1
    assert "python scripts/switching_table.py" in capsys.readouterr().err
    assert main([], page) == 0
    assert main(["--check"], page) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert PAGE.read_text(encoding="utf-8").count("`signature`") >= 1


def test_a_page_without_its_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n", encoding="utf-8")
    assert main([], page) == 1
    assert page.read_text(encoding="utf-8") == "nothing here\n"


def test_a_loop_that_stays_with_its_format_loses_no_signature() -> None:
    for side in SIDES:
        lost = {each.what for each in losses([side], side, "reasoning")}
        assert not lost & {"signature", "thought_signature", "encrypted_reasoning"}, side.name
