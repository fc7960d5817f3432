"""Answers of persons: once each, in time, to what was asked, in whatever session they come."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.engine.conftest import Lab, asking, logged, texts
from tests.engine.tool_lab import CAREFUL, FREE, Ruled, box, call_of, calling, done, request_of, saying, tools

from stateline.core.errors import StatelineError
from stateline.core.items import Item
from stateline.core.limits import ANSWERED_SESSIONS_MAX, APPROVAL_TTL_MS
from stateline.core.tools import PolicyRequest, PolicyRuling, Tool
from stateline.engine import Engine
from stateline.stores.clock import SystemClock


async def refused(engine: Engine, items: tuple[Item, ...], **fields: object) -> str:
    with pytest.raises(StatelineError) as caught:
        await done(engine, items, servers=(CAREFUL,), **fields)
    return caught.value.code


async def test_a_client_that_keeps_its_context_brings_the_request_and_its_answer(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        asked = request_of(first)
        assert await refused(engine, (saying(asked),)) == "approval_not_found"
        changed = msgspec.structs.replace(asked, arguments='{"n":1000}')
        assert await refused(engine, (changed, saying(asked))) == "approval_changed"
        assert await refused(engine, (asked, saying(asked), saying(asked))) == "duplicate_answer"
        context: tuple[Item, ...] = (asked, saying(asked))
        second = await done(engine, context, servers=(CAREFUL,))
        assert call_of(second).status == "completed"
        assert len(host.calls) == 1
        assert await refused(engine, context) == "approval_answered"
        # What is history in a context is sent again with all that followed it, and asks for nothing.
        third = await done(engine, (*context, *second.output), servers=(CAREFUL,))
        assert third.status == "completed"
        assert texts(third.output) == ['all done: refund of {"n":1}']
        assert len(host.calls) == 1


async def test_a_request_answers_so_many_sessions(lab: Lab) -> None:
    lab.script(calling("refund"))
    async with lab.engine(toolbox=box(tools())) as engine:
        asked = request_of(await done(engine, "go", servers=(CAREFUL,)))
        others = [
            msgspec.structs.replace(saying(asked), approval_request_id=f"mcpr_{at:024}t1s1i0")
            for at in range(ANSWERED_SESSIONS_MAX + 1)
        ]
        assert await refused(engine, tuple(others)) == "too_many_answers"
        assert await refused(engine, tuple(others[1:])) == "approval_not_found"


class Later(SystemClock):
    """A clock that can be set forward."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


async def test_an_approval_that_has_expired_lets_nothing_go(lab: Lab) -> None:
    lab.script(calling("refund"))
    host, clock = tools(), Later()
    async with lab.engine(toolbox=box(host), clock=clock) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        clock.ahead_ms = APPROVAL_TTL_MS + 1_000
        answer = (saying(request_of(first)),)
        assert await refused(engine, answer, after=first.id) == "approval_expired"
        second = await done(engine, "and now?", after=first.id, servers=(CAREFUL,))
        # It is forgotten by now, and said to be expired all the same.
        assert await refused(engine, answer, after=second.id) == "approval_expired"
        assert not host.calls


async def test_of_two_answers_at_once_one_counts(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        asked = request_of(first)
        both = [
            done(engine, (saying(asked, approve=approve, reason=str(approve)),), after=first.id, servers=(CAREFUL,))
            for approve in (True, True, False)
        ]
        results = await asyncio.gather(*both, return_exceptions=True)
        errors = [each for each in results if isinstance(each, StatelineError)]
        assert len(errors) == 2
        assert {error.code for error in errors} <= {"approval_answered"}
        assert len(host.calls) <= 1


async def test_what_is_not_stored_calls_tools_and_cannot_wait_for_a_person(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        response = await done(engine, "go", servers=(FREE,), store=False)
        assert call_of(response).status == "completed"
        asked = request_of(await done(engine, "go", servers=(CAREFUL,), store=False))
        with pytest.raises(StatelineError) as caught:
            await done(engine, (asked, saying(asked)), servers=(CAREFUL,), store=False)
        assert caught.value.code == "approval_needs_store"
        assert len(host.calls) == 1


async def test_a_crash_between_a_recorded_yes_and_the_call_makes_the_call_once(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
    begun = asyncio.Event()

    async def hang() -> list[Tool]:
        begun.set()
        await asyncio.sleep(3600)
        return []

    stuck = tools()
    stuck.tools = hang
    async with lab.engine(toolbox=box(stuck), kill=True) as engine:
        answer = (saying(request_of(first)),)
        accepted = await engine.submit(asking(answer, after=first.id, servers=(CAREFUL,), background=True))
        await begun.wait()
    after = tools()
    async with lab.engine(toolbox=box(after)) as engine:
        await logged(engine, accepted.session, "TurnCompleted", 2)
        response = await engine.wait(accepted, "open-responses")
        assert call_of(response).status == "completed"
        assert (len(host.calls), len(stuck.calls), len(after.calls)) == (0, 0, 1)


async def test_a_yes_lets_go_only_what_this_turns_servers_offer(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        second = await done(engine, (saying(request_of(first)),), after=first.id)
        assert call_of(second).status == "failed"
        assert not host.calls


async def test_a_policy_that_changed_its_mind_has_the_call_made_anew(lab: Lab) -> None:
    class Changing(Ruled):
        def rule(self, request: PolicyRequest) -> PolicyRuling:
            outcome = "allow" if not self.asked else "approve"
            self.asked.append(request)
            return PolicyRuling(outcome=outcome, version="1")

    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host, Changing())) as engine:
        first = await done(engine, "go", servers=(CAREFUL,), principal="key_1")
        second = await done(engine, (saying(request_of(first)),), after=first.id, servers=(CAREFUL,), principal="key_1")
        assert call_of(second).status == "failed"
        assert "make it anew" in texts(second.output)[-1]
        assert not host.calls


class Gone:
    """An authority by which some principals may ask for nothing any more."""

    def __init__(self) -> None:
        self.gone: set[str] = set()

    def holds(self, tenant: str, principal: str) -> bool:
        return tenant != "default" or principal not in self.gone


async def test_what_was_asked_for_by_who_is_revoked_meanwhile_is_not_made(lab: Lab) -> None:
    lab.script(calling("refund"))
    host = tools()
    async with lab.engine(toolbox=box(host, Ruled(refund="approve"))) as engine:
        authority = engine.trusting(Gone())
        first = await done(engine, "go", servers=(FREE,), principal="key_1")
        asked = request_of(first)
        authority.gone.add("key_1")
        second = await done(engine, (saying(asked),), after=first.id, servers=(FREE,), principal="key_2")
        refusal = call_of(second).error
        assert refusal is not None
        assert "may not ask" in refusal.content
        assert not host.calls
