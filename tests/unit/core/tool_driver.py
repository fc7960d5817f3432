"""Plays histories whose models call hosted tools, as the engine does, and keeps count of what the tools were sent."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from hypothesis import strategies as st
from tests.unit.core.answers import saids
from tests.unit.core.driver import LIMITS, REF, Attempt, Driver, TurnPlan, Waiting

from stateline.core import acting
from stateline.core import events as e
from stateline.core.acting import Act
from stateline.core.calls import CallStart, Finish, FunctionTool, ModelDelta
from stateline.core.hosted import approval_item_id
from stateline.core.session import fold_all, new_session
from stateline.core.tools import Answer, Asked, EffectClass, McpTool, ServerTools, Tool
from stateline.core.turn import Act as ActEffect
from stateline.core.turn import CallModel, Effect, ListTools, TakeUp

End = Literal["committed", "failed"]
Ruled = Literal["dispatch", "refuse", "ask"]

LOOK = Tool(name="look", effect="read")
PUT = Tool(name="put", effect="idempotent")
REFUND = Tool(name="refund", effect="unsafe")
SERVERS = (McpTool(server_label="a", server_url="https://a.example/mcp"), McpTool(server_label="b"))
OFFERED = {"a": (LOOK, REFUND), "b": (PUT,)}
EFFECTS: dict[str, EffectClass] = {"look": "read", "put": "idempotent", "refund": "unsafe", "nothing": "unsafe"}
NAMES = ("f", "a-look", "a-refund", "b-put", "nothing")
"""What models call: a function of the client's, three tools, and one that does not exist."""

ASKED = Asked(demanded_by="client", principal="p", expires_ms=1 << 60)


class ToolDriver(Driver):
    """Plays turns with tools.

    Attributes:
        sent: how often each call reached its tool, by the call's id; whatever crashes, it counts on.
        answers_next: what the next turn brings as answers; None: yes to all that waits.
        edges: where appends end in the log: what is not appended whole is not there.
    """

    def __init__(self, ends: Sequence[End] = (), rulings: Sequence[Ruled] = ()) -> None:
        self.sent: Counter[str] = Counter()
        self.edges: list[int] = []
        self.ends_next, self.rulings = deque(ends), deque(rulings)
        self.answers_next: tuple[Answer, ...] | None = None
        self._take_up = False
        super().__init__()

    @classmethod
    def cut(cls, other: ToolDriver, edge: int) -> ToolDriver:
        """What is left where the process dies right after an append."""
        made = cls()
        made.log = other.log[:edge]
        made.now_ms = other.now_ms
        made.session = fold_all(new_session(made.ref), made.log)
        made.edges = [each for each in other.edges if each <= edge]
        # At the worst, all that was dispatched had been sent.
        made.sent = Counter(ev.body.call.id for ev in made.log if isinstance(ev.body, e.EffectDispatched))
        return made

    # -- as the engine does it -----------------------------------------------------------------------------

    def record(self, *bodies: e.Body) -> None:
        before = len(self.log)
        self._take_up = False
        super().record(*bodies)
        self.edges.append(len(self.log))
        self.sent.update(ev.body.call.id for ev in self.log[before:] if isinstance(ev.body, e.EffectDispatched))
        if self._take_up:
            self.sent.update(act.call.id for act in self._under_way() if act.effect != "unsafe")

    def _follow(self, effect: Effect) -> Iterable[e.Body]:
        turn = self.session.turn
        assert turn is not None
        if isinstance(effect, CallModel):
            return (self._place(effect),)
        if isinstance(effect, ActEffect):
            return list(self._decided(effect.step))
        assert isinstance(effect, ListTools | TakeUp)
        self._take_up = isinstance(effect, TakeUp)
        return ()

    def _decided(self, step: int) -> Iterable[e.Body]:
        turn = self.session.turn
        assert turn is not None
        number, index = turn.number, turn.output_index
        for act in turn.acts:
            assert act.status == "planned"
            call = act.call
            common: dict[str, Any] = {"turn": turn.number_in_session, "step": step, "number": number}
            ruled = self.rulings.popleft() if self.rulings else "dispatch"
            if act.approval is not None and ruled == "ask":
                ruled = "refuse"
            if not call.server or step > turn.limits.steps_max or ruled == "refuse":
                yield e.EffectRefused(call=call, code="no", message="no", output_index=index, **common)
                number += acting.REFUSE_EVENTS
            elif ruled == "ask":
                id_ = approval_item_id(call.id)
                yield e.ApprovalRequested(id=id_, call=call, asked=ASKED, output_index=index, **common)
                number += acting.ASK_EVENTS
            else:
                yield e.EffectDispatched(
                    call=call,
                    effect=EFFECTS[call.tool],
                    output_index=index,
                    approval=act.approval,
                    again=act.again,
                    **common,
                )
                number += acting.DISPATCH_EVENTS
                step += 1
            index += 1

    def _under_way(self) -> list[Act]:
        turn = self.session.turn
        return [] if turn is None else [act for act in turn.acts if act.status == "dispatched"]

    def _check(self) -> None:
        turn = self.session.turn
        if turn is None or turn.state in ("calling", "waiting"):
            super()._check()
            return
        listing = turn.hosting is None and turn.servers
        assert listing or self._under_way(), "nothing would ever happen to it"
        assert turn.steps <= turn.limits.steps_max

    def _wait(self, what: Waiting) -> None:
        turn = self.session.turn
        assert turn is not None
        if turn.state == "waiting":
            super()._wait(what)
        elif what in ("lost", "handed_back"):
            self.resume(clean=what == "handed_back")
        elif what != "fire":
            self._stop = None
            self._from_outside(what)
            if self._stop is not None:
                self.record(*self._ends("failed", stopped=True))
        elif turn.hosting is None and turn.servers:
            self.record(self._listed())
        else:
            self.record(*self._ends(self.ends_next.popleft() if self.ends_next else "committed"))

    def _listed(self) -> e.ToolsListed:
        turn = self.session.turn
        assert turn is not None
        servers = tuple(
            [ServerTools(label=each.server_label, digest="d", tools=OFFERED[each.server_label]) for each in SERVERS]
        )
        return e.ToolsListed(
            turn=turn.number_in_session, servers=servers, number=turn.number, output_index=turn.output_index
        )

    def _ends(self, end: End, *, stopped: bool = False) -> list[e.Body]:
        """The ends of all that is under way; one of an unsafe call that gives no answer is not known."""
        turn = self.session.turn
        assert turn is not None
        number, out = turn.number, list[e.Body]()
        for act in self._under_way():
            common: dict[str, Any] = {
                "turn": turn.number_in_session,
                "step": act.step,
                "id": act.call.id,
                "number": number,
            }
            if end == "committed":
                out.append(e.EffectCommitted(output="done", **common))
            elif act.effect == "unsafe":
                out.append(e.EffectUnknown(code="c", message="m", **common))
            else:
                out.append(e.EffectFailed(code="c", message="cancelled" if stopped else "m", **common))
            number += acting.END_EVENTS
        return out

    def finish(self) -> None:
        """Let the turn that runs go on until it has ended."""
        for _ in range(1000):
            turn = self.session.turn
            if turn is None:
                return
            if turn.state == "calling":
                self._call(Attempt())
            else:
                self._wait("fire")
        raise AssertionError("a turn that does not end")

    def _answers(self) -> tuple[Answer, ...]:
        if self.answers_next is not None:
            answers, self.answers_next = self.answers_next, None
            return answers
        return self._yes_to_all()

    def _yes_to_all(self) -> tuple[Answer, ...]:
        """Yes to all that waits for approval, and "made anew" to what is not known."""
        return tuple(
            [
                Answer(id=id_, decision="retry" if waits.unknown else "approve", by="q", tries=waits.tries)
                for id_, waits in self.session.pending.items()
            ]
        )


