"""A cloud's own FOCUS export, row by row, as lines that can be compared with the meter's.

Column sets of FOCUS 1.0 to 1.4 are read, in any order; columns that are not needed are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple

import msgspec

from stateline.core.billing import ZERO, Tariff
from stateline.core.errors import BadRequest
from stateline.core.limits import RECONCILE_LINES_MAX, RECONCILE_NAMES_KEPT_MAX

Cost = Literal["contracted", "billed", "effective", "list"]
_COSTS: dict[Cost, str] = {
    "contracted": "ContractedCost",
    "billed": "BilledCost",
    "effective": "EffectiveCost",
    "list": "ListCost",
}
_NEEDED = ("ChargePeriodStart", "ChargeCategory", "BillingAccountId", "BillingCurrency")
_QUANTITIES = (("ConsumedQuantity", "ConsumedUnit"), ("PricingQuantity", "PricingUnit"), ("UsageQuantity", "UsageUnit"))
_WORDS = ("ResourceId", "ResourceName", "SkuMeter", "SkuId", "ChargeDescription")
"""Columns in whose text a model may be named, the surest first."""
READ = frozenset(
    (*_NEEDED, *_COSTS.values(), *(name for pair in _QUANTITIES for name in pair), *_WORDS, "ChargePeriodEnd")
) | {"SubAccountId", "SkuPriceDetails", "ServiceCategory", "ServiceSubcategory", "ServiceName"}
"""The columns that are looked at; rows may leave out all others."""
_MODEL_KEYS = ("ModelId", "x_ModelId", "x_ModelName")
_KIND_KEYS = ("TokenType", "x_TokenType")
_DECIMALS_MIN, _DECIMALS_MAX = 2, 10
"""Digits after the point that say how a file rounds: hundredths at least; more are what is left of a binary float."""
_EXPONENT_MAX = 30
"""A cost has no more digits than this; adding up others would take memory without end."""
_DAY = timedelta(days=1)
_PART = re.compile(r"[a-z0-9]+")
_UNIT = re.compile(r"(\d+(?:\.\d+)?)? ?(k|m|thousand|million)?\b ?(.*)")
_SCALES = {None: 1, "k": 1000, "thousand": 1000, "m": 1_000_000, "million": 1_000_000}
_OTHER_MODEL = frozenset(
    ("mini", "nano", "micro", "lite", "flash", "pro", "codex", "turbo", "chat", "image", "audio", "realtime")
)
"""Words that make another model of a name that they follow."""


class Key(NamedTuple):
    """Whose line it is. ``kind`` is of token: input, cached_input, cache_write, output, call, or ``""``: not told."""

    day: date
    account: str
    model: str
    currency: str
    kind: str


class Line(NamedTuple):
    """What a cloud bills on one key: ``quantity`` in tokens or calls, None where its unit is neither.

    ``units`` adds up how many tokens one unit of each row is, where it is more than one.
    """

    quantity: Decimal | None
    cost: Decimal
    rows: int
    units: Decimal = ZERO


class Names:
    """Which models the meter knows in which billing account, whatever a cloud calls them there.

    A model is known by the name in requests and by the cloud's own; names that lead to one another are one model,
    since the cloud cannot tell them apart.
    """

    def __init__(self, tariffs: Iterable[Tariff]) -> None:
        self._groups: dict[tuple[str, tuple[str, ...]], set[str]] = {}
        for tariff in tariffs:
            account = tariff.billing_account
            mine = {tariff.model}
            for name in (tariff.model, tariff.upstream_model):
                mine |= self._groups.get((account, parts(name)), set())
            for key in [key for key, group in self._groups.items() if key[0] == account and group & mine]:
                self._groups[key] = mine
            for name in (tariff.model, tariff.upstream_model):
                self._groups[account, parts(name)] = mine
        self.accounts = {account for account, _ in self._groups if account}
        self.unnamed = any(not account for account, _ in self._groups)
        self._longest = sorted(self._groups, key=lambda key: (-len(key[1]), key))

    def label(self, account: str, name: str) -> str:
        """The model as it is shown, by one of its names; an unknown one is shown as it is."""
        group = self._groups.get((account, parts(name)))
        return name if group is None else " + ".join(sorted(group))

    def in_text(self, account: str, text: str, *, sure: bool) -> str | None:
        """The model that is named in a text, such as a meter's; of several the longest name.

        Where it is not ``sure`` that the text is of a model, a name of one word is none: machines are small, too.
        """
        said = parts(text)
        for key in self._longest:
            if key[0] == account and len(key[1]) > (not sure) and _holds(said, key[1]):
                return " + ".join(sorted(self._groups[key]))
        return None


def parts(text: str) -> tuple[str, ...]:
    """The words and numbers of a name, so that ``Claude Opus 4.8`` is ``claude-opus-4-8``."""
    return tuple(_PART.findall(text.casefold()))


def _holds(said: Sequence[str], name: Sequence[str]) -> bool:
    for at in range(len(said) - len(name) + 1):
        end = at + len(name)
        if tuple(said[at:end]) == tuple(name) and not (end < len(said) and said[end] in _OTHER_MODEL):
            return True
    return False


class Statement:
    """Adds up a cloud's rows by day, account, model, currency and kind of token.

    Args:
        header: the names of the columns, in their order.
        names: what the meter knows.
        span: days that are looked at, first and last; None: all.
        cost: which cost is compared; None: the first of contracted, effective and billed that there is.
        most: lines that are kept.

    Attributes:
        accounts: all that the file names.
        others: rows that are not compared, by why, with their cost by currency.
        days: the first and the last that it has rows of.

    Raises:
        BadRequest: ``focus_columns_missing``.
    """

    def __init__(
        self,
        header: Sequence[str],
        names: Names,
        *,
        span: tuple[date | None, date | None] = (None, None),
        cost: Cost | None = None,
        most: int = RECONCILE_LINES_MAX,
    ) -> None:
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise BadRequest(f"the column {twice[0]} is there twice", code="focus_columns_missing")
        orders: tuple[Cost, ...] = ("contracted", "effective", "billed") if cost is None else (cost,)
        self.cost = next((_COSTS[name] for name in orders if _COSTS[name] in header), "")
        missing = [name for name in _NEEDED if name not in header]
        missing += [] if self.cost else [_COSTS[orders[0]]]
        if missing:
            message = f"it is no FOCUS export of cost and usage: it has no column {', '.join(missing)}"
            raise BadRequest(message, code="focus_columns_missing")
        self.accounts: set[str] = set()
        self.others: dict[tuple[str, str], tuple[int, Decimal]] = {}
        self._decimals: int | None = None
        self._unit_decimals = 0
        self._known: dict[tuple[str, ...], str | None] = {}
        self.days: tuple[date, date] | None = None
        self._names = names
        self._since, self._until = span
        self._most = most
        self._lines: dict[Key, Line] = {}

    def add(self, row: Mapping[str, str]) -> None:
        """One row.

        Raises:
            BadRequest: ``focus_row_invalid``: a value cannot be read; the message names its column.
                ``focus_file_too_large``: there are too many lines.
        """
        day, long = _day(row)
        if (self._since is not None and day < self._since) or (self._until is not None and day > self._until):
            return
        self.days = (day, day) if self.days is None else (min(day, self.days[0]), max(day, self.days[1]))
        cost = _number(row, self.cost)
        if cost:
            self._decimals = max(self._decimals or _DECIMALS_MIN, min(_DECIMALS_MAX, _digits(cost)))
        currency = row["BillingCurrency"]
        account = self._account(row)
        if account is None:
            self._leave("accounts that the meter does not know", currency, cost)
            return
        category = row["ChargeCategory"]
        if category != "Usage":
            self._leave(category or "no category", currency, cost)
            return
        details = _details(row)
        model = self._model(row, account, details)
        if model is None:
            self._leave("other services", currency, cost)
            return
        if long:
            self._leave("periods longer than a day", currency, cost)
            return
        kind = _kind(row, details)
        quantity, unit = self._quantity(row, kind)
        self._put(Key(day, account, model, currency, kind), Line(quantity, cost, 1, unit))

    def _put(self, key: Key, line: Line) -> None:
        found = self._lines.get(key)
        if found is None:
            if len(self._lines) >= self._most:
                message = f"it has more than {self._most} lines of models; compare fewer days with --from and --to"
                raise BadRequest(message, code="focus_file_too_large")
            self._lines[key] = line
            return
        known = found.quantity is not None and line.quantity is not None
        quantity = (found.quantity or ZERO) + (line.quantity or ZERO) if known else None
        self._lines[key] = Line(quantity, found.cost + line.cost, found.rows + 1, found.units + line.units)

    def _leave(self, why: str, currency: str, cost: Decimal) -> None:
        rows, amount = self.others.get((why, currency), (0, ZERO))
        self.others[why, currency] = (rows + 1, amount + cost)

    @property
    def lines(self) -> Mapping[Key, Line]:
        """All that was added up."""
        return self._lines

    def _account(self, row: Mapping[str, str]) -> str | None:
        """The account by which the meter knows it: the billing account, or the one under it; ``""``: unconfigured."""
        named = [name for name in (row["BillingAccountId"], row.get("SubAccountId") or "") if name]
        self.accounts.update(named)
        known = next((name for name in named if name in self._names.accounts), None)
        if known is not None:
            return known
        return "" if self._names.unnamed else None

    def _model(self, row: Mapping[str, str], account: str, details: Mapping[str, object]) -> str | None:
        """The model that a row is of; None where it is of something else."""
        for key in _MODEL_KEYS:
            name = details.get(key)
            if isinstance(name, str) and name:
                return self._names.label(account, name)
        found = self._named(row, account)
        if found is not None:
            return found
        if row.get("ServiceSubcategory") == "Generative AI":
            return row.get("SkuMeter") or row.get("ResourceName") or row.get("ServiceName") or "not named"
        return None

    def _named(self, row: Mapping[str, str], account: str) -> str | None:
        """The model that a row's text names; rows repeat themselves, so what was found is kept."""
        sure = row.get("ServiceCategory") == "AI and Machine Learning"
        texts = (account, str(sure), *(row.get(column) or "" for column in _WORDS))
        if texts not in self._known:
            if len(self._known) >= RECONCILE_NAMES_KEPT_MAX:
                self._known.clear()
            found = (self._names.in_text(account, text, sure=sure) for text in texts[2:])
            self._known[texts] = next((name for name in found if name is not None), None)
        return self._known[texts]

    def _quantity(self, row: Mapping[str, str], kind: str) -> tuple[Decimal | None, Decimal]:
        """In tokens or calls, with how many of them a unit is where it is more than one; None: no unit is either."""
        for column, unit in _QUANTITIES:
            scale = _scale(row.get(unit) or "", kind)
            if scale is not None and row.get(column):
                count = _number(row, column)
                if scale <= 1:
                    return count * scale, ZERO
                self._unit_decimals = max(self._unit_decimals, _digits(count))
                return count * scale, scale
        return None, ZERO

    @property
    def step(self) -> Decimal:
        """The last digit of the file's costs: they are rounded to it. Where all are zero, they are not rounded."""
        return ZERO if self._decimals is None else Decimal(1).scaleb(-self._decimals)

    def slack(self, line: Line) -> Decimal:
        """How far a quantity may be off, since the file rounds it: half of the last digit a row."""
        steps = line.units.scaleb(-self._unit_decimals)
        return steps / 2 if steps > line.rows else ZERO


