"""Tool calls of one session: what may be made is decided with what asked for it, and made once that is durable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from stateline.core import acting
from stateline.core import events as e
from stateline.core.acting import Act
from stateline.core.hosted import approval_item_id, decoded
from stateline.core.ids import digest, effect_key, item_id, item_session
from stateline.core.items import PREFIXES, ListedTool, McpListTools
from stateline.core.limits import (
    APPROVAL_TTL_MS,
    TOOL_CALL_TIMEOUT_S,
    TOOL_CALLS_PARALLEL_MAX,
    TOOL_OUTPUT_BYTES_MAX,
)
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


class Toolbox(NamedTuple):
    """What a node has for tool calls.

    Attributes:
        policy: None: there is none, and every tool that a turn has may be called.
    """

    hosts: Hosts
    signer: Signer
    policy: Policy | None = None


class Tooled(Protocol):
    """What tool calls need of the node that makes them."""

    clock: Clock
    toolbox: Toolbox | None

    @property
    def may_send(self) -> bool:
        """Whether this node still has what it owns, as far as it can know."""
        ...


def decided(home: Tooled, session: Session, effect: ActEffect) -> Iterator[e.Body]:
    """What becomes of each planned call of the turn, in their order."""
    turn = session.turn
    assert turn is not None
    number, index, step, history = turn.number, turn.output_index, effect.step, session.history
    for act in turn.acts:
        if act.status != "planned":
            continue
        body = _one(home, msgspec.structs.replace(session, history=history), act, (step, number, index))
        yield body
        index += 1
        if type(body) is e.EffectDispatched:
            history = acting.after(history, body)
            step += 1
            number += acting.DISPATCH_EVENTS
        else:
            number += acting.REFUSE_EVENTS if type(body) is e.EffectRefused else acting.ASK_EVENTS


def _one(
    home: Tooled, session: Session, act: Act, at: tuple[int, int, int]
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

    tool = _tool(session, turn, call)
    arguments = decoded(call.arguments)
    if tool is None or box is None:
        return refused("unknown_tool", f"There is no tool {call.tool!r}.")
    if arguments is None:
        return refused("invalid_arguments", "The arguments are not a JSON object.")
    if step > turn.limits.steps_max:
        return refused("max_steps", "The limit of steps in one turn is reached.")
    asked, terms = act.asked, _terms(session, turn, act, now_ms)
    if asked is not None and act.approval is not None:
        code = box.signer.refusal(terms, asked, now_ms)
        if code is not None:
            return refused(code, "What was approved is not this call, or can no longer be; it was not made.")
    if box.policy is not None:
        ruling = box.policy.rule(_asked_about(session, act, tool, terms))
        if ruling.enforced and ruling.outcome == "deny":
            why = ", ".join(ruling.policies) or ("an error" if ruling.errors else "no policy permits it")
            return refused("policy_denied", f"The policy does not allow this call ({why}).")
    demand = _demand(turn, act, tool, ruling)
    if demand is not None:
        version = "" if ruling is None else ruling.version
        signed = box.signer.sign(
            terms._replace(demanded_by=demand, policy_version=version, expires_ms=now_ms + APPROVAL_TTL_MS)
        )
        return e.ApprovalRequested(
            turn=turn.number_in_session,
            step=step,
            number=number,
            output_index=index,
            id=approval_item_id(call.id),
            call=call,
            asked=signed,
            policy=ruling,
        )
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
        tool=act.call.tool,
        arguments=act.call.arguments,
        principal=turn.principal if asked is None else asked.principal,
        agent=agent if asked is None else asked.agent,
        demanded_by="client" if asked is None else asked.demanded_by,
        policy_version="" if asked is None else asked.policy_version,
        expires_ms=now_ms if asked is None else asked.expires_ms,
    )


def _asked_about(session: Session, act: Act, tool: Tool, terms: Terms) -> PolicyRequest:
    return PolicyRequest(
        tenant=terms.tenant,
        principal=terms.principal,
        agent=terms.agent,
        server=terms.server,
        tool=tool.name,
        effect=tool.effect,
        arguments=decoded(terms.arguments) or {},
        data_zone=session.servers[terms.server].data_zone,
        history=session.history,
        approved=act.approval is not None and act.by != terms.principal,
    )


def _tool(session: Session, turn: Turn, call: PlannedCall) -> Tool | None:
    """What the session has heard of the tool last."""
    known = session.servers.get(call.server)
    found = None if known is None else known.tools
    return next((tool for tool in found or () if tool.name == call.tool), None)


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
        self._turn = turn
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._jobs: dict[str, Job] = {}
        self._sent: set[str] = set()
        self._places = asyncio.Semaphore(TOOL_CALLS_PARALLEL_MAX)

    @property
    def running(self) -> bool:
        return bool(self._tasks)

    def begin(self, session: Session, *, found_lost: bool = False) -> None:
        """Make the calls that are dispatched and not begun here."""
        turn = session.turn
        assert turn is not None
        for act in turn.acts:
            if act.status == "dispatched" and act.call.id not in self._jobs:
                job = _job(session, turn, act, found_lost=found_lost)
                self._jobs[job.id] = job
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
        tasks = dict(self._tasks)
        for task in tasks.values():
            task.cancel()
        if tasks:
            await asyncio.wait(tasks.values())
        for id_ in tasks:
            job = self._jobs.get(id_)
            if job is not None and not any(getattr(body, "id", "") == id_ for body in self.ended):
                sent = job.found_lost or id_ in self._sent
                message = "It was ended before it answered." if sent else "It was ended before it began."
                self.ended.append(_without_answer(self._turn, job, code, message, sent=sent))

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

    # -- calls ---------------------------------------------------------------------------------------------

    async def _run(self, job: Job) -> None:
        async with self._places:
            try:
                host = self._host(job.server)
                if host is None:
                    raise ToolError(f"There is no server {job.server!r} now.", code="unknown_server", sent=False)
            except ToolError as error:
                body = _without_answer(self._turn, job, error.code, error.message, sent=job.found_lost)
            else:
                unproven = job.found_lost and job.effect == "unsafe"
                body = await (self._look_up(host, job) if unproven else self._call(host, job))
        self.ended.append(body)

    async def _call(self, host: ToolHost, job: Job) -> e.Body:
        if not self._home.may_send:
            # Others have the session by now: what is recorded here is void.
            return _without_answer(self._turn, job, "fenced", "This node has lost its lease.", sent=False)
        self._sent.add(job.id)
        try:
            async with asyncio.timeout(job.call.timeout_s + 5):
                result = await host.call(job.call)
        except ToolError as error:
            return _without_answer(self._turn, job, error.code, error.message, sent=error.sent)
        except TimeoutError:
            return _without_answer(self._turn, job, "tool_timeout", "It did not answer in time.", sent=True)
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

    def _committed(self, job: Job, result: ToolResult, *, read_back: bool = False) -> e.Body:
        output = result.output
        if len(output if isinstance(output, str) else msgspec.json.encode(output)) > TOOL_OUTPUT_BYTES_MAX:
            output = f"[The answer had more than {TOOL_OUTPUT_BYTES_MAX} bytes, and was not kept.]"
        return e.EffectCommitted(
            turn=self._turn.number_in_session,
            step=job.step,
            id=job.id,
            output=output,
            failed=result.failed,
            read_back=read_back,
        )

    def _host(self, label: str) -> ToolHost | None:
        box = self._home.toolbox
        if box is None:
            return None
        server = next((each for each in self._turn.servers if each.server_label == label), None)
        if server is not None and server.server_url is not None:
            return box.hosts.named(self._session.ref, self._turn.response_id, server)
        return box.hosts.own(label)

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
        host = self._host(label)
        try:
            if host is None or self._home.toolbox is None:
                raise ToolError(f"there is no server {label!r}", code="unknown_server", sent=False)
            zone = "" if server.server_url is not None else self._home.toolbox.hosts.data_zone(label)
            async with asyncio.timeout(TOOL_CALL_TIMEOUT_S):
                tools = await host.tools()
        except (ToolError, TimeoutError) as error:
            code, message = ("tools_unavailable", "it did not answer in time")
            if isinstance(error, ToolError):
                code, message = error.code, error.message
            return e.TurnFailed(
                response_id=turn.response_id, code=code, message=f"The tools of {label!r} cannot be listed: {message}"
            )
        allowed = server.allowed_tools
        kept = tuple([tool for tool in tools if allowed is None or tool.name in allowed])
        name = digest(msgspec.json.encode(kept))
        return ServerTools(label=label, digest=name, tools=kept, data_zone=zone)

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
    return kind(turn=turn.number_in_session, step=job.step, id=job.id, code=code, message=message)


def numbered(turn: Turn, bodies: Sequence[e.Body]) -> list[e.Body]:
    """Ends of calls with the sequence numbers of their stream events, from the turn's next on."""
    number, out = turn.number, list[e.Body]()
    for body in bodies:
        if isinstance(body, (e.EffectCommitted, e.EffectFailed, e.EffectUnknown)):
            out.append(msgspec.structs.replace(body, number=number))
            number += acting.END_EVENTS
        else:
            out.append(body)
    return out
