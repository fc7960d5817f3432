"""The house's own gates: sizes, absolute paths, and clocks or I/O called in the pure folders.

Run as `python scripts/gates.py`; prints one line a finding and exits 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ("src", "tests", "bench", "scripts")
PURE = ("core", "contracts", "money", "models/formats")

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# Home folders and this checkout's own place. The parts are joined so as not to find themselves.
MACHINE_PATH = re.compile("|".join((r"/" + r"root/", r"/" + r"home/\w", r"/" + r"Users/\w")))

# Builtins and methods that reach the world without an import that import-linter would see.
IMPURE_CALLS = frozenset({"open", "print", "input", "now", "utcnow", "today"})


def main() -> int:
    """Check every file that git knows of or would add; 0 if all hold."""
    findings: list[str] = []
    for path in project_files():
        name = path.relative_to(ROOT).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # Binary, or deleted and not yet committed.
        findings.extend(f"{name}:{line}: {what}" for line, what in machine_paths(text))
        if path.suffix == ".py" and name.startswith(CODE):
            findings.extend(f"{name}:{line}: {what}" for line, what in code_findings(name, text))
    for finding in findings:
        print(finding)
    if findings:
        print(f"gates: {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


def project_files() -> list[Path]:
    """The files of the project: tracked ones, and new ones that no .gitignore hides."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in sorted(set(listed.stdout.splitlines()))]


def machine_paths(text: str) -> Iterator[tuple[int, str]]:
    """Lines that name a place on one machine."""
    for number, line in enumerate(text.splitlines(), 1):
        if MACHINE_PATH.search(line) or f"{ROOT}/" in line:
            yield number, "an absolute path of one machine"


def code_findings(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Sizes of the file and of its functions, and impure calls where they are barred."""
    count = len(text.splitlines())
    if count > FILE_LINES_MAX:
        yield 1, f"{count} lines, {FILE_LINES_MAX} at most"
    pure = name.startswith(tuple(f"src/stateline/{folder}/" for folder in PURE))
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name}: {lines} lines, {FUNCTION_LINES_MAX} at most"
        elif pure and isinstance(node, ast.Call) and called_name(node) in IMPURE_CALLS:
            yield node.lineno, f"{called_name(node)}(): time and I/O come in as arguments here"


def called_name(call: ast.Call) -> str:
    """The last part of what is called: `now` for `datetime.now()`."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


if __name__ == "__main__":
    sys.exit(main())
