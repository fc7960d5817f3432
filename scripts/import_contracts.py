"""The import directions of ARCHITECTURE.md, as a contract for import-linter.

import-linter's own contracts say what a folder may *not* import, which a new dependency slips
past. This one says what each folder *may* import, one line a folder.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from importlinter import Contract, ContractCheck, fields, output

if TYPE_CHECKING:
    import grimp

ROOT = "stateline"
STDLIB = "stdlib"
PURE_STDLIB = "pure-stdlib"
THIRD_PARTY = "third-party"

# Modules that reach the world: I/O, clocks, randomness, threads, logging.
# fmt: off
IMPURE = frozenset({
    "asyncio", "concurrent", "ctypes", "ftplib", "glob", "http", "io", "logging", "mmap",
    "multiprocessing", "os", "pathlib", "queue", "random", "sched", "secrets", "select",
    "selectors", "shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl",
    "subprocess", "tempfile", "threading", "time", "urllib", "uuid", "webbrowser",
})
# fmt: on


def within(module: str, folder: str) -> bool:
    """Whether `module` is `folder` or lies in it."""
    return module == folder or module.startswith(f"{folder}.")


class FoldersContract(Contract):
    """Each rule reads `folder -> folder, package, ...`; the most specific folder decides.

    `stdlib` stands for the standard library, `pure-stdlib` for the part of it that does not reach
    the world, `third-party` for any other package. A folder may always import itself. Folders that
    do not exist yet are not missed; a module that no other line speaks of falls under `stateline`.
    """

    type_name = "folders"

    rules = fields.ListField(subfield=fields.StringField())

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        rules = dict(parse_rule(line) for line in cast("list[str]", self.rules))
        illegal: list[str] = []
        for module in sorted(m for m in graph.modules if within(m, ROOT)):
            folder = home_of(module, rules)
            illegal.extend(
                f"{module} imports {imported}, which {folder} may not"
                for imported in sorted(graph.find_modules_directly_imported_by(module))
                if not allowed(imported, folder, rules[folder], rules)
            )
        return ContractCheck(kept=not illegal, metadata={"illegal": illegal})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["illegal"]:
            output.print_error(line, bold=False)


def home_of(module: str, rules: dict[str, list[str]]) -> str:
    """The most specific folder with a rule that `module` lies in."""
    return max((folder for folder in rules if within(module, folder)), key=len)


def parse_rule(line: str) -> tuple[str, list[str]]:
    """`"core -> stdlib, msgspec"` as `("stateline.core", ["stdlib", "msgspec"])`."""
    folder, _, targets = line.partition("->")
    names = [name.strip() for name in targets.split(",") if name.strip()]
    return f"{ROOT}.{folder.strip()}".removesuffix(f".{ROOT}"), names


def allowed(imported: str, folder: str, targets: list[str], rules: dict[str, list[str]]) -> bool:
    """Whether a module of `folder`, which may import `targets`, may import `imported`."""
    if imported == ROOT:
        return True  # The package itself holds its version and nothing else.
    if within(imported, ROOT):
        home = home_of(imported, rules)
        return home == folder or home in {f"{ROOT}.{target}" for target in targets}
    package = imported.partition(".")[0]
    if package in sys.stdlib_module_names:
        return STDLIB in targets or (PURE_STDLIB in targets and package not in IMPURE)
    return THIRD_PARTY in targets or package in targets
