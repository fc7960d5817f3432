"""Reads a folder of contracts: YAML into plain values that know their lines, then `contracts.load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn, cast

import yaml

from stateline.contracts import ContractError, Contracts, Document, load
from stateline.core.limits import (
    CONTRACT_DEPTH_MAX,
    CONTRACT_FILE_BYTES_MAX,
    CONTRACT_FILES_MAX,
    CONTRACT_NODES_MAX,
)

DETERMINATIONS = "determinations.yaml"
_ENDINGS = (".yaml", ".yml")


def load_folder(folder: Path) -> Contracts:
    """The contracts of a folder and of those in it, by file name; `determinations.yaml` at its top.

    Names that begin with a dot are left out.

    Raises:
        ContractError: the folder or a file cannot be read, or says what is refused.
    """
    if not folder.is_dir():
        raise ContractError(
            "no such folder; --contracts, or contracts.path, names one", file=str(folder), code="contracts_unreadable"
        )
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in _ENDINGS and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if len(names) > CONTRACT_FILES_MAX:
        raise ContractError(f"more than {CONTRACT_FILES_MAX} files", file=str(folder), code="contracts_unreadable")
    documents = {name: read_document(folder / name) for name in names}
    determinations = documents.pop(DETERMINATIONS, None)
    return load(list(documents.values()), determinations)


def read_document(path: Path) -> Document:
    """One file, YAML or JSON.

    Raises:
        ContractError: it cannot be read, is too large, or is not valid YAML.
    """
    name = str(path)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ContractError(f"cannot be read: {error.strerror}", file=name, code="contracts_unreadable") from None
    except UnicodeDecodeError:
        raise ContractError("not UTF-8", file=name, code="contract_syntax") from None
    if len(data) > CONTRACT_FILE_BYTES_MAX:
        raise ContractError(f"larger than {CONTRACT_FILE_BYTES_MAX} bytes", file=name, code="contracts_unreadable")
    return parse(name, text)


def parse(name: str, text: str) -> Document:
    """One YAML document, with the line of each key.

    Raises:
        ContractError: syntax, a key written twice, a tag of its own, or values without end.
    """
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:  # A character that YAML does not have.
        _refuse(name, None, f"not valid YAML: {error}")
    try:
        node = loader.get_single_node()
        values = _Values(name, loader)
        value = None if node is None else values.of(node, "", 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _refuse(name, mark.line + 1 if mark else None, f"not valid YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError) as error:
        _refuse(name, None, f"not valid YAML: {error}")
    except RecursionError:
        _refuse(name, None, f"nested more than {CONTRACT_DEPTH_MAX} deep")
    finally:
        loader.dispose()  # pyright: ignore[reportUnknownMemberType]
    return Document(name, value, values.lines)


def _refuse(name: str, line: int | None, message: str) -> NoReturn:
    raise ContractError(" ".join(message.split()), file=name, line=line, code="contract_syntax")


class _Values:
    """Turns YAML nodes into values, and notes where each one stands."""

    def __init__(self, name: str, loader: yaml.SafeLoader) -> None:
        self.name = name
        self.loader = loader
        self.lines: dict[str, int] = {}
        self.count = 0

    def of(self, node: yaml.Node, key: str, depth: int) -> object:
        line = node.start_mark.line + 1
        self.count += 1
        if self.count > CONTRACT_NODES_MAX or depth > CONTRACT_DEPTH_MAX:
            _refuse(self.name, line, f"more than {CONTRACT_NODES_MAX} values, or {CONTRACT_DEPTH_MAX} deep")
        self.lines.setdefault(key, line)
        if isinstance(node, yaml.SequenceNode):
            return [self.of(one, f"{key}[{index}]", depth + 1) for index, one in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._table(node, key, depth)
        return cast("object", self.loader.construct_object(node))  # pyright: ignore[reportUnknownMemberType]

    def _table(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag == "tag:yaml.org,2002:merge":
                _refuse(self.name, line, "a key is a plain word")
            name = str(name_node.value)
            if name in table:
                _refuse(self.name, line, f'the key "{name}" is written twice')
            path = f"{key}.{name}".lstrip(".")
            self.lines[path] = line
            table[name] = self.of(value_node, path, depth + 1)
        return table
