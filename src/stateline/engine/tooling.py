"""Tool calls of one session: what may be made is decided with what asked for it, and made once that is durable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from stateline.core import acting
from stateline.core import events as e
from stateline.core.acting import Act
from stateline.core.errors import StatelineError
from stateline.core.hosted import OWN_SERVER, approval_item_id, decoded
from stateline.core.ids import digest, effect_key, item_id, item_session
from stateline.core.items import PREFIXES, ListedTool, McpListTools
from stateline.core.limits import (
    APPROVAL_TTL_MS,
    PENDING_MAX,
    TOOL_CALL_TIMEOUT_S,
    TOOL_CALLS_PARALLEL_MAX,
    TOOL_LIST_BYTES_MAX,
    TOOL_OUTPUT_SHOWN_BYTES,
    TOOL_STOP_S,
)
from stateline.core.reading import answer
from stateline.core.session import Session, Turn
from stateline.core.tools import (
    Asked,
    Demand,
    EffectClass,
    McpTool,
    PlannedCall,
    PolicyRequest,
    PolicyRuling,
    ServerTools,
    Terms,
    Tool,
    ToolCall,
    ToolError,
    ToolResult,
)
from stateline.core.turn import Act as ActEffect
from stateline.engine.outputs import as_text, kept, kept_so_far
from stateline.ports import Clock, Hosts, Policy, ToolHost

log = logging.getLogger("stateline.engine")


class Signer(Protocol):
    """Signs what a person is asked, and knows its own signature again."""

    def sign(self, terms: Terms) -> Asked:
        """What is asked, with key and signature."""
        ...

    def refusal(self, terms: Terms, asked: Asked, now_ms: int) -> str | None:
        """The code of why an answer to ``asked`` does not let go a call of these terms; None: it does."""
        ...


class Authority(Protocol):
    """Who may still ask for something."""

    def holds(self, tenant: str, principal: str) -> bool:
        """Whether a principal that was let in once would be let in now, as far as is known here."""
        ...


class Toolbox(NamedTuple):
    """What a node has for tool calls.

    Attributes:
        policy: None: there is none, and every tool that a turn has may be called.
        shown_bytes: what models are shown of one tool's output of text; recorded with each turn.
    """

    hosts: Hosts
    signer: Signer
    policy: Policy | None = None
    shown_bytes: int = TOOL_OUTPUT_SHOWN_BYTES


class Tooled(Protocol):
    """What tool calls need of the node that makes them."""

    clock: Clock
    toolbox: Toolbox | None
    authority: Authority | None

    @property
    def may_send(self) -> bool:
        """Whether this node still has what it owns, as far as it can know."""
        ...


def decided(home: Tooled, session: Session, effect: ActEffect) -> Iterator[e.Body]:
    """What becomes of each planned call of the turn, in their order."""
    turn = session.turn
    assert turn is not None
    number, index, step, history = turn.number, turn.output_index, effect.step, session.history
    room = PENDING_MAX - len(session.pending)
    for act in turn.acts:
        if act.status != "planned":
            continue
        body = _one(home, msgspec.structs.replace(session, history=history), act, (step, number, index), room)
        yield body
        index += 1
        room -= type(body) is e.ApprovalRequested
        if type(body) is e.EffectDispatched:
            history = acting.after(history, body)
            step += 1
            number += acting.DISPATCH_EVENTS
        else:
            number += acting.REFUSE_EVENTS if type(body) is e.EffectRefused else acting.ASK_EVENTS


def _one(
    home: Tooled, session: Session, act: Act, at: tuple[int, int, int], room: int
) -> e.EffectDispatched | e.EffectRefused | e.ApprovalRequested:
    turn, call, (step, number, index) = session.turn, act.call, at
    assert turn is not None
    box, now_ms, ruling = home.toolbox, home.clock.now_ms(), None

    def refused(code: str, message: str) -> e.EffectRefused:
        return e.EffectRefused(
            turn=turn.number_in_session,
            step=step,
            number=number,
            output_index=index,
            call=call,
            code=code,
            message=message,
            policy=ruling,
        )

    tool = _tool(turn, call)
    arguments = decoded(call.arguments)
    if tool is None or box is None:
        return refused("unknown_tool", f"There is no tool {call.tool!r}.")
    if arguments is None:
        return refused("invalid_arguments", "The arguments are not a JSON object.")
    if not session.history.fits(call.name, arguments):
        return refused("invalid_arguments", "The arguments have too many names of numbers, or too large a number.")
    if step > turn.limits.steps_max:
        return refused("max_steps", "The limit of steps in one turn is reached.")
    terms = _terms(session, turn, act, now_ms)
    if box.policy is not None and call.server != OWN_SERVER:
        # Our own tool gives nothing but what the model's own context holds already.
        ruling = _ruled(box.policy, _asked_about(session, act, tool, terms, arguments))
        if ruling.enforced and ruling.outcome == "deny":
            why = ", ".join(ruling.policies) or ("an error" if ruling.errors else "no policy permits it")
            return refused("policy_denied", f"The policy does not allow this call ({why}).")
    version = "" if ruling is None else ruling.version
    code = _lapsed(home, box.signer, act, terms._replace(policy_version=version), now_ms)
    if code is not None:
        return refused(code, _LAPSED.get(code, _NOT_APPROVED))
    demand = _demand(turn, act, tool, ruling)
    if demand is not None and act.approval is not None:
        # Its request is answered, and cannot be answered again; another call of the model's gets a new one.
        return refused("approval_superseded", "The policy wants another person to approve this call; make it anew.")
    if demand is not None and room <= 0:
        return refused("too_many_waiting", "Too many calls wait for a person already; it was not made.")
    if demand is not None:
        expires_ms = now_ms + APPROVAL_TTL_MS
        signed = box.signer.sign(terms._replace(demanded_by=demand, policy_version=version, expires_ms=expires_ms))
        return _asked_for(turn, call, signed, at, ruling)
    return e.EffectDispatched(
        turn=turn.number_in_session,
        step=step,
        number=number,
        output_index=index,
        call=call,
        effect=tool.effect,
        policy=ruling,
        approval=act.approval,
        again=act.again,
    )


def _asked_for(
    turn: Turn, call: PlannedCall, signed: Asked, at: tuple[int, int, int], ruling: PolicyRuling | None
) -> e.ApprovalRequested:
    return e.ApprovalRequested(
        turn=turn.number_in_session,
        step=at[0],
        number=at[1],
        output_index=at[2],
        id=approval_item_id(call.id),
        call=call,
        asked=signed,
        policy=ruling,
    )


_NOT_APPROVED = "What was approved is not this call, or can no longer be; it was not made."
_LAPSED = {"principal_revoked": "Whoever this call is for may not ask for anything any more; it was not made."}


def _lapsed(home: Tooled, signer: Signer, act: Act, terms: Terms, now_ms: int) -> str | None:
    """Why a call can no longer be made, though it was wanted or approved; its terms are of now."""
    if home.authority is not None and not home.authority.holds(terms.tenant, terms.principal):
        return "principal_revoked"
    if act.asked is None or act.approval is None:
        return None
    # Whoever said yes did so under the policy of then.
    return signer.refusal(terms, act.asked, now_ms)


def _ruled(policy: Policy, request: PolicyRequest) -> PolicyRuling:
    """What the policy says; one that fails allows nothing."""
    try:
        return policy.rule(request)
    except Exception as error:
        log.exception("the policy failed on a call of %s/%s; it is denied", request.server, request.tool)
        return PolicyRuling(outcome="deny", errors=(type(error).__name__,))


def _demand(turn: Turn, act: Act, tool: Tool, ruling: PolicyRuling | None) -> Demand | None:
    """Who wants a person to be asked before this call is made, if anybody does."""
    if ruling is not None and ruling.enforced and ruling.outcome == "approve":
        return "policy"
    if act.approval is not None or act.again:
        return None
    server = next((each for each in turn.servers if each.server_label == act.call.server), None)
    return "client" if server is not None and server.asks(tool.name) else None


def _terms(session: Session, turn: Turn, act: Act, now_ms: int) -> Terms:
    asked = act.asked
    agent = turn.agent_name
    return Terms(
        tenant=session.ref.tenant,
        session=item_session(act.call.id) or session.ref.id,
        call=act.call.id,
        server=act.call.server,
        server_url=_url(turn, act.call.server),
        tool=act.call.tool,
        arguments=act.call.arguments,
        principal=turn.principal if asked is None else asked.principal,
        user=turn.user if asked is None else asked.user,
        agent=agent if asked is None else asked.agent,
        demanded_by="client" if asked is None else asked.demanded_by,
        policy_version="" if asked is None else asked.policy_version,
        expires_ms=now_ms if asked is None else asked.expires_ms,
    )


def _url(turn: Turn, label: str) -> str:
    """Where a server of the request's own is: another request's may have the same label. The operator's have none."""
    return next((each.server_url or "" for each in turn.servers if each.server_label == label), "")


