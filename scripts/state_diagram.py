"""Draws core/transitions.TRANSITIONS as a Mermaid diagram between two markers in ARCHITECTURE.md.

Run as `python scripts/state_diagram.py`; with `--check` it changes nothing and exits 1 when the
diagram is not the table's.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from stateline.core.transitions import TRANSITIONS, TurnState

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN = "<!-- state diagram: begin -->"
END = "<!-- state diagram: end -->"

Table = Mapping[tuple[TurnState | None, type], TurnState | None]


def main(arguments: list[str], page: Path = PAGE) -> int:
    """Write the diagram, or with `--check` say whether it is the table's."""
    old = page.read_text(encoding="utf-8") if page.exists() else f"# Architecture\n\n{BEGIN}\n{END}\n"
    if old.count(BEGIN) != 1 or old.find(END) < old.find(BEGIN):
        print(f"{page.name}: the two markers of the state diagram are not there:\n{BEGIN}\n{END}", file=sys.stderr)
        return 1
    before, _, rest = old.partition(BEGIN)
    new = f"{before}{BEGIN}\n\n{diagram(TRANSITIONS)}\n{END}{rest.partition(END)[2]}"
    if "--check" in arguments:
        if page.exists() and new == old:
            return 0
        print(f"{page.name}: the state diagram is out of date; run python scripts/state_diagram.py", file=sys.stderr)
        return 1
    page.write_text(new, encoding="utf-8")
    return 0


def diagram(table: Table) -> str:
    """The table as a fenced Mermaid block.

    Edges between the same two states share an arrow. What leaves a state as it is would be an arrow
    from each state to itself, so it is told once, in a note.
    """
    arrows: dict[tuple[str | None, str | None], list[str]] = defaultdict(list)
    kept: dict[str, list[str]] = defaultdict(list)
    for (state, event), after in table.items():
        if state is not None and state == after:
            kept[event.__name__].append(state)
        else:
            arrows[state, after].append(event.__name__)
    lines = ["```mermaid", "stateDiagram-v2"]
    for (state, after), names in arrows.items():
        lines.append(f"    {state or '[*]'} --> {after or '[*]'}: {', '.join(names)}")
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, states in kept.items():
        alike[tuple(states)].append(name)
    lines.append("```")
    for states, names in alike.items():
        lines += ["", f"{listed(names)} may come in {listed(list(states))} and change no state by themselves."]
    return "\n".join(lines) + "\n"


def listed(names: list[str]) -> str:
    """`a`, `b` and `c`."""
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
