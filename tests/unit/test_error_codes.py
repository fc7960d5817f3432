"""Every stable code that the source can raise is on the page for users, and the page has no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "stateline"
PAGE = ROOT / "docs" / "errors.md"
# Their codes are listed in docs/configuration.md, or are what a script says.
_ELSEWHERE = ("config", "testing")
_FIRST_ARGUMENT = {"refuse", "Rule", "_Failure"}
"""Callables whose first argument is a code."""
_CODE = re.compile(r"[a-z]+(_[a-z0-9]+)+|conflict|duplicate|fenced|forbidden|overloaded")
# Made by joining two words, which no reading of the source shows.
_COMPOSED = {f"{kind}_{side}" for kind in ("integer", "decimal") for side in ("above_max_value", "below_min_value")}


def _codes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.Call):
            found += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            if isinstance(node.func, ast.Name) and node.func.id in _FIRST_ARGUMENT:
                found += node.args[:1]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == "code" for each in targets):
                found.append(node.value)
        for value in found:
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
                yield value.value


def _raised() -> set[str]:
    codes = set(_COMPOSED)
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).parts[0] not in _ELSEWHERE:
            codes.update(_codes(ast.parse(path.read_text())))
    return codes


def _documented() -> set[str]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {code for row in rows for code in re.findall(r"`([a-z_0-9]+)`", row.split("|")[1])}


def test_every_code_is_documented() -> None:
    assert _raised() - _documented() == set()


def test_every_documented_code_is_in_the_source() -> None:
    source = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    assert {code for code in _documented() - _COMPOSED if f'"{code}"' not in source} == set()


def test_codes_look_alike() -> None:
    assert [code for code in _raised() if not _CODE.fullmatch(code)] == []
