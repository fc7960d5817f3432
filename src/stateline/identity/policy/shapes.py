"""The types of arguments, as Cedar's schemas write them, and the reader of an operator's ``schema.cedarschema``.

The binding gives a schema back as text alone, so the part that is taken from an operator is read here: type
declarations, of which those marked ``@tool("SERVER/NAME")`` are a tool's arguments. Cedar has read the same text
before, so what is refused here is what may not stand there, not syntax.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from stateline.core.limits import POLICY_ARGUMENT_DEPTH_MAX

ANY = "Any"
"""A type that nothing tells: values stand as they are, and the validator takes it for a String."""
SCALARS = frozenset({"Long", "String", "Bool", "decimal", "datetime", "duration", "ipaddr"})


class SetOf(msgspec.Struct, frozen=True):
    of: Shape


class Field(msgspec.Struct, frozen=True):
    shape: Shape
    required: bool


class Record(msgspec.Struct, frozen=True):
    fields: Mapping[str, Field]


Shape: TypeAlias = "str | SetOf | Record"
"""A scalar by its name in Cedar, a set, or a record."""


def write(shape: Shape) -> str:
    """The type as a schema has it."""
    if isinstance(shape, SetOf):
        return f"Set<{write(shape.of)}>"
    if isinstance(shape, Record):
        inner = ", ".join(
            f"{json.dumps(name, ensure_ascii=False)}{'' if field.required else '?'}: {write(field.shape)}"
            for name, field in shape.fields.items()
        )
        return "{" + inner + "}"
    return "String" if shape == ANY else shape


class SchemaProblem(Exception):
    """What an operator's schema may not have; ``line`` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def declared(text: str) -> dict[str, Record]:
    """The arguments of each tool that a schema declares, by ``SERVER/NAME``.

    Raises:
        SchemaProblem: something else than types of values, or one tool twice.
    """
    return _Reader(text).read()


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


_TOKEN = re.compile(
    r'(?P<skip>\s+|//[^\n]*)|(?P<string>"(?:\\.|[^"\\])*")|(?P<name>[A-Za-z_]\w*)|(?P<sign>::|.)', re.DOTALL
)


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind != "skip":
            yield _Token(kind, match.group(), line)
        line += match.group().count("\n")
    yield _Token("end", "", line)


class _Reader:
    """Finds the declarations first, so that each may name any other, then reads the types."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._begins: dict[str, int] = {}
        self._read: dict[str, Shape] = {}

    def read(self) -> dict[str, Record]:
        tools: dict[str, _Token] = {}
        while self._peek().kind != "end":
            marks = self._annotations()
            head, name = self._next(), self._next()
            if head.text != "type":
                raise SchemaProblem(
                    head.line,
                    f'"{head.text}" cannot stand here: entities and the action are Stateline\'s own; '
                    'declare arguments as @tool("SERVER/NAME") type NAME = {…};',
                )
            self._expect("=")
            self._begins[name.text] = self._at
            for tool in marks:
                if tool in tools:
                    raise SchemaProblem(name.line, f'the tool "{tool}" is declared twice')
                tools[tool] = name
            while self._next().text not in {";", ""}:
                pass
        shapes = {name: self._named(name, ()) for name in self._begins}
        out: dict[str, Record] = {}
        for tool, name in tools.items():
            shape = shapes[name.text]
            if not isinstance(shape, Record):
                raise SchemaProblem(name.line, f'the arguments of "{tool}" are a record, and {name.text} is not')
            out[tool] = shape
        return out

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _expect(self, text: str) -> None:
        token = self._next()
        if token.text != text:
            raise SchemaProblem(token.line, f'"{token.text}" where "{text}" was expected')

    def _annotations(self) -> list[str]:
        """The tools that the declaration which follows is marked with."""
        out: list[str] = []
        while self._peek().text == "@":
            self._next()
            name, value = self._next(), ""
            if self._peek().text == "(":
                self._next()
                value = self._string(self._next())
                self._expect(")")
            if name.text == "tool":
                server, _, tool = value.partition("/")
                if not server or not tool:
                    raise SchemaProblem(name.line, '@tool names a tool, as @tool("payments/refund")')
                out.append(value)
        return out

    @staticmethod
    def _string(token: _Token) -> str:
        try:
            return str(json.loads(token.text))
        except ValueError:
            raise SchemaProblem(token.line, f"{token.text} is not a plain string") from None

    def _named(self, name: str, within: tuple[str, ...]) -> Shape:
        if name not in self._read:
            self._at = self._begins[name]
            self._read[name] = self._type((*within, name))
        return self._read[name]

    def _type(self, within: tuple[str, ...]) -> Shape:
        """One type; ``within`` are the types and braces that it stands in."""
        token = self._next()
        if len(within) > POLICY_ARGUMENT_DEPTH_MAX:
            raise SchemaProblem(token.line, f"nested more than {POLICY_ARGUMENT_DEPTH_MAX} deep")
        if token.text == "{":
            return self._record(within)
        if token.text == "Set" and self._peek().text == "<":
            self._next()
            of = self._type((*within, "<"))
            self._expect(">")
            return SetOf(of)
        if token.text in SCALARS and self._peek().text != "::":
            return token.text
        if token.text in within:
            raise SchemaProblem(token.line, f"{token.text} contains itself")
        if token.text not in self._begins:
            raise SchemaProblem(
                token.line, f'"{token.text}" is no type of an argument: what a model writes is data, never an entity'
            )
        at = self._at
        shape = self._named(token.text, within)
        self._at = at
        return shape

    def _record(self, within: tuple[str, ...]) -> Record:
        fields: dict[str, Field] = {}
        while self._peek().text != "}":
            self._annotations()
            token = self._next()
            name = self._string(token) if token.kind == "string" else token.text
            required = self._peek().text != "?"
            if not required:
                self._next()
            self._expect(":")
            fields[name] = Field(self._type((*within, "{")), required)
            if self._peek().text != "}":
                self._expect(",")
        self._next()
        return Record(fields)
