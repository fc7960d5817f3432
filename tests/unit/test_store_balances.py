"""Sums of holds: what a whole batch asks of a balance at once is what its holds ask one after the other."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stateline.core.errors import BadRequest
from stateline.core.limits import AMOUNT_DIGITS_MAX, HOLDS_MAX
from stateline.ports import BudgetExceeded, Hold
from stateline.stores.balances import Standing, check, later, moved, summed

_SIDE = Decimal(10) ** (AMOUNT_DIGITS_MAX - 1)
amounts = (
    st.decimals("-100", "100", places=2)
    | st.decimals(-_SIDE, _SIDE, places=0)
    | st.decimals("-1", "1", places=AMOUNT_DIGITS_MAX)
)
times = st.none() | st.integers(0, 5)
HOLDS = st.lists(
    st.builds(
        Hold,
        budget=st.sampled_from(("a", "b")),
        held=amounts,
        spent=amounts,
        limit=st.none() | amounts,
        expires_ms=times,
    ),
    max_size=8,
)
STANDINGS = st.dictionaries(st.sampled_from(("a", "b")), st.builds(Standing, amounts, amounts, times))


def oracle(holds: list[Hold], standings: dict[str, Standing]) -> dict[str, tuple[Fraction, Fraction]] | None:
    """What the balances stand at after the holds, in fractions; None where one of them is refused."""
    out = {hold.budget: (Fraction(0), Fraction(0)) for hold in holds}
    out |= {name: (Fraction(s.held), Fraction(s.spent)) for name, s in standings.items() if name in out}
    for hold in holds:
        held, spent = out[hold.budget]
        out[hold.budget] = held + Fraction(hold.held), spent + Fraction(hold.spent)
        if hold.limit is not None and sum(out[hold.budget]) > hold.limit:
            return None
    return out


@given(HOLDS, STANDINGS)
@example([Hold(budget="a", held=Decimal(1), limit=Decimal(1))], {})
@example([Hold(budget="a", held=Decimal(1), limit=Decimal("0.99"))], {})
def test_holds_have_room_together_where_they_have_it_one_after_the_other(
    holds: list[Hold], standings: dict[str, Standing]
) -> None:
    check(holds)
    sums = summed(holds)
    totals = {name: sum(map(Fraction, standings[name].balance)) if name in standings else 0 for name in sums}
    fits = all(each.room is None or totals[name] <= each.room for name, each in sums.items())
    expected = oracle(holds, standings)
    assert fits == (expected is not None)
    if expected is None:
        with pytest.raises(BudgetExceeded) as caught:
            moved(holds, standings.get)
        budget, left = caught.value.budget, Fraction(caught.value.left)
        limits = [Fraction(hold.limit) for hold in holds if hold.budget == budget and hold.limit is not None]
        assert left + totals[budget] in limits
        return
    after = moved(holds, standings.get)
    assert {name: (Fraction(s.held), Fraction(s.spent)) for name, s in after.items()} == expected
    for name, each in sums.items():
        was = standings.get(name)
        assert after[name].expires_ms == (each.expires_ms if was is None else later(was.expires_ms, each.expires_ms))


def test_one_hold_more_or_one_digit_more_is_refused() -> None:
    large, small = Decimal("9" * AMOUNT_DIGITS_MAX), Decimal(f"1E-{AMOUNT_DIGITS_MAX}")
    check([Hold(budget="b", held=large, spent=small, limit=large)] * HOLDS_MAX)
    for wrong in (
        [Hold(budget="b")] * (HOLDS_MAX + 1),
        [Hold(budget="b", held=Decimal(f"1E+{AMOUNT_DIGITS_MAX}"))],
        [Hold(budget="b", spent=Decimal(f"1E-{AMOUNT_DIGITS_MAX + 1}"))],
        [Hold(budget="b", limit=Decimal("-Infinity"))],
    ):
        with pytest.raises(BadRequest) as caught:
            check(wrong)
        assert caught.value.code == "hold_invalid"
