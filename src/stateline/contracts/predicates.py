"""Predicates: CEL, checked against the list of facts and compiled once.

The binding evaluates; it does not know our facts. A short circuit would hide a misspelt one, and a literal
of another type or outside an enumeration compares as false, so a clause would silently never apply. What is
here reads the expression once more for its types (grammar: the CEL specification, "Syntax") and refuses those.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import cel

from stateline.contracts.direct import (
    METHODS,
    Part,
    Run,
    Test,
    among,
    both,
    constant,
    either,
    holds,
    like,
    negated,
    ordered,
)
from stateline.contracts.errors import PredicateError
from stateline.contracts.facts import FIELDS, MEMBERS, nearest
from stateline.core.limits import PREDICATE_CHARS_MAX, PREDICATE_DEPTH_MAX


class Value(NamedTuple):
    """What is known of an expression before it runs.

    Attributes:
        kind: string, number, bool, timestamp, duration, null, list, or any.
        element: of a list, its elements' kind.
        fact: the enumerated fact that it may be.
        literals: the strings written out that it may be (of a list, that its elements may be).
        path: the fact that it is, as `model.vendor`; empty where it is none.
        text: the string that it is, written out; None where it is none.
        guard: a fact and a string, such that it is false wherever the fact is known and another.
        texts: of a list that is written out, its strings; None where it is no such list.
        moment: the instant that it is, written out.
        run: its own evaluation, of a boolean in the common subset; None: the binding's.
    """

    kind: str
    element: str = "any"
    fact: str = ""
    literals: tuple[str, ...] = ()
    path: str = ""
    text: str | None = None
    guard: tuple[str, str] | None = None
    texts: frozenset[str] | None = None
    moment: datetime | None = None
    run: Part | None = None


ANY = Value("any")
BOOL = Value("bool")

_TOKEN = re.compile(
    r"""(?:\s|//[^\n]*(?:\n|$))*(?:
      (?P<string>[rR]?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    | (?P<number>0x[0-9a-fA-F]+u?|\d+\.\d+(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+|u)?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>&&|\|\||[=!<>]=|/(?!/)|[-+*%<>!?:.,()\[\]])
    )""",
    re.VERBOSE,
)
_BLANK = re.compile(r"(?:\s|//[^\n]*(?:\n|$))*")

_MOMENT = re.compile(r"(?!0000)\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{6})?Z")
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
_LEVELS = (frozenset({"||"}), frozenset({"&&"}), _COMPARISONS, frozenset({"+", "-"}), frozenset({"*", "/", "%"}))
_FUNCTIONS = {
    "size": "number", "int": "number", "double": "number", "uint": "number", "string": "string",
    "timestamp": "timestamp", "duration": "duration", "bool": "bool", "matches": "bool",
}  # fmt: skip
_METHODS = {
    **dict.fromkeys(("startsWith", "endsWith", "contains", "matches"), "bool"),
    **dict.fromkeys(
        ("size", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
         "getHours", "getMinutes", "getSeconds", "getMilliseconds"), "number",
    ),
}  # fmt: skip
_MACROS = {"all": "bool", "exists": "bool", "exists_one": "bool", "filter": "list", "map": "list"}
_WORDS = {
    "true": Value("bool", run=constant(True)),
    "false": Value("bool", run=constant(False)),
    "null": Value("null"),
}


class Predicate(NamedTuple):
    """A compiled predicate.

    Attributes:
        text: its source.
        execute: the binding's compiled program: takes its context, answers the value, raises what it likes.
        timed: whether it speaks of `at`, so that its outcome may change by itself.
        guard: a fact and a string, such that it is false wherever the fact is known and another; or None.
            `&&` is false where either side is, whatever becomes of the other (CEL, "Logical Operators").
        run: the same by our own means (`direct`), where it is of the common subset; else None.
        tests: where it is a conjunction of tests of single facts and nothing else, those.
        facts: the facts that it names, `at` included, in their first order.
    """

    text: str
    execute: Callable[[Any], object]
    timed: bool
    guard: tuple[str, str] | None
    run: Run | None
    tests: tuple[Test, ...]
    facts: tuple[str, ...]


def compile_predicate(text: str) -> Predicate:
    """Check and compile.

    Raises:
        PredicateError: syntax, an unknown fact or function, or a comparison that can never be true.
    """
    if len(text) > PREDICATE_CHARS_MAX:
        raise PredicateError(f"longer than {PREDICATE_CHARS_MAX} characters")
    reader = _Reader(text)
    value = reader.whole()
    try:
        program = cel.compile(text)
    except ValueError as error:
        raise PredicateError(f"not valid CEL: {' '.join(str(error).split())}") from None
    part, timed = value.run, "at" in reader.facts
    tests = part.tests if part and not part.others else ()
    return Predicate(text, program.execute, timed, value.guard, part and part.run, tests, tuple(reader.facts))


def tokens(text: str) -> list[tuple[str, str]]:
    """The tokens of an expression as (kind, text), the end included.

    Raises:
        PredicateError: a character that stands nowhere in CEL as it is taken here.
    """
    found: list[tuple[str, str]] = []
    position = 0
    while match := _TOKEN.match(text, position):
        kind = match.lastgroup or ""
        found.append((kind, match[kind]))
        position = match.end()
    blank = _BLANK.match(text, position)
    if blank and blank.end() < len(text):
        raise PredicateError(f'cannot be read from "{text[blank.end() :][:20]}" on')
    found.append(("end", "the end"))
    return found


class _Reader:
    """Reads one expression by recursive descent, and answers what each part is."""

    def __init__(self, text: str) -> None:
        self.tokens = tokens(text)
        self.next = 0
        self.depth = 0
        self.facts: dict[str, None] = {}
        self.bound: dict[str, Value] = {}

    def whole(self) -> Value:
        value = self._expression()
        self._expect("the end")
        return value

    # -- tokens ------------------------------------------------------------------------------

    def _peek(self) -> str:
        kind, text = self.tokens[self.next]
        return "" if kind == "string" else text

    def _accept(self, *texts: str) -> bool:
        if self._peek() in texts:
            self.next += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise PredicateError(f'"{self.tokens[self.next][1]}" stands where {text} was expected')

    def _name(self) -> str:
        kind, text = self.tokens[self.next]
        if kind != "name":
            raise PredicateError(f'"{text}" stands where a name was expected')
        self.next += 1
        return text

    # -- grammar -----------------------------------------------------------------------------

    def _expression(self) -> Value:
        self.depth += 1
        if self.depth > PREDICATE_DEPTH_MAX:
            raise PredicateError(f"nested more than {PREDICATE_DEPTH_MAX} deep")
        value = self._binary(0)
        if self._accept("?"):
            first = self._binary(0)
            self._expect(":")
            value = _either(first, self._expression())
        self.depth -= 1
        return value

    def _binary(self, level: int) -> Value:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while (sign := self._peek()) in _LEVELS[level]:
            self.next += 1
            right = self._binary(level + 1)
            if level == 0:
                left = Value("bool", run=either(left.run, right.run))
            elif level == 1:
                left = Value("bool", guard=left.guard or right.guard, run=both(left.run, right.run))
            elif level == 2:
                _compare(left, right, sign)
                left = Value(
                    "bool", guard=_guard(left, right) if sign == "==" else None, run=_direct(left, right, sign)
                )
            else:
                left = Value(left.kind) if left.kind == right.kind and left.kind in ("string", "number") else ANY
        return left

    def _unary(self) -> Value:
        signs = 0
        first = self._peek()
        while self._accept("!", "-"):
            signs += 1
        value = self._member()
        if signs == 1 and first == "!" and value.run:
            return Value("bool", run=negated(value.run))
        return value if not signs else Value(value.kind) if value.kind in ("bool", "number") else ANY

    def _member(self) -> Value:
        value = self._primary()
        while True:
            if self._accept("["):
                self._expression()
                self._expect("]")
                value = _element(value)
            elif self._accept("."):
                name = self._name()
                if not self._accept("("):
                    raise PredicateError(f'".{name}": only facts have fields, and a fact has none of its own')
                value = self._method(value, name)
            else:
                return value

    def _method(self, value: Value, name: str) -> Value:
        if name in _MACROS:
            return self._macro(value, name)
        if name not in _METHODS:
            raise PredicateError(f'there is no function "{name}"{nearest(name, [*_METHODS, *_MACROS])}')
        begun = self.next
        self._list(")")
        text = self._sole_text(begun)
        ours = name in METHODS and value.kind == "string" and value.path and text is not None
        return Value(_METHODS[name], run=like(value.path, name, text) if ours and text is not None else None)

    def _macro(self, value: Value, name: str) -> Value:
        variable = self._name()
        if variable in FIELDS or variable == "at" or variable in self.bound:
            raise PredicateError(f'"{variable}" is a name already; take another for the variable')
        self._expect(",")
        self.bound[variable] = _element(value)
        body = self._list(")")
        del self.bound[variable]
        if name == "filter":
            return value._replace(path="", texts=None)
        return Value("list", element=body.element, literals=body.literals) if name == "map" else BOOL

    def _list(self, end: str) -> Value:
        """Expressions up to `end`, as a list of them."""
        if self._accept(end):
            return Value("list")
        items = [self._expression()]
        while self._accept(","):
            items.append(self._expression())
        self._expect(end)
        kinds = {item.kind for item in items}
        if end == "]" and len(kinds - {"any"}) > 1:
            raise PredicateError(f"a list of different types: {', '.join(sorted(kinds))}")
        literals = tuple(text for item in items for text in item.literals)
        fact = next((item.fact for item in items if item.fact), "")
        texts = frozenset(item.text for item in items if item.text is not None)
        plain = all(item.text is not None for item in items)
        return Value("list", kinds.pop() if len(kinds) == 1 else "any", fact, literals, texts=texts if plain else None)

    def _primary(self) -> Value:
        kind, text = self.tokens[self.next]
        if kind == "string":
            self.next += 1
            text = _unquote(text)
            return Value("string", literals=(text,), text=text)
        if kind == "number":
            self.next += 1
            return Value("number")
        if self._accept("("):
            value = self._expression()
            self._expect(")")
            return value
        if self._accept("["):
            return self._list("]")
        name = self._name()
        if name in FIELDS:
            return self._fact(name)
        if name == "at":
            self.facts["at"] = None
            return Value("timestamp", path="at")
        if name in _WORDS:
            return _WORDS[name]
        if name in self.bound:
            return self.bound[name]
        if self._accept("("):
            return self._function(name)
        raise PredicateError(f'there is no fact "{name}"{nearest(name, [*FIELDS, "at"])}')

    def _fact(self, root: str) -> Value:
        if self._peek() == "[":
            raise PredicateError(f"{root}[…] cannot be checked; write {root}.FIELD")
        if not self._accept("."):
            raise PredicateError(f'"{root}" is no fact by itself{nearest(root, [f"{root}.{f}" for f in FIELDS[root]])}')
        field = self._name()
        if field not in FIELDS[root]:
            raise PredicateError(f'"{root}" has no fact "{field}"{nearest(field, FIELDS[root])}')
        name = f"{root}.{field}"
        self.facts[name] = None
        if FIELDS[root][field] == "list":
            return Value("list", element="string", path=name)
        return Value("string", fact=name if name in MEMBERS else "", path=name)

    def _function(self, name: str) -> Value:
        if name != "has" and name not in _FUNCTIONS:
            raise PredicateError(f'there is no function "{name}"{nearest(name, [*_FUNCTIONS, "has"])}')
        begun = self.next
        self._list(")")
        moment = self._moment(begun) if name == "timestamp" else None
        return Value(_FUNCTIONS.get(name, "bool"), moment=moment)

    def _moment(self, begun: int) -> datetime | None:
        """The instant of a timestamp whose only argument is written out, to the microsecond."""
        text = self._sole_text(begun)
        if text is None or not _MOMENT.fullmatch(text):
            return None
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            return None  # No such day: the binding says so when it is evaluated.

    def _sole_text(self, begun: int) -> str | None:
        """What is written out as the only argument of a call whose arguments were just read."""
        kind, text = self.tokens[begun]
        return _unquote(text) if kind == "string" and self.next == begun + 2 else None


def _guard(left: Value, right: Value) -> tuple[str, str] | None:
    """What an equality says, where it is one of a fact with a string."""
    if right.path:
        left, right = right, left
    return (left.path, right.text) if left.path and right.text is not None else None


def _direct(left: Value, right: Value, sign: str) -> Part | None:
    """A comparison by our own means: of a fact with what is written out, or with another."""
    if left.kind == right.kind == "timestamp":
        if left.path and right.moment:
            return ordered(sign, right.moment)
        return ordered(_MIRRORED[sign], left.moment) if right.path and left.moment else None
    if sign == "in":
        if left.path and right.texts is not None:
            return among(left.path, right.texts)
        return holds(right.path, left.text) if right.path and left.text is not None else None
    if left.kind != "string" or right.kind != "string" or sign not in ("==", "!="):
        return None
    if right.path:
        left, right = right, left
    if not left.path or right.text is None:
        return None
    return among(left.path, frozenset((right.text,)), sign == "==")


def _unquote(token: str) -> str:
    if token[0] in "rR":
        return token[2:-1]
    if "\\" in token:
        raise PredicateError(f"{token}: write a text with backslashes as r{token}")
    return token[1:-1]


def _element(value: Value) -> Value:
    """An element of a list, or what an index finds."""
    return Value(value.element, fact=value.fact, literals=value.literals) if value.kind == "list" else ANY


def _either(first: Value, second: Value) -> Value:
    """One of the two, nobody knows which."""
    return Value(
        first.kind if first.kind == second.kind else "any",
        first.element if first.element == second.element else "any",
        first.fact or second.fact,
        first.literals + second.literals,
    )


def _compare(left: Value, right: Value, sign: str) -> None:
    """Refuse what can never be true, or is true whatever the facts are."""
    if sign == "in":
        if right.kind not in ("list", "any"):
            raise PredicateError(f'"in" looks into a list, and a {right.kind} stands there')
        right = _element(right)
    if left.kind != right.kind and "any" not in (left.kind, right.kind):
        raise PredicateError(f'a {left.kind} is compared with a {right.kind}, by "{sign}"')
    for one, other in ((left, right), (right, left)):
        for text in other.literals if one.fact else ():
            if text not in MEMBERS[one.fact]:
                raise PredicateError(f'{one.fact} cannot be "{text}"{nearest(text, MEMBERS[one.fact])}')