def _day(row: Mapping[str, str]) -> tuple[date, bool]:
    """The UTC day on which a charge begins, and whether it goes on for longer than a day."""
    start = _time(row, "ChargePeriodStart")
    if not row.get("ChargePeriodEnd"):
        return start.date(), False
    return start.date(), _time(row, "ChargePeriodEnd") - start > _DAY


def _time(row: Mapping[str, str], column: str) -> datetime:
    text = row[column]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(column, text, "a time, such as 2026-11-02T00:00:00Z") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _number(row: Mapping[str, str], column: str) -> Decimal:
    text = row[column]
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or abs(found.adjusted()) > _EXPONENT_MAX:
        raise _invalid(column, text, "a number")
    return found


def _digits(amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _details(row: Mapping[str, str]) -> Mapping[str, object]:
    """Clouds write what they like here, so what is no table of JSON says nothing."""
    text = row.get("SkuPriceDetails")
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError:
        return {}


def _kind(row: Mapping[str, str], details: Mapping[str, object]) -> str:
    told = next((str(details[key]) for key in _KIND_KEYS if details.get(key)), "")
    text = told or " ".join(row.get(column) or "" for column in ("SkuMeter", "SkuId", "ChargeDescription"))
    words = set(parts(re.sub(r"([a-z])([A-Z])", r"\1 \2", text)))
    if words & {"cache", "cached", "cchd", "caching"}:
        return "cache_write" if words & {"write", "writes", "creation"} else "cached_input"
    if words & {"output", "outp", "completion", "reasoning"}:
        return "output"
    if words & {"input", "inp", "inpt", "prompt"}:
        return "input"
    return "call" if words & {"call", "calls", "request", "requests"} else ""


def _scale(unit: str, kind: str) -> Decimal | None:
    """How many tokens or calls one unit is."""
    found = _UNIT.fullmatch(unit.strip().casefold())
    if found is None or not unit.strip():
        return None
    number, scale, rest = found.groups()
    counted = ("token" in rest) or ("request" in rest) or ("call" in rest)
    if not counted and (rest or not kind):
        return None
    return Decimal(number or 1) * _SCALES[scale]


def _invalid(column: str, text: str, what: str) -> BadRequest:
    return BadRequest(f'{column}: "{text[:80]}" is not {what}', code="focus_row_invalid", param=column)
