"""The gates themselves: each fails on what it is there to find."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from scripts import gates
from scripts.import_contracts import allowed, parse_rule

ROOT = Path(__file__).resolve().parents[2]
RULES = dict(
    parse_rule(line)
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for line in contract.get("rules", [])
)


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("core", "msgspec", True),
        ("core", "stateline.core.items", True),
        ("core", "stateline", True),
        ("core", "datetime", True),
        ("core", "asyncio", False),
        ("core", "time", False),
        ("core", "aiohttp", False),
        ("core", "stateline.ports", False),
        ("models.formats", "stateline.core", True),
        ("models.formats", "stateline.models.clouds", False),
        ("models.formats", "random", False),
        ("models", "stateline.models.formats.openai_chat", True),
        ("engine", "stateline.ports", True),
        ("engine", "stateline.stores", False),
        ("engine", "starlette", False),
        ("api", "stateline.engine", True),
        ("api", "stateline.stores", False),
        ("api", "stateline.identity", False),
        ("stores", "stateline.models", False),
        ("identity", "stateline.stores", False),
        ("wiring", "stateline.stores", True),
        ("wiring", "stateline.cli", False),
        ("config", "stateline.wiring", False),
    ],
)
def test_a_folder_imports_only_what_its_rule_names(importer: str, imported: str, *, expected: bool) -> None:
    folder = f"stateline.{importer}"
    assert allowed(imported, folder, RULES[folder], RULES) is expected


def test_a_forbidden_import_and_a_cycle_fail_the_check(tmp_path: Path) -> None:
    package = tmp_path / "src" / "stateline"
    for name, text in {
        "__init__.py": "",
        "core/__init__.py": "",
        "core/bad.py": "import socket\nimport stateline.ports\n",
        "ports.py": "import stateline.core.bad\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "stateline.core.bad imports socket, which stateline.core may not" in result.stdout
    assert "stateline.core.bad imports stateline.ports, which stateline.core may not" in result.stdout
    assert "No import cycles BROKEN" in result.stdout


def test_a_long_file_and_a_long_function_are_found() -> None:
    body = "    pass\n" * gates.FUNCTION_LINES_MAX
    findings = [what for _, what in gates.code_findings("src/stateline/x.py", f"def long():\n{body}" + "\n" * 600)]
    assert findings == ["671 lines, 600 at most", "long: 71 lines, 70 at most"]


def test_a_clock_in_the_core_is_found_and_elsewhere_is_fine() -> None:
    code = "import datetime\ndatetime.datetime.now()\n"
    assert [line for line, _ in gates.code_findings("src/stateline/core/x.py", code)] == [2]
    assert not list(gates.code_findings("src/stateline/engine/x.py", code))


def test_a_path_of_one_machine_is_found() -> None:
    home = "/" + "home/somebody/x"
    assert [line for line, _ in gates.machine_paths(f"fine\n{home}\n{gates.ROOT}/x")] == [2, 3]


def test_every_target_of_make_is_explained() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "check", "bench"):
        assert f"make {target} " in listed