def _called(said: list[ModelDelta], names: list[str]) -> list[ModelDelta]:
    """The same answer, with calls of other names."""
    left = iter(names * (len(said) + 1))
    return [msgspec.structs.replace(each, name=next(left)) if isinstance(each, CallStart) else each for each in said]


TOOL_REQUEST = e.TurnRequest(model="m", servers=SERVERS, tools=(FunctionTool(name="f"),))
TOOL_SAIDS = st.builds(_called, saids(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))
TOOL_ATTEMPTS = st.builds(
    Attempt,
    said=TOOL_SAIDS,
    cuts=st.lists(st.booleans(), min_size=1, max_size=4),
    outside=st.lists(st.sampled_from(["cancel", "deadline"]), max_size=1) | st.just([]) | st.just([]),
    ending=st.sampled_from(["finish", "finish", "finish", "finish", "fail", "fatal", "lost", "handed_back"]),
    finish=st.sampled_from([Finish(reason="stop"), Finish(reason="tool_calls"), Finish(reason="length")]),
)
TOOL_PLANS = st.builds(
    TurnPlan,
    attempts=st.lists(TOOL_ATTEMPTS, min_size=1, max_size=4),
    waits=st.lists(
        st.sampled_from(["fire", "fire", "fire", "fire", "cancel", "deadline", "lost", "handed_back"]), max_size=8
    ),
    limits=LIMITS,
    background=st.booleans(),
    request=st.sampled_from([TOOL_REQUEST, msgspec.structs.replace(TOOL_REQUEST, max_tool_calls=2)]),
)
TOOL_DRIVERS = st.builds(
    ToolDriver,
    st.lists(st.sampled_from(["committed", "committed", "failed"]), max_size=6),
    st.lists(st.sampled_from(["dispatch", "dispatch", "refuse", "ask"]), max_size=8),
)
__all__ = ["OFFERED", "REF", "TOOL_DRIVERS", "TOOL_PLANS", "ToolDriver"]
