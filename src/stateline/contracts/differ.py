"""Whether two predicates can ever differ, by trying every value that could matter to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from typing import Any

import cel

from stateline.contracts.facts import FIELDS, MEMBERS
from stateline.contracts.predicates import Predicate, tokens
from stateline.core.limits import LINT_FACTS_MAX, LINT_LISTS_MAX

_SIGNS = frozenset(("&&", "||", "!", "==", "!=", "in", "(", ")", "[", "]", ".", ",", "<", ">", "<=", ">=", "?", ":"))
_SIMPLE = _SIGNS | {"timestamp", "at", "true", "false"}
_DAY = re.compile(r"timestamp\(\s*['\"]([^'\"]+)['\"]\s*\)")
_OTHER = "(any other)"
_MISSING = object()


def can_differ(first: Predicate, second: Predicate) -> bool | None:
    """Whether some facts make one true and the other not; None: too many to try, or beyond comparing with literals."""
    if first.text == second.text:
        return False
    names: set[str] = set()
    texts: set[str] = set()
    for one in (first, second):
        words = tokens(one.text)
        if not _read(words, names, texts):
            return None
    if len(texts) > LINT_LISTS_MAX and any(_is_list(name) for name in names):
        return None
    choices = [list(_values(name, texts)) for name in sorted(names)]
    instants = _instants(first.text + " " + second.text)
    size = len(instants)
    for choice in choices:
        size *= len(choice)
    if size > LINT_FACTS_MAX:
        return None
    context = cel.Context()
    for at, *values in product(instants, *choices):
        facts: dict[str, dict[str, Any]] = {root: {} for root in FIELDS}
        for name, value in zip(sorted(names), values, strict=True):
            root, field = name.split(".")
            if value is not _MISSING:
                facts[root][field] = value
        for root, fields in facts.items():
            context.add_variable(root, fields)
        context.add_variable("at", at)
        if _run(first, context) is not _run(second, context):
            return True
    return False


def _read(words: list[tuple[str, str]], names: set[str], texts: set[str]) -> bool:
    """Note facts and literals; False where something else than comparisons stands there."""
    for index, (kind, text) in enumerate(words[:-1]):
        if kind == "string":
            texts.add(text.lstrip("rR")[1:-1])
        elif text in FIELDS:
            names.add(f"{text}.{words[index + 2][1]}")
        elif text not in _SIMPLE and not (index and words[index - 1] == ("sign", ".") and words[index + 1][1] != "("):
            return False
    return True


def _is_list(name: str) -> bool:
    root, field = name.split(".")
    return FIELDS[root][field] == "list"


def _values(name: str, texts: set[str]) -> Iterator[object]:
    yield _MISSING
    if _is_list(name):
        some = sorted(texts)
        for count in range(len(some) + 1):
            yield from (list(each) for each in combinations(some, count))
    elif name in MEMBERS:
        yield from MEMBERS[name]
    else:
        yield from sorted(texts)
        yield _OTHER


def _instants(text: str) -> list[datetime]:
    """Each instant that the predicates name, and those beside it."""
    found = [datetime(2000, 1, 1, tzinfo=UTC)]
    for written in _DAY.findall(text):
        try:
            at = datetime.fromisoformat(written)
        except ValueError:
            continue  # Then its evaluation raises, at any instant.
        found += [at - timedelta(microseconds=1), at, at + timedelta(microseconds=1)]
    return found


def _run(predicate: Predicate, context: cel.Context) -> object:
    try:
        value = predicate.execute(context)
    except Exception:
        return None  # Unknown, whatever it raised.
    return value if isinstance(value, bool) else None
