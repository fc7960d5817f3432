"""Holds: what an append takes of shared balances, and what is left of one that is refused."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from stateline.core.errors import BadRequest, StatelineError
from stateline.core.ids import SessionRef
from stateline.core.limits import AMOUNT_DIGITS_MAX, HOLDS_MAX
from stateline.ports import (
    Balance,
    BudgetExceeded,
    Duplicate,
    Fenced,
    HeadMoved,
    Hold,
    Ownership,
    SessionExists,
    SessionMissing,
)
from stateline.testing.store_checks.log import NOBODY, key
from stateline.testing.store_rig import START_MS, Rig, durable, outcomes, raises, text, texts

B = "budget/team/2027-01"
OTHER = "budget/all/2027-01"


def take(amount: str, limit: str | None = "10", *, budget: str = B) -> Hold:
    """A reservation."""
    return Hold(budget=budget, held=Decimal(amount), limit=None if limit is None else Decimal(limit))


def settle(reserved: str, cost: str, *, budget: str = B) -> Hold:
    """What a call cost instead of what was set aside for it."""
    return Hold(budget=budget, held=Decimal(reserved).copy_negate(), spent=Decimal(cost))


async def add(rig: Rig, own: Ownership, seq: int, *holds: Hold) -> int:
    """Append one event with holds."""
    return await rig.store.append(own, seq - 1, texts(own.session, seq, 1), holds)


async def stands(rig: Rig, name: str = B) -> tuple[str, str]:
    """A balance's amounts held and spent, as they are written."""
    found = (await rig.store.balances([name])).get(name, Balance())
    return _plain(found.held), _plain(found.spent)


def _plain(amount: Decimal) -> str:
    said = f"{amount:f}"
    return said.rstrip("0").rstrip(".") if "." in said else said


async def spaced(rig: Rig, count: int) -> list[Ownership]:
    return [await rig.session(f"s{n}") for n in range(count)]


# -- one after the other -----------------------------------------------------------------------------


async def check_balances_of_names_that_nobody_moved_are_left_out(rig: Rig) -> None:
    own = await rig.session()
    assert await rig.store.balances([]) == {}
    assert await rig.store.balances([B, OTHER]) == {}
    await add(rig, own, 1, take("1"), Hold(budget="zero"))
    assert await rig.store.balances([OTHER, B, "zero", B]) == {B: Balance(Decimal(1)), "zero": Balance()}
    assert await rig.store.balances([OTHER]) == {}


async def check_a_limit_may_be_reached_and_not_be_passed_by_the_least_amount(rig: Rig) -> None:
    own = await rig.session()
    assert await add(rig, own, 1, take("9.99")) == 1
    refused = await raises(BudgetExceeded, add(rig, own, 2, take("0.0100000000000000000001")))
    assert (refused.budget, refused.left) == (B, Decimal("0.01"))
    assert await add(rig, own, 2, take("0.01")) == 2
    refused = await raises(BudgetExceeded, add(rig, own, 3, take("0.0000000000000000000001")))
    assert refused.left == 0
    assert await add(rig, own, 3, take("0")) == 3
    assert await stands(rig) == ("10", "0")


async def check_what_is_spent_counts_as_what_is_held_does(rig: Rig) -> None:
    own = await rig.session()
    await add(rig, own, 1, take("6"))
    await add(rig, own, 2, settle("6", "3.5"))
    assert await stands(rig) == ("0", "3.5")
    refused = await raises(BudgetExceeded, add(rig, own, 3, take("6.6")))
    assert refused.left == Decimal("6.5")
    await add(rig, own, 3, take("6.5"))
    assert await stands(rig) == ("6.5", "3.5")


async def check_what_has_no_limit_is_never_refused_and_counts(rig: Rig) -> None:
    own = await rig.session()
    await add(rig, own, 1, take("8"))
    await add(rig, own, 2, settle("8", "25"))
    assert await stands(rig) == ("0", "25")
    refused = await raises(BudgetExceeded, add(rig, own, 3, take("1")))
    assert refused.left == -15
    assert "has 0 left" in refused.message
    # A limit that has grown meanwhile is that of the append.
    await add(rig, own, 3, take("1", "26"))


async def check_holds_of_one_append_count_one_after_the_other(rig: Rig) -> None:
    own = await rig.session()
    await add(rig, own, 1, take("8"))
    refused = await raises(BudgetExceeded, add(rig, own, 2, take("3"), settle("8", "1")))
    assert refused.left == 2
    await add(rig, own, 2, settle("8", "1"), take("3"), take("6"))
    assert await stands(rig) == ("9", "1")
    # Not even together may they pass it.
    await raises(BudgetExceeded, add(rig, own, 3, settle("9", "0"), take("4.5"), take("4.51")))
    assert await stands(rig) == ("9", "1")


