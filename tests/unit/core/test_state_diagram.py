"""The diagram in ARCHITECTURE.md is the table's, and a stale one fails the check."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import state_diagram
from scripts.state_diagram import BEGIN, END, diagram, listed, main

from stateline.core.events import TurnCancelled, TurnFailed, TurnRequested, TurnResumed
from stateline.core.transitions import TRANSITIONS


def test_the_page_shows_the_table_as_it_is() -> None:
    assert main(["--check"]) == 0


def test_every_transition_is_in_the_diagram() -> None:
    drawn = diagram(TRANSITIONS)
    for (state, event), after in TRANSITIONS.items():
        if state == after:
            assert f"`{event.__name__}`" in drawn
        else:
            arrow = f"    {state or '[*]'} --> {after or '[*]'}: "
            assert any(event.__name__ in line for line in drawn.splitlines() if line.startswith(arrow))


def test_arrows_between_the_same_states_are_one_and_loops_are_told_in_words() -> None:
    drawn = diagram(
        {
            (None, TurnRequested): "ready",
            ("ready", TurnFailed): None,
            ("ready", TurnCancelled): None,
            ("ready", TurnResumed): "ready",
        }
    )
    assert drawn == (
        "```mermaid\nstateDiagram-v2\n"
        "    [*] --> ready: TurnRequested\n    ready --> [*]: TurnFailed, TurnCancelled\n```\n\n"
        "`TurnResumed` may come in `ready` and change no state by themselves.\n"
    )
    assert listed(["a", "b", "c"]) == "`a`, `b` and `c`"


def test_a_stale_diagram_fails_the_check_and_is_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "ARCHITECTURE.md"
    page.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    assert main(["--check"], page) == 1
    assert "python scripts/state_diagram.py" in capsys.readouterr().err
    assert "stale" in page.read_text(), "a check changes nothing"
    assert main([], page) == 0
    assert main(["--check"], page) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text


def test_a_missing_page_is_made_and_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "ARCHITECTURE.md"
    assert main(["--check"], page) == 1
    assert not page.exists()
    assert main([], page) == 0
    assert main(["--check"], page) == 0
    page.write_text("no markers")
    assert main([], page) == 1
    assert page.read_text() == "no markers"


def test_make_check_calls_it() -> None:
    assert "scripts/state_diagram.py --check" in (state_diagram.ROOT / "Makefile").read_text()
