"""The MCP conformance suite for clients, scenario by scenario, over our adapter; writes results/mcp-conformance.json.

The suite is a package of npm. It wants Node.js 22; where this machine has an older one, npm's own package of it is
installed beside the suite. Both lie in a folder of the user's cache and in no other place.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SUITE = "@modelcontextprotocol/conformance@0.1.16"
NODE = "node@22"
ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "mcp-conformance.json"
SCENARIO_S = 60


class Unavailable(Exception):
    """The suite cannot be had here."""


def folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "stateline" / "mcp-conformance"


def install() -> list[str]:
    """The command that starts the suite, installed where it is not yet."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed")
    home = folder()
    home.mkdir(parents=True, exist_ok=True)
    start = home / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    node = home / "node_modules" / ".bin" / "node"
    wanted = SUITE.rpartition("@")[2]
    package = start.parent.parent / "package.json"
    if not node.exists() or not package.exists() or json.loads(package.read_text())["version"] != wanted:
        (home / "package.json").write_text('{"private": true}')
        command = [npm, "install", "--no-audit", "--no-fund", "--no-save", SUITE, NODE]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise Unavailable(f"npm could not install the suite: {done.stderr.strip()[-300:]}")
    return [str(node), str(start)]


def scenarios(suite: list[str]) -> list[str]:
    listed = subprocess.run([*suite, "list", "--client"], capture_output=True, text=True, timeout=60, check=True)
    return [line.split()[1] for line in listed.stdout.splitlines() if line.strip().startswith("- ")]


def run(suite: list[str], scenario: str) -> dict[str, Any]:
    """One scenario: how many checks passed, and what those that did not say."""
    with tempfile.TemporaryDirectory() as out:
        command = [*suite, "client", "--command", f"{sys.executable} -m bench.mcp_client", "--scenario", scenario]
        command += ["--timeout", str(SCENARIO_S * 1000), "-o", out]
        subprocess.run(command, cwd=ROOT, capture_output=True, timeout=SCENARIO_S + 30, check=False)
        found = list(Path(out).rglob("checks.json"))
        checks: list[dict[str, Any]] = json.loads(found[0].read_text()) if found else []
        said = [each.read_text()[-2000:] for each in Path(out).rglob("stderr.txt")]
    count = {kind: sum(each["status"] == kind for each in checks) for kind in ("SUCCESS", "FAILURE", "WARNING")}
    row: dict[str, Any] = {
        "scenario": scenario,
        "passed": count["SUCCESS"],
        "failed": count["FAILURE"],
        "warnings": count["WARNING"],
        "ok": count["SUCCESS"] > 0 and not count["FAILURE"] and not count["WARNING"],
    }
    if not row["ok"]:
        row["why"] = [
            f"{each['id']}: {each.get('errorMessage') or each['description']}"
            for each in checks
            if each["status"] in ("FAILURE", "WARNING")
        ] or ["no check was made"]
        row["client"] = said
    return row


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="scenarios with this in their names")
    only = parser.parse_args().only
    rows: list[dict[str, Any]] = []
    suite = install()
    for scenario in scenarios(suite):
        if only in scenario:
            rows.append(run(suite, scenario))
            verdict = "ok" if rows[-1]["ok"] else "FAIL"
            print(verdict.ljust(4), scenario, *rows[-1].get("why", ()), sep="  ")
    good = sum(row["ok"] for row in rows)
    print(f"{good} of {len(rows)} scenarios pass")
    if not only:
        RESULT.write_text(
            json.dumps({"suite": SUITE, "passed": good, "of": len(rows), "scenarios": rows}, indent=1) + "\n"
        )
    return 0 if good == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