async def check_more_may_be_given_back_than_was_held(rig: Rig) -> None:
    own = await rig.session()
    await add(rig, own, 1, take("-2"))
    assert await stands(rig) == ("-2", "0")
    await add(rig, own, 2, take("12"))
    await raises(BudgetExceeded, add(rig, own, 3, take("0.01")))
    # A balance that is above its limit refuses whoever names the limit, until it is below again.
    await raises(BudgetExceeded, add(rig, own, 3, take("-1", "8")))
    await add(rig, own, 3, take("-2", "8"))
    assert await stands(rig) == ("8", "0")


async def check_all_budgets_of_an_append_are_moved_or_none(rig: Rig) -> None:
    own = await rig.session()
    await add(rig, own, 1, take("1"), take("1", "5", budget=OTHER))
    refused = await raises(BudgetExceeded, add(rig, own, 2, take("2"), take("5", "5", budget=OTHER)))
    assert (refused.budget, refused.left) == (OTHER, 4)
    refused = await raises(BudgetExceeded, add(rig, own, 2, take("2", "5", budget=OTHER), take("20")))
    assert refused.budget == B
    assert (await stands(rig), await stands(rig, OTHER)) == (("1", "0"), ("1", "0"))


async def check_amounts_add_up_without_rounding(rig: Rig) -> None:
    own = await rig.session()
    large, small = "9" * AMOUNT_DIGITS_MAX, "0." + "0" * (AMOUNT_DIGITS_MAX - 1) + "1"
    await add(rig, own, 1, take(large, None))
    await add(rig, own, 2, take(small, None))
    await add(rig, own, 3, settle(large, small))
    assert await stands(rig) == (small, small)
    await add(rig, own, 4, take("-" + small, None), Hold(budget=B, spent=Decimal(small).copy_negate()))
    assert await stands(rig) == ("0", "0")


async def check_what_is_no_amount_is_refused(rig: Rig) -> None:
    own = await rig.session()
    for wrong in ("NaN", "Infinity", "1E+40", "1E-41"):
        for hold in (take(wrong), take("1", wrong), Hold(budget=B, spent=Decimal(wrong))):
            error = await raises(BadRequest, add(rig, own, 1, hold))
            assert error.code == "hold_invalid"
    await raises(BadRequest, add(rig, own, 1, *[take("0")] * (HOLDS_MAX + 1)))
    assert await rig.store.balances([B]) == {}
    await add(rig, own, 1, *[take("0.0001")] * HOLDS_MAX)
    assert await stands(rig) == (_plain(HOLDS_MAX * Decimal("0.0001")), "0")


# -- what is refused ---------------------------------------------------------------------------------


async def check_a_refused_append_leaves_nothing(rig: Rig) -> None:
    own = await rig.session(events=1)
    await rig.store.post(own.session, text(own.session, 0))
    holds = [take("3", budget=OTHER), take("11")]
    events = [text(own.session, 2, post=1, dedup=[key("k", "resp_1")])]
    await raises(BudgetExceeded, rig.store.append(own, 1, events, holds, release=True))
    assert await rig.store.balances([B, OTHER]) == {}
    assert await rig.seqs(own.session) == [1]
    assert await rig.store.find_duplicate("t", "k") is None
    # It is owned still, and its input waits still.
    [posted] = await rig.tail(own.session, 1, 0)
    assert posted.event.seq == 0  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    await rig.alive("a", "b")
    assert await rig.claim("b") == {}
    assert await rig.store.append(own, 1, events, [take("10")], release=True) == 2
    assert await rig.tail(own.session, 2, 0) == []


async def check_a_refused_append_makes_no_session(rig: Rig) -> None:
    own = Ownership(session=SessionRef("t", "new"), owner="a", epoch=1, head=0)
    events = [text(own.session, 1, dedup=[key("k", "resp_1")])]
    await raises(BudgetExceeded, rig.store.append(own, 0, events, [take("11")], create=True))
    await raises(SessionMissing, rig.read(own.session))
    assert await rig.store.sessions("t", None, 10) == []
    assert await rig.store.find_duplicate("t", "k") is None
    assert await rig.store.append(own, 0, events, [take("10")], create=True) == 1
    assert await rig.seqs(own.session) == [1]


async def check_a_refused_append_adopts_no_session(rig: Rig) -> None:
    ref = await rig.released()
    own = Ownership(session=ref, owner="b", epoch=2, head=1)
    await raises(BudgetExceeded, add(rig, own, 2, take("11")))
    own = Ownership(session=ref, owner="c", epoch=2, head=1)
    assert await add(rig, own, 2, take("10")) == 2


