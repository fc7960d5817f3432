"""JSON as small models write it.

Reads strict JSON, and forgives what a 0.5B model gets wrong: single quotes, trailing commas, bare
keys, Python's ``True``/``False``/``None``, comments, raw newlines inside strings, and closers that
are missing because the model stopped early. One pass over the text, no backtracking.
"""

from __future__ import annotations

import re
from typing import Any

from stateline.core.limits import LOCAL_JSON_DEPTH_MAX

_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")
_BARE = re.compile(r"[A-Za-z_$][\w$.-]*")
_LITERALS: dict[str, Any] = {
    "true": True,
    "false": False,
    "null": None,
    "True": True,
    "False": False,
    "None": None,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_HEX = re.compile(r"[0-9a-fA-F]{4}")


class NotJson(ValueError):
    """The text does not begin with anything that can be read as JSON."""


def read_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The first value at or after ``start`` (space and comments skipped) and where it ends.

    Raises:
        NotJson: there is none.
    """
    return _Reader(text, start).top()


class _Reader:
    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.at = start

    def top(self) -> tuple[Any, int]:
        value = self._value(0)
        return value, self.at

    def _skip(self) -> str:
        """Move past space and comments; the next character, or an empty string at the end."""
        if match := _SPACE.match(self.text, self.at):
            self.at = match.end()
        return self.text[self.at : self.at + 1]

    def _value(self, depth: int) -> Any:
        if depth > LOCAL_JSON_DEPTH_MAX:
            raise NotJson(f"nested deeper than {LOCAL_JSON_DEPTH_MAX}")
        char = self._skip()
        if char == "{":
            return self._object(depth)
        if char == "[":
            return self._array(depth)
        if char and char in "\"'":
            return self._string(char)
        if match := _NUMBER.match(self.text, self.at):
            self.at = match.end()
            return _number(match[0])
        if (match := _BARE.match(self.text, self.at)) and match[0] in _LITERALS:
            self.at = match.end()
            return _LITERALS[match[0]]
        raise NotJson(f"no value at {self.at}")

    def _object(self, depth: int) -> dict[str, Any]:
        self.at += 1
        out: dict[str, Any] = {}
        while (char := self._skip()) not in ("}", ""):
            if char == ",":
                self.at += 1
                continue
            key = self._key(char)
            if self._skip() != ":":
                if not self.text[self.at :].strip():
                    break
                raise NotJson(f"no colon at {self.at}")
            self.at += 1
            if not self._skip():
                break
            out[key] = self._value(depth + 1)
        self.at = min(self.at + 1, len(self.text))
        return out

    def _key(self, char: str) -> str:
        if char in "\"'":
            return self._string(char)
        if match := _BARE.match(self.text, self.at):
            self.at = match.end()
            return match[0]
        raise NotJson(f"no key at {self.at}")

    def _array(self, depth: int) -> list[Any]:
        self.at += 1
        out: list[Any] = []
        while (char := self._skip()) not in ("]", ""):
            if char == ",":
                self.at += 1
                continue
            out.append(self._value(depth + 1))
        self.at = min(self.at + 1, len(self.text))
        return out

    def _string(self, quote: str) -> str:
        text, at = self.text, self.at + 1
        out: list[str] = []
        plain = re.compile(rf"[^{quote}\\]+")
        while at < len(text) and text[at] != quote:
            if match := plain.match(text, at):
                out.append(match[0])
                at = match.end()
                continue
            at = self._escape(at + 1, out)
        self.at = min(at + 1, len(text))
        return "".join(out).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _escape(self, at: int, out: list[str]) -> int:
        """Read what follows a backslash at ``at``; where it ends."""
        char = self.text[at : at + 1]
        if char == "u" and (match := _HEX.match(self.text, at + 1)):
            out.append(chr(int(match[0], 16)))
            return match.end()
        out.append(_ESCAPES.get(char, char))
        return at + 1


def _number(literal: str) -> int | float:
    try:
        value = int(literal) if literal.lstrip("-").isdigit() else float(literal)
    except ValueError as error:  # Thousands of digits.
        raise NotJson("a number out of range") from error
    if value in (float("inf"), float("-inf")):
        raise NotJson("a number out of range")
    return value
