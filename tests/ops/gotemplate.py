"""As much of Helm's template language as our chart uses; anything else is an error.

Helm itself is not always at hand, and a chart that nobody renders is one that does not work.
"""

from __future__ import annotations

import hashlib
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

_ACTION = re.compile(r"\{\{(-)?\s*(.*?)\s*(-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\(|\)|\||:=|[^\s()|]+')

Node = tuple[Any, ...]


class Refused(Exception):
    """The chart's own ``fail``."""


class Chart:
    """The templates of a folder, with their named ones."""

    def __init__(self, folder: Path) -> None:
        self.values: dict[str, Any] = yaml.safe_load((folder / "values.yaml").read_text())
        self.about: dict[str, Any] = yaml.safe_load((folder / "Chart.yaml").read_text())
        self._named: dict[str, list[Node]] = {}
        self._files: dict[str, list[Node]] = {}
        for path in sorted((folder / "templates").iterdir()):
            self._files[path.name] = self._parse(_pieces(path.read_text()))

    def render(self, **values: Any) -> dict[str, Any]:
        """What each file comes to, as YAML; those that come to nothing are left out."""
        root = {
            "Values": merged(self.values, values),
            "Chart": {"AppVersion": self.about["appVersion"]},
            "Release": {"Name": "test", "Service": "Helm"},
        }
        texts = {name: self._run(nodes, root, {"$": root}) for name, nodes in self._files.items()}
        return {name: yaml.safe_load(text) for name, text in texts.items() if text.strip()}

    # -- parsing -------------------------------------------------------------------------------------

    def _parse(self, pieces: list[tuple[str, str]]) -> list[Node]:
        nodes, rest = self._block(pieces, 0)
        assert rest == len(pieces), "an `end` too many"
        return nodes

    def _block(self, pieces: list[tuple[str, str]], at: int) -> tuple[list[Node], int]:
        nodes: list[Node] = []
        while at < len(pieces):
            kind, text = pieces[at]
            if kind == "text":
                nodes.append(("text", text))
                at += 1
                continue
            word, _, rest = text.partition(" ")
            if word in ("end", "else"):
                return nodes, at
            at += 1
            if word in ("if", "with", "range", "define"):
                body, at = self._block(pieces, at)
                other: list[Node] = []
                if pieces[at][1] == "else":
                    other, at = self._block(pieces, at + 1)
                assert pieces[at][1] == "end", f"no end of {text}"
                at += 1
                if word == "define":
                    self._named[rest.strip('"')] = body
                else:
                    nodes.append((word, rest, body, other))
            else:
                nodes.append(("say", text))
        return nodes, at

    # -- running -------------------------------------------------------------------------------------

    def _run(self, nodes: list[Node], dot: Any, names: dict[str, Any]) -> str:
        out: list[str] = []
        for node in nodes:
            match node:
                case ("text", text):
                    out.append(text)
                case ("say", text):
                    tokens = _TOKEN.findall(text)
                    if tokens[1:2] == [":="]:
                        names[tokens[0]] = self._pipeline(tokens[2:], dot, names)
                    else:
                        out.append(_text(self._pipeline(tokens, dot, names)))
                case (word, test, body, other):
                    out.append(
                        self._branch(word, self._pipeline(_TOKEN.findall(test), dot, names), (body, other), dot, names)
                    )
                case _:
                    raise AssertionError(node)
        return "".join(out)

    def _branch(
        self, word: str, value: Any, blocks: tuple[list[Node], list[Node]], dot: Any, names: dict[str, Any]
    ) -> str:
        body, other = blocks
        if not value:
            return self._run(other, dot, names)
        if word == "range":
            return "".join(self._run(body, each, names) for each in cast("list[Any]", value))
        return self._run(body, value if word == "with" else dot, names)

    def _pipeline(self, tokens: list[str], dot: Any, names: dict[str, Any]) -> Any:
        commands: list[list[str]] = [[]]
        depth = 0
        for token in tokens:
            depth += (token == "(") - (token == ")")
            if token == "|" and not depth:
                commands.append([])
            else:
                commands[-1].append(token)
        value: Any = None
        for index, command in enumerate(commands):
            arguments = self._arguments(command, dot, names)
            if index:
                arguments.append(value)
            value = self._call(arguments, names)
        return value

    def _arguments(self, tokens: list[str], dot: Any, names: dict[str, Any]) -> list[Any]:
        out: list[Any] = []
        at = 0
        while at < len(tokens):
            token = tokens[at]
            if token == "(":
                end, depth = at, 0
                while True:
                    depth += (tokens[end] == "(") - (tokens[end] == ")")
                    if not depth:
                        break
                    end += 1
                out.append(self._pipeline(tokens[at + 1 : end], dot, names))
                at = end
            elif token.startswith('"'):
                out.append(token[1:-1])
            elif re.fullmatch(r"-?\d+", token):
                out.append(int(token))
            elif token.startswith("."):
                out.append(_field(dot, token))
            elif token.startswith("$"):
                out.append(names[token])
            else:
                out.append(_FUNCTIONS.get(token) or self._include(token))
            at += 1
        return out

    def _include(self, token: str) -> Callable[..., str]:
        assert token == "include", f"the tests know no function {token}"

        def include(name: str, dot: Any) -> str:
            return self._run(self._named[name], dot, {"$": dot})

        return include

    def _call(self, arguments: list[Any], names: dict[str, Any]) -> Any:
        first, *rest = arguments
        if callable(first):
            return first(*rest)
        assert not rest, arguments
        return first


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm lays those of a user over the chart's."""
    out = dict(values)
    for key, value in over.items():
        known = out.get(key)
        out[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType]
    return out


def _pieces(source: str) -> list[tuple[str, str]]:
    """Texts and actions in turn, with white space cut where the action says so."""
    out: list[tuple[str, str]] = []
    at = 0
    trim = False
    for match in _ACTION.finditer(source):
        text = source[at : match.start()]
        text = text.lstrip() if trim else text
        out += [("text", text.rstrip() if match[1] else text), ("action", match[2])]
        trim, at = bool(match[3]), match.end()
    rest = source[at:]
    return [*out, ("text", rest.lstrip() if trim else rest)]


def _field(dot: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        assert isinstance(dot, dict), path
        dot = cast("dict[str, Any]", dot).get(name)
    return dot


def _text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _nindent(count: int, text: str) -> str:
    return "\n" + "\n".join(" " * count + line if line else "" for line in str(text).splitlines())


def _to_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=True).rstrip()


def _fail(message: str) -> None:
    raise Refused(message)


def _add(*numbers: int) -> int:
    return sum(numbers)


def _default(fallback: Any, value: Any) -> Any:
    return value or fallback


def _and(first: Any, second: Any) -> Any:
    return first and second


def _printf(text: str, *values: Any) -> str:
    return text % values


def _sha256sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _trim_suffix(suffix: str, text: str) -> str:
    return text.removesuffix(suffix)


def _trunc(count: int, text: str) -> str:
    return text[:count]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "and": _and,
    "default": _default,
    "fail": _fail,
    "gt": operator.gt,
    "int": int,
    "le": operator.le,
    "nindent": _nindent,
    "not": operator.not_,
    "printf": _printf,
    "sha256sum": _sha256sum,
    "toYaml": _to_yaml,
    "trimSuffix": _trim_suffix,
    "trunc": _trunc,
}
