"""A tool call's arguments as their tool will read them: refused where tools would differ, and one form for all that
read alike.

Equal bytes stand for equal arguments, and others for others, by the strictest of readers: one that knows whole
numbers from those with a point, and has all their digits. The order of names, white space, escapes and the way in
which a number with a point is written are no difference; the Unicode form of a text is one, since nobody normalises
a text by reading it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, NoReturn, TypeAlias, cast

from stateline.core.errors import BadRequest
from stateline.core.limits import ARGUMENT_DEPTH_MAX

_FLOAT = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?)0*(\d+))?", re.ASCII)


class _Number(str):
    """A number in its canonical form."""

    __slots__ = ()


_Value: TypeAlias = "bool | str | _Number | list[_Value] | dict[str, _Value] | None"


class ArgumentsError(BadRequest):
    """Arguments that are no JSON object, or that tools would read in different ways."""

    code = "arguments_invalid"


def read_arguments(text: str) -> dict[str, Any]:
    """The object that a model wrote, as Python has it: what policies are asked about.

    Raises:
        ArgumentsError: as ``canonical_arguments``.
    """
    canonical_arguments(text)
    # What is refused for its digits has been; a whole number may still be longer than Python converts.
    try:
        return cast("dict[str, Any]", json.loads(text))
    except ValueError:
        _refuse("a whole number has too many digits", "arguments_number")


def canonical_arguments(text: str) -> bytes:
    """The one form of these arguments, as UTF-8.

    Raises:
        ArgumentsError: ``arguments_invalid``: no JSON object, text that is no Unicode, or nested deeper than
            ARGUMENT_DEPTH_MAX; ``arguments_ambiguous``: a name is there twice, be it in two Unicode forms;
            ``arguments_number``: a number that a double does not hold, so that tools read different ones.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_once, parse_int=_Number, parse_float=_float, parse_constant=_constant
        )
    except RecursionError:
        _too_deep()
    except ValueError as error:
        _refuse(f"the arguments are no JSON: {error}")
    if not isinstance(value, dict):
        _refuse("the arguments are no JSON object")
    out: list[str] = []
    _write(cast("_Value", value), out, 1)
    try:
        return "".join(out).encode()
    except UnicodeEncodeError:
        _refuse("the arguments have half of a surrogate pair, which is no text")


def _once(pairs: list[tuple[str, _Value]]) -> dict[str, _Value]:
    table = dict(pairs)
    if len({unicodedata.normalize("NFC", name) for name in table}) < len(pairs):
        _refuse("a name is there twice, and tools differ in which of them they take", "arguments_ambiguous")
    return table


def _float(text: str) -> _Number:
    match = _FLOAT.fullmatch(text)
    assert match is not None, text
    sign, whole, fraction, exponent_sign, exponent = match.groups(default="")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return _Number(f"{sign}0e0")
    if float(text) in (0.0, float("inf"), float("-inf")):
        _refuse("a number is too large or too small for a double", "arguments_number")
    power = int(f"{exponent_sign}{exponent or 0}") - len(fraction)
    kept = digits.rstrip("0")
    return _Number(f"{sign}{kept}e{power + len(digits) - len(kept)}")


def _constant(name: str) -> NoReturn:
    _refuse(f"{name} is no number of JSON", "arguments_number")


def _write(value: _Value, out: list[str], depth: int) -> None:
    if depth > ARGUMENT_DEPTH_MAX:
        _too_deep()
    if isinstance(value, dict):
        separator = "{"
        for name in sorted(value):
            out += (separator, json.dumps(name, ensure_ascii=False), ":")
            _write(value[name], out, depth + 1)
            separator = ","
        out.append("}" if value else "{}")
    elif isinstance(value, list):
        separator = "["
        for each in value:
            out.append(separator)
            _write(each, out, depth + 1)
            separator = ","
        out.append("]" if value else "[]")
    elif isinstance(value, _Number):
        out.append(value)
    else:
        out.append(json.dumps(value, ensure_ascii=False))


def _too_deep() -> NoReturn:
    _refuse(f"the arguments are nested more than {ARGUMENT_DEPTH_MAX} deep")


def _refuse(message: str, code: str | None = None) -> NoReturn:
    raise ArgumentsError(message, code=code)