def _asked_about(session: Session, act: Act, tool: Tool, terms: Terms, arguments: dict[str, Any]) -> PolicyRequest:
    return PolicyRequest(
        tenant=terms.tenant,
        principal=terms.principal,
        agent=terms.agent,
        server=terms.server,
        tool=tool.name,
        effect=tool.effect,
        arguments=arguments,
        data_zone=session.servers[terms.server].data_zone,
        history=session.history,
        approved=act.approval is not None and act.by_another,
    )


def _tool(turn: Turn, call: PlannedCall) -> Tool | None:
    """The tool as the turn's own list has it: an earlier turn may have meant another server by the same label."""
    listed = () if turn.hosting is None else turn.hosting.tools.values()
    wanted = (call.server, call.tool)
    return next((each.tool for each in listed if (each.server, each.tool.name) == wanted), None)


# -- performing ---------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """A dispatched call; ``found_lost``: by a worker that is gone."""

    id: str
    step: int
    effect: EffectClass
    call: ToolCall
    server: str
    found_lost: bool = False


class RunningTools:
    """The tool calls of one turn that are under way, and the listing of tools before.

    Its tasks never touch the log: they leave what is to be recorded in ``ended``, and call ``changed``.
    """

    def __init__(self, home: Tooled, session: Session, changed: Callable[[], None]) -> None:
        turn = session.turn
        assert turn is not None
        self.ended: list[e.Body] = []
        self._home = home
        self._session = session
        """As it was when the turn's tools were first needed; ``_newest``: when calls were last begun."""
        self._newest = session
        self._turn = turn
        self._kept_bytes = kept_so_far(turn)
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._jobs: dict[str, Job] = {}
        self._open: dict[str, Job] = {}
        """Those that have not ended; each ends once, whoever says so first."""
        self._sent: set[str] = set()
        self._places = asyncio.Semaphore(TOOL_CALLS_PARALLEL_MAX)

    @property
    def running(self) -> bool:
        return bool(self._tasks)

    def begin(self, session: Session, *, found_lost: bool = False) -> None:
        """Make the calls that are dispatched and not begun here."""
        turn = session.turn
        assert turn is not None
        self._newest = session
        for act in turn.acts:
            if act.status == "dispatched" and act.call.id not in self._jobs:
                job = _job(session, turn, act, found_lost=found_lost)
                self._jobs[job.id] = self._open[job.id] = job
                if found_lost and job.effect != "unsafe" and (turn.cancelling or turn.overdue):
                    # The turn only ends now: nothing is done for it any more. An unsafe call is looked up all the same.
                    self._end(job, _without_answer(self._turn, job, "cancelled", _ENDED, sent=True))
                else:
                    self._spawn(job.id, self._run(job))

    def list(self) -> None:
        """Ask the turn's servers what they offer."""
        if "" not in self._tasks:
            self._spawn("", self._list())

    def take(self) -> list[e.Body]:
        """What has ended since the last call."""
        ended, self.ended = self.ended, []
        return ended

    async def stop(self, code: str = "cancelled") -> None:
        """End the waiting for whatever is under way; what an unsafe call has done is not known."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=TOOL_STOP_S)
            if left:
                log.warning("%d tool calls did not end when they were told to", len(left))
        self._tasks.clear()
        for job in list(self._open.values()):
            sent = job.found_lost or job.id in self._sent
            self._end(job, _without_answer(self._turn, job, code, _ENDED if sent else _NOT_BEGUN, sent=sent))

    def check(self) -> None:
        """Raise what a task died of, if that was a defect."""
        for task in list(self._tasks.values()):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _spawn(self, id_: str, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name="tool")
        self._tasks[id_] = task
        task.add_done_callback(lambda done: self._done(id_, done))

    def _done(self, id_: str, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.pop(id_, None)
        self._changed()

    def _end(self, job: Job, body: e.Body) -> None:
        if self._open.pop(job.id, None) is not None:
            self.ended.append(body)

    # -- calls ---------------------------------------------------------------------------------------------

    async def _run(self, job: Job) -> None:
        async with self._places:
            self._end(job, await self._outcome(job))

    async def _outcome(self, job: Job) -> e.Body:
        """What becomes of a call, whatever its host does: a defect of a host's is no defect of the session's."""
        try:
            if job.server == OWN_SERVER:
                return self._read(job)
            host = self._host(job.server)
            if host is None:
                raise ToolError(f"There is no server {job.server!r} now.", code="unknown_server", sent=False)
            if job.found_lost and job.effect == "unsafe":
                return await self._look_up(host, job)
            return await self._call(host, job)
        except ToolError as error:
            sent = error.sent or job.found_lost
            return _without_answer(self._turn, job, error.code, error.message, sent=sent)
        except TimeoutError:
            return _without_answer(self._turn, job, "tool_timeout", "It did not answer in time.", sent=True)
        except asyncio.CancelledError:
            if _told_to_end():
                raise
            log.warning("the host of %s ended a call of %r by itself", job.server, job.call.tool)
            return self._broken(job)
        except Exception:
            log.exception("the host of %s failed on a call of %r", job.server, job.call.tool)
            return self._broken(job)

    def _broken(self, job: Job) -> e.Body:
        sent = job.found_lost or job.id in self._sent
        return _without_answer(self._turn, job, "tool_failed", "Its host failed unexpectedly.", sent=sent)

    async def _call(self, host: ToolHost, job: Job) -> e.Body:
        if not self._home.may_send:
            # Others have the session by now: what is recorded here is void.
            return _without_answer(self._turn, job, "fenced", "This node has lost its lease.", sent=False)
        self._sent.add(job.id)
        async with asyncio.timeout(job.call.timeout_s + 5):
            result = await host.call(job.call)
        return self._committed(job, result)

    async def _look_up(self, host: ToolHost, job: Job) -> e.Body:
        """An unsafe call of a lost worker: its tool may prove that it took effect, and nothing else."""
        found: ToolResult | None = None
        try:
            async with asyncio.timeout(job.call.timeout_s + 5):
                found = await host.look_up(job.call)
        except (ToolError, TimeoutError) as error:
            log.warning("cannot look up a tool call: %s", error)
        if found is not None:
            return self._committed(job, found, read_back=True)
        message = "The worker was lost after this call was dispatched: whether it took effect is not known."
        return _without_answer(self._turn, job, "worker_lost", message, sent=True)

    def _read(self, job: Job) -> e.Body:
        """What a model reads on in, which is in its own context."""
        session, turn = self._newest, self._newest.turn
        assert turn is not None
        items = (*session.context, *turn.input, *turn.output)
        return self._committed(job, answer(job.call.arguments, items, turn.shown_bytes))

    def _committed(self, job: Job, result: ToolResult, *, read_back: bool = False) -> e.Body:
        found = kept(result.output, self._kept_bytes)
        if found.refused and job.effect == "read":
            # Nothing was done, and nothing was learned. What any other call did stays done, and says so.
            return _without_answer(self._turn, job, "tool_answer_too_large", found.refused, sent=True)
        self._kept_bytes += found.size
        return e.EffectCommitted(
            turn=self._turn.number_in_session,
            step=job.step,
            id=job.id,
            output=found.output,
            failed=result.failed,
            read_back=read_back,
        )

    def _host(self, label: str) -> ToolHost | None:
        """The host of one of the turn's servers: a label alone may mean another one to the operator."""
        box = self._home.toolbox
        server = next((each for each in self._turn.servers if each.server_label == label), None)
        if box is None or server is None:
            return None
        if server.server_url is not None:
            return box.hosts.named(self._session.ref.tenant, self._turn.response_id, server)
        return box.hosts.own(label, self._session.ref.tenant)

    # -- lists ---------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        """Ask every server, side by side; one that does not answer ends the turn."""
        turn = self._turn
        found = await asyncio.gather(*[self._listed(server) for server in turn.servers])
        failed = next((each for each in found if isinstance(each, e.TurnFailed)), None)
        if failed is not None:
            self.ended.append(failed)
            return
        servers = [each for each in found if isinstance(each, ServerTools)]
        known = self._session.servers
        items: list[McpListTools] = []
        for server, listed in zip(turn.servers, servers, strict=True):
            before = known.get(listed.label)
            if server.server_url is not None and (before is None or before.digest != listed.digest):
                items.append(self._item(listed, len(items)))
        told = tuple([_told(each, known.get(each.label)) for each in servers])
        self.ended.append(
            e.ToolsListed(
                turn=turn.number_in_session,
                servers=told,
                items=tuple(items),
                number=turn.number,
                output_index=turn.output_index,
            )
        )

    async def _listed(self, server: McpTool) -> ServerTools | e.TurnFailed:
        turn, label = self._turn, server.server_label
        try:
            host = self._host(label)
            if host is None or self._home.toolbox is None:
                raise ToolError(f"there is no server {label!r}", code="unknown_server", sent=False)
            zone = "" if server.server_url is not None else self._home.toolbox.hosts.data_zone(label)
            async with asyncio.timeout(TOOL_CALL_TIMEOUT_S):
                tools = await host.tools()
            allowed = server.allowed_tools
            kept = tuple([tool for tool in tools if allowed is None or tool.name in allowed])
            encoded = msgspec.json.encode(kept)
            if len(encoded) > TOOL_LIST_BYTES_MAX:
                raise ToolError(f"they take more than {TOOL_LIST_BYTES_MAX} bytes", code="tools_too_large", sent=False)
            return ServerTools(label=label, digest=digest(encoded), tools=kept, data_zone=zone)
        except StatelineError as error:
            code, message = error.code, as_text(error.message)
        except TimeoutError:
            code, message = "tools_unavailable", "it did not answer in time"
        except asyncio.CancelledError:
            if _told_to_end():
                raise
            code, message = "tools_unavailable", "its host failed unexpectedly"
        except Exception:
            log.exception("the tools of %s cannot be listed", label)
            code, message = "tools_unavailable", "its host failed unexpectedly"
        return e.TurnFailed(
            response_id=turn.response_id, code=code, message=f"The tools of {label!r} cannot be listed: {message}"
        )

    def _item(self, listed: ServerTools, at: int) -> McpListTools:
        turn, ref = self._turn, self._session.ref
        return McpListTools(
            id=item_id(PREFIXES[McpListTools], ref.id, turn.number_in_session, 0, at),
            server_label=listed.label,
            tools=tuple(
                [
                    ListedTool(
                        name=tool.name,
                        description=tool.description or None,
                        input_schema=tool.parameters or {"type": "object"},
                    )
                    for tool in listed.tools or ()
                ]
            ),
        )