async def check_whatever_else_is_wrong_is_said_before_the_budget(rig: Rig) -> None:
    own = await rig.session(events=1)
    await rig.store.append(own, 1, [text(own.session, 2, dedup=[key("k", "resp_1")])])
    ref, much = own.session, [take("11")]
    stranger = Ownership(session=ref, owner="b", epoch=1, head=2)
    nobody = Ownership(session=NOBODY, owner="a", epoch=1, head=0)
    await rig.store.post(ref, text(ref, 0))
    append = rig.store.append
    calls: Sequence[tuple[type[StatelineError], object]] = (
        (Fenced, append(stranger, 2, texts(ref, 3, 1), much)),
        (HeadMoved, append(own, 1, texts(ref, 2, 1), much)),
        (HeadMoved, append(own, 2, [text(ref, 3, post=7)], much)),
        (HeadMoved, append(own, 2, texts(ref, 3, 1), much, release=True)),
        (Duplicate, append(own, 2, [text(ref, 3, dedup=[key("k", "resp_2")])], much)),
        (SessionMissing, append(nobody, 0, texts(NOBODY, 1, 1), much)),
        (SessionExists, append(own, 0, texts(ref, 1, 1), much, create=True)),
    )
    for kind, call in calls:
        await raises(kind, call)  # pyright: ignore[reportArgumentType]
    assert await rig.store.balances([B]) == {}


async def check_an_append_that_fails_otherwise_moves_no_balance(rig: Rig) -> None:
    owns = await spaced(rig, 2)
    stranger = Ownership(session=owns[0].session, owner="b", epoch=1, head=0)
    there = Ownership(session=owns[0].session, owner="a", epoch=1, head=0)
    results = await outcomes(
        add(rig, stranger, 1, take("4")),
        add(rig, owns[1], 1, take("3")),
        add(rig, owns[0], 4, take("-5")),
        rig.store.append(there, 0, texts(there.session, 1, 1), [take("2")], create=True),
        add(rig, owns[1], 2, take("7")),
    )
    assert [type(result) for result in results] == [Fenced, int, HeadMoved, SessionExists, int]
    assert await stands(rig) == ("10", "0")


# -- several of one commit ---------------------------------------------------------------------------


async def check_appends_of_one_commit_never_pass_a_limit_together(rig: Rig) -> None:
    owns = await spaced(rig, 8)
    results = await outcomes(*(add(rig, own, 1, take("3")) for own in owns))
    assert [type(result) for result in results] == [int] * 3 + [BudgetExceeded] * 5
    assert {error.left for error in results if isinstance(error, BudgetExceeded)} == {1}
    assert await stands(rig) == ("9", "0")
    for own, result in zip(owns, results, strict=True):
        assert await rig.seqs(own.session) == ([1] if result == 1 else [])


async def check_each_append_of_one_commit_has_its_own_outcome_in_order(rig: Rig) -> None:
    owns = await spaced(rig, 6)
    amounts = ("6", "5", "4", "-3", "2", "2")
    results = await outcomes(*(add(rig, own, 1, take(a)) for own, a in zip(owns, amounts, strict=True)))
    kinds = [type(result) for result in results]
    # 6, then 11 is too much, 10, 7, 9, then 11 is too much.
    assert kinds == [int, BudgetExceeded, int, int, int, BudgetExceeded]
    assert await stands(rig) == ("9", "0")


async def check_appends_of_one_session_in_one_commit_count_in_their_order(rig: Rig) -> None:
    one, other = await spaced(rig, 2)
    results = await outcomes(
        add(rig, one, 1, take("8")), add(rig, other, 1, take("8")), add(rig, one, 2, settle("8", "1"), take("7"))
    )
    assert [type(result) for result in results] == [int, BudgetExceeded, int]
    assert await stands(rig) == ("7", "1")
    # What follows a refused one finds the head where that left it.
    results = await outcomes(add(rig, one, 3, take("3")), add(rig, one, 4, take("1")), add(rig, one, 3, take("2")))
    assert [type(result) for result in results] == [BudgetExceeded, HeadMoved, int]
    assert await stands(rig) == ("9", "1")


async def check_appends_with_and_without_holds_share_a_commit(rig: Rig) -> None:
    owns = await spaced(rig, 5)
    results = await outcomes(
        rig.store.append(owns[0], 0, texts(owns[0].session, 1, 2)),
        add(rig, owns[1], 1, take("11")),
        add(rig, owns[2], 1, take("10")),
        rig.store.post(owns[4].session, text(owns[4].session, 0)),
        rig.store.append(owns[3], 0, texts(owns[3].session, 1, 3), release=True),
    )
    assert [type(result) for result in results] == [int, BudgetExceeded, int, type(None), int]
    assert await stands(rig) == ("10", "0")


