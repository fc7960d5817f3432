"""Arguments as a model wrote them, into the JSON that Cedar reads.

Cedar's JSON has escapes (``__entity``, ``__extn``, ``__expr``) which turn an object into an entity or an extension
value. A model must not be able to write one, so an object with such a key has no place in a request; the only
escapes are those made here, where a policy or the operator's schema reads a text or number as such a type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast

from stateline.core.limits import POLICY_ARGUMENT_DEPTH_MAX
from stateline.identity.policy.errors import Unfit
from stateline.identity.policy.shapes import ANY, Field, Record, SetOf, Shape

LONG_MAX = 2**63 - 1
_LONG_MIN = -(2**63)
_NO_FIELDS: Mapping[str, Field] = {}
_RESERVED = ("__entity", "__extn", "__expr")
_DECIMAL_PLACES = 4
_DECIMAL_MAX = Decimal(LONG_MAX).scaleb(-_DECIMAL_PLACES)
_DECIMAL = re.compile(r"-?\d+\.\d{1,4}", re.ASCII)
_CONSTRUCTORS = {"datetime": "datetime", "duration": "duration", "ipaddr": "ip"}
_FORMS = {
    "datetime": re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{3})?(Z|[+-]\d{4}))?", re.ASCII),
    "duration": re.compile(r"-?(\d+(d|h|ms|m|s))+", re.ASCII),
    "ipaddr": re.compile(r"[0-9a-fA-F.:]+(/\d{1,3})?", re.ASCII),
}


def encode(arguments: Mapping[str, Any], names: Iterable[str] | None, shape: Record, *, strict: bool) -> dict[str, Any]:
    """Those of the arguments that policies read; ``None`` stands for all. A null is as good as nothing.

    Args:
        shape: what they are read as.
        strict: whether another type is refused; where types are only inferred, values stand as they are.

    Raises:
        Unfit: ``policy_argument``: Cedar has no such value, or it is not of the declared type.
    """
    out: dict[str, Any] = {}
    fields = shape.fields
    for name in arguments if names is None else names:
        value = arguments.get(name)
        if value is None:
            continue
        _check_key(name, name)
        field = fields.get(name)
        out[name] = _value(value, ANY if field is None else field.shape, strict, name, 1)
    return out


def _value(value: object, shape: Shape, strict: bool, at: str, depth: int) -> Any:
    kind: type[object] = type(value)
    if kind is int and shape in ("Long", ANY):
        if _LONG_MIN <= cast("int", value) <= LONG_MAX:
            return value
        raise _unfit(at, "is a whole number of more than 64 bits")
    if (kind is str and shape in ("String", ANY)) or (kind is bool and shape in ("Bool", ANY)):
        return value
    if depth > POLICY_ARGUMENT_DEPTH_MAX:
        raise _unfit(at, f"is nested more than {POLICY_ARGUMENT_DEPTH_MAX} deep")
    if kind is list and (type(shape) is SetOf or shape == ANY):
        of = shape.of if type(shape) is SetOf else ANY
        each = enumerate(cast("list[object]", value))
        return [_value(inner, of, strict, f"{at}[{index}]", depth + 1) for index, inner in each]
    if kind is dict and (type(shape) is Record or shape == ANY):
        fields = shape.fields if type(shape) is Record else _NO_FIELDS
        return _object(cast("dict[str, object]", value), fields, strict, at, depth)
    found = _constructed(value, shape, at)
    if found is not None:
        return found
    if shape == ANY:
        raise _unfit(at, "has no place in a policy's question")
    if strict:
        raise _unfit(at, f"is not a {'Set' if type(shape) is SetOf else 'record' if type(shape) is Record else shape}")
    return _value(value, ANY, strict, at, depth)


def _object(value: dict[str, object], fields: Mapping[str, Field], strict: bool, at: str, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, inner in value.items():
        _check_key(name, at)
        if inner is not None:
            field = fields.get(name)
            out[name] = _value(inner, ANY if field is None else field.shape, strict, f"{at}.{name}", depth + 1)
    return out


def _constructed(value: object, shape: Shape, at: str) -> dict[str, Any] | None:
    """A value of one of Cedar's extensions; None where this is none."""
    if shape == "decimal" or (shape == ANY and type(value) is float):
        return _decimal(value, at)
    form = _FORMS.get(shape) if type(shape) is str else None
    if form is None or type(value) is not str or not form.fullmatch(value):
        return None
    return {"__extn": {"fn": _CONSTRUCTORS[cast("str", shape)], "arg": value}}


def _check_key(name: str, at: str) -> None:
    if name.startswith(_RESERVED):
        raise _unfit(at, f"has a key that begins with {name[:8]}, which policies keep for themselves")


def _decimal(value: object, at: str) -> dict[str, Any] | None:
    """A number or the text of one as a Cedar decimal; None for whatever else."""
    if type(value) is str:
        if not _DECIMAL.fullmatch(value):
            return None
        number = Decimal(value)
    elif type(value) is int:
        number = Decimal(value)
    elif type(value) is float:
        if not math.isfinite(value):
            raise _unfit(at, "is not a finite number")
        # The shortest text that stands for it, which is how it was written.
        number = Decimal(repr(value)).normalize()
    else:
        return None
    places = -cast("int", number.as_tuple().exponent)
    if places > _DECIMAL_PLACES or abs(number) > _DECIMAL_MAX:
        raise _unfit(at, f"has more than {_DECIMAL_PLACES} places behind the point, or is too large for a decimal")
    return {"__extn": {"fn": "decimal", "arg": f"{number:.{max(places, 1)}f}"}}


def _unfit(at: str, message: str) -> Unfit:
    return Unfit(f"arguments.{at[:128]} {message}", code="policy_argument")
