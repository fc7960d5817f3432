"""Query parameters, checked; and pages of items."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Literal, get_args
from urllib.parse import parse_qsl

import msgspec

from stateline.api.params import Include
from stateline.core.errors import BadRequest
from stateline.core.items import Item
from stateline.core.limits import ITEM_ID_CHARS_MAX, PAGE_ITEMS_MAX, QUERY_FIELDS_MAX

_PAGE_ITEMS = 20
_INCLUDES = frozenset(get_args(Include))
_NUMBER_CHARS_MAX = 18


FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(9998, 12, 31)
"""Days that a query may name."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Which items to list: at most ``limit`` of them, behind the item ``after``."""

    limit: int = _PAGE_ITEMS
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """One page. ``first_id`` and ``last_id`` are null on an empty one."""

    object: Literal["list"] = "list"
    data: tuple[Item, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Query:
    """The parameters of a URL; of a repeated one the last counts.

    Raises:
        BadRequest: it is not UTF-8, or has too many fields.
    """

    def __init__(self, raw: bytes) -> None:
        try:
            pairs = parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX
            )
        except (UnicodeDecodeError, ValueError):
            raise BadRequest("The query of the URL cannot be parsed.", code="invalid_query") from None
        self._pairs = pairs

    def text(self, name: str) -> str | None:
        for key, value in reversed(self._pairs):
            if key == name:
                return value
        return None

    def flag(self, name: str) -> bool:
        value = self.text(name)
        if value is None or value.lower() in ("false", "0"):
            return False
        if value.lower() in ("true", "1"):
            return True
        raise BadRequest(f"Invalid '{name}': expected true or false.", code="invalid_type", param=name)

    def number(self, name: str, low: int, high: int | None) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _NUMBER_CHARS_MAX):
            raise BadRequest(f"Invalid type for '{name}': expected an integer.", code="invalid_type", param=name)
        number = int(value)
        if number < low:
            raise BadRequest(
                f"Invalid '{name}': expected a value >= {low}.", code="integer_below_min_value", param=name
            )
        if high is not None and number > high:
            raise BadRequest(
                f"Invalid '{name}': expected a value <= {high}.", code="integer_above_max_value", param=name
            )
        return number

    def name(self, name: str) -> str | None:
        """An id, as long as one may be."""
        value = self.text(name)
        if value is not None and not 0 < len(value) <= ITEM_ID_CHARS_MAX:
            raise BadRequest(f"Invalid '{name}': no such id.", code="invalid_value", param=name)
        return value

    def day(self, name: str) -> date | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            day = date.fromisoformat(text)
        except ValueError:
            day = date.min
        if not FIRST_DAY <= day <= LAST_DAY:
            raise BadRequest(f"Invalid '{name}': expected a day, such as 2026-11-30.", code="invalid_value", param=name)
        return day

    def check_include(self) -> None:
        """Refuse an unknown ``include``. All that a known one asks for is always given."""
        for key, value in self._pairs:
            if key.partition("[")[0] == "include" and value not in _INCLUDES:
                raise BadRequest(f"Invalid value: '{value[:64]}' at 'include'.", code="invalid_value", param="include")

    def page(self) -> Page:
        order = self.text("order") or "desc"
        if order not in ("asc", "desc"):
            raise BadRequest("Invalid 'order': expected asc or desc.", code="invalid_value", param="order")
        limit = self.number("limit", 1, PAGE_ITEMS_MAX)
        after = self.text("after")
        if after is not None and not 0 < len(after) <= ITEM_ID_CHARS_MAX:
            raise _bad_cursor()
        self.check_include()
        return Page(limit=limit or _PAGE_ITEMS, order="asc" if order == "asc" else "desc", after=after)


def day_ms(day: date) -> int:
    """When a day begins (UTC, Unix ms)."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def paginate(items: Sequence[Item], page: Page) -> ItemList:
    """The page of ``items`` (oldest first).

    Raises:
        BadRequest: ``after`` is none of them.
    """
    ordered = list(items) if page.order == "asc" else list(reversed(items))
    start = 0
    if page.after is not None:
        start = next((at + 1 for at, item in enumerate(ordered) if item.id == page.after), -1)
        if start < 0:
            raise _bad_cursor()
    shown = tuple(ordered[start : start + page.limit])
    return ItemList(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=start + page.limit < len(ordered),
    )


def _bad_cursor() -> BadRequest:
    return BadRequest("Invalid 'after': no such item in this list.", code="invalid_cursor", param="after")