_ENDED = "It was ended before it answered."
_NOT_BEGUN = "It was ended before it began."


def _told_to_end() -> bool:
    """Whether the running task is cancelled from outside, or only what it waits for has cancelled itself."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _told(listed: ServerTools, before: ServerTools | None) -> ServerTools:
    """Without the tools where the session has heard of the very same."""
    same = before is not None and (before.digest, before.data_zone) == (listed.digest, listed.data_zone)
    return msgspec.structs.replace(listed, tools=None) if same else listed


def _job(session: Session, turn: Turn, act: Act, *, found_lost: bool) -> Job:
    asked = act.asked
    agent = turn.agent_name
    call = ToolCall(
        tool=act.call.tool,
        arguments=act.call.arguments or "{}",
        key=effect_key(session.ref.id, turn.number_in_session, act.step),
        tenant=session.ref.tenant,
        session=session.ref.id,
        principal=turn.principal if asked is None else asked.principal,
        agent=agent if asked is None else asked.agent,
        timeout_s=TOOL_CALL_TIMEOUT_S,
    )
    return Job(act.call.id, act.step, act.effect, call, act.call.server, found_lost)


def _without_answer(turn: Turn, job: Job, code: str, message: str, *, sent: bool) -> e.Body:
    """The end of a call that gave no answer: of an unsafe one that may have begun, nobody knows what it did."""
    unknown = sent and job.effect == "unsafe"
    kind = e.EffectUnknown if unknown else e.EffectFailed
    return kind(turn=turn.number_in_session, step=job.step, id=job.id, code=code, message=as_text(message))


def numbered(turn: Turn, bodies: Sequence[e.Body]) -> list[e.Body]:
    """Ends of calls with the sequence numbers of their stream events, from the turn's next on."""
    number, out = turn.number, list[e.Body]()
    for body in bodies:
        if isinstance(body, e.EFFECTS_ENDED):
            out.append(msgspec.structs.replace(body, number=number))
            number += acting.END_EVENTS
        else:
            out.append(body)
    return out