async def check_an_append_keeps_its_place_however_its_session_came(rig: Rig) -> None:
    """Just claimed, known, or new: what a store remembers of them differs."""
    await rig.alive("a")
    for name in ("claimed", "known"):
        await rig.released(name)
    await rig.store.post(SessionRef("t", "claimed"), text(SessionRef("t", "claimed"), 0))
    claimed = (await rig.claim("a"))["claimed"]
    known = Ownership(session=SessionRef("t", "known"), owner="a", epoch=2, head=1)
    new = Ownership(session=SessionRef("t", "new"), owner="a", epoch=1, head=0)
    results = await outcomes(
        add(rig, claimed, 2, take("6")),
        add(rig, known, 2, take("6")),
        rig.store.append(new, 0, texts(new.session, 1, 1), [take("3")], create=True),
        add(rig, claimed, 3, take("1")),
    )
    assert [type(result) for result in results] == [int, BudgetExceeded, int, int]
    assert await stands(rig) == ("10", "0")


async def check_new_sessions_of_one_commit_share_a_balance(rig: Rig) -> None:
    owns = [Ownership(session=SessionRef("t", f"n{n}"), owner="a", epoch=1, head=0) for n in range(4)]
    results = await outcomes(
        *(rig.store.append(own, 0, texts(own.session, 1, 1), [take("4")], create=True, release=True) for own in owns)
    )
    assert [type(result) for result in results] == [int, int, BudgetExceeded, BudgetExceeded]
    assert await rig.store.sessions("t", None, 10) == ["n1", "n0"]
    assert await stands(rig) == ("8", "0")


# -- what outlives -----------------------------------------------------------------------------------


@durable
async def check_balances_survive_the_process(rig: Rig) -> None:
    own = await rig.session()
    await add(rig, own, 1, take("1.50"), take("0.000001", None, budget=OTHER))
    await add(rig, own, 2, settle("1.50", "0.25"), take("7"))
    await rig.reopen()
    assert (await stands(rig), await stands(rig, OTHER)) == (("7", "0.25"), ("0.000001", "0"))
    other = await rig.session("other")
    await raises(BudgetExceeded, add(rig, other, 1, take("2.76")))
    await add(rig, other, 1, take("2.75"))
    assert await stands(rig) == ("9.75", "0.25")


async def check_a_takeover_leaves_balances_to_the_next_owner(rig: Rig) -> None:
    await rig.alive("a", ttl_s=5)
    own = await rig.session()
    await add(rig, own, 1, take("9"))
    rig.clock.advance(6)
    await rig.alive("b")
    taken = (await rig.claim("b"))["s"]
    await raises(Fenced, add(rig, own, 2, settle("9", "9")))
    assert await stands(rig) == ("9", "0")
    await add(rig, taken, 2, settle("9", "4"))
    assert await stands(rig) == ("0", "4")


async def check_an_erased_session_gives_nothing_back(rig: Rig) -> None:
    own = await rig.session()
    await add(rig, own, 1, take("4"), Hold(budget=B, spent=Decimal(2)))
    await rig.store.erase(own.session)
    assert await stands(rig) == ("4", "2")


async def check_a_balance_is_kept_until_the_latest_time_that_was_named(rig: Rig) -> None:
    """From then on it may be forgotten, and what is forgotten stands at zero."""
    own = await rig.session()
    soon, later = START_MS + 60_000, START_MS + 600_000
    held = Decimal(4)
    await add(rig, own, 1, Hold(budget="soon", held=held, expires_ms=soon))
    await add(rig, own, 2, Hold(budget="later", held=held, expires_ms=later))
    await add(rig, own, 3, Hold(budget="later", held=held, expires_ms=soon))
    await add(rig, own, 4, Hold(budget="never", held=held, expires_ms=soon), Hold(budget="never", held=held))
    names = ["soon", "later", "never"]
    rig.clock.advance(59.9)
    await add(rig, own, 5, Hold(budget="never", expires_ms=soon))
    assert [b.held for b in (await rig.store.balances(names)).values()] == [4, 8, 8]
    rig.clock.advance(500)
    for seq in range(6, 10):
        await add(rig, own, seq, Hold(budget="never"))
    left = await rig.store.balances(names)
    assert (left["later"].held, left["never"].held) == (8, 8)
    assert left.get("soon", Balance()) in (Balance(), Balance(held))
    rig.clock.advance(3_600_000)
    assert (await rig.store.balances(names))["never"].held == 8
