"""A turn as its client sees it: the response object and the numbered stream events.

``TurnView`` is fed the turn's events in log order, from TurnRequested on, and gives the stream events
that each stands for. Fed with chunks it gives every delta; where chunks were pruned it gives one delta
a part, numbered as its last one was. Pure, and the same on every node.
"""

from __future__ import annotations

import msgspec

from stateline.core import response as shapes
from stateline.core.billing import Charge
from stateline.core.calls import JsonSchema, TextConfig, Usage
from stateline.core.events import (
    Body,
    Chunk,
    Event,
    ModelCallFailed,
    ModelCallFinished,
    ModelCallStarted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnIncomplete,
    TurnRequested,
)
from stateline.core.hosted_view import HOSTED_EVENTS, HostedView
from stateline.core.ids import conversation_id
from stateline.core.items import (
    Content,
    FunctionCall,
    Item,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    SummaryText,
)
from stateline.core.ops import (
    AddAnnotation,
    AddItem,
    AddPart,
    Delta,
    EndPart,
    ItemMarks,
    Op,
    PartKind,
    PartMarks,
)
from stateline.core.response import Dialect, Response, StreamEvent
from stateline.core.stream import Assembly, OpenItem, OpenPart

_STATUS: dict[type, shapes.ResponseStatus] = {
    TurnCompleted: "completed",
    TurnIncomplete: "incomplete",
    TurnFailed: "failed",
    TurnCancelled: "cancelled",
}
_LAST_TYPE: dict[shapes.ResponseStatus, str] = {
    "completed": "response.completed",
    "failed": "response.failed",
    "incomplete": "response.incomplete",
    # The specification has no event of its own for a cancelled response.
    "cancelled": "response.incomplete",
}


def opening_events(request_background: bool) -> int:
    """How many stream events come before the first item: created, queued when in background, in_progress."""
    return 3 if request_background else 2


NO_EVENTS = 1 << 62
"""A cursor for who wants the response alone."""


class TurnView:
    """One turn, as far as its events were applied.

    Args:
        response_id: the turn to look at; events of other turns are passed over.
        dialect: whose names the stream events carry.
        cursor: stream events up to this sequence number are not given (-1: all).
    """

    def __init__(self, response_id: str, *, dialect: Dialect = "open-responses", cursor: int = -1) -> None:
        self.response_id = response_id
        self.requested: TurnRequested | None = None
        self.status: shapes.ResponseStatus = "in_progress"
        self.finished = False
        self._dialect: Dialect = dialect
        self._cursor = cursor
        self._session = ""
        self._created_ms = 0
        self._ended_ms = 0
        self._number = 0
        self._output_index = 0
        self._output: list[Item] = []
        self._usage: Usage | None = None
        self._charges: list[Charge] = []
        self._steps = 0
        self._started: ModelCallStarted | None = None
        self._finished_call: ModelCallFinished | None = None
        self._assembly: Assembly | None = None
        self._error: shapes.ResponseError | None = None
        self._reason: str | None = None
        self._hosted = HostedView()

    def apply(self, event: Event) -> list[StreamEvent]:
        """Take one event in; return the stream events it stands for, after the cursor."""
        body = event.body
        if type(body) is Chunk:
            return self._chunk(body) if self.requested is not None and not self.finished else []
        if type(body) is TurnRequested:
            return self._begin(event, body) if body.response_id == self.response_id else []
        if self.requested is None or self.finished:
            return []
        if type(body) is ModelCallStarted:
            self._started, self._steps, self._assembly = body, body.step, None
            return []
        if type(body) is ModelCallFinished or type(body) is ModelCallFailed:
            return self._call_ended(body)
        if type(body) in _STATUS:
            return self._end(event, body)
        if type(body) in HOSTED_EVENTS:
            return self._hosted_events(body)
        return []

    # -- the response object ------------------------------------------------------------------------

    def response(self) -> Response:
        """The response as of the last event applied. Call after TurnRequested."""
        requested = self.requested
        assert requested is not None
        request = requested.request
        call, started = self._finished_call, self._started
        in_conversation = request.in_conversation
        return Response(
            id=requested.response_id,
            created_at=self._created_ms // 1000,
            completed_at=self._ended_ms // 1000 if self.status == "completed" else None,
            status=self.status,
            incomplete_details=shapes.IncompleteDetails(reason=self._reason) if self._reason else None,
            model=request.model,
            previous_response_id=request.previous_response_id,
            conversation=shapes.ConversationField(id=conversation_id(self._session))
            if in_conversation
            else msgspec.UNSET,
            instructions=request.instructions,
            output=tuple(self._output),
            error=self._error,
            tools=(*request.tools, *map(shapes.mcp_field, request.servers)) if request.servers else request.tools,
            tool_choice=request.tool_choice,
            truncation=request.truncation,
            parallel_tool_calls=request.parallel_tool_calls is not False,
            text=_text_field(request.text, self._dialect),
            top_p=1.0 if request.top_p is None else request.top_p,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            top_logprobs=request.top_logprobs or 0,
            temperature=1.0 if request.temperature is None else request.temperature,
            reasoning=request.reasoning,
            usage=shapes.usage_field(self._usage) if self._usage is not None and self.finished else None,
            max_output_tokens=request.max_output_tokens,
            max_tool_calls=request.max_tool_calls,
            store=request.store,
            background=request.background,
            service_tier=(call.service_tier if call else None) or request.service_tier or "default",
            metadata=request.metadata,
            safety_identifier=request.safety_identifier,
            prompt_cache_key=request.prompt_cache_key,
            stateline=shapes.StatelineField(
                session=self._session,
                turn=requested.turn,
                steps=self._steps,
                deployment=started.deployment if started else None,
                upstream_model=call.upstream_model if call else None,
                placement=shapes.placement_field(started.passed, started.refused, started.priced) if started else None,
                verdict=shapes.verdict_field(started.verdict) if started else None,
                dropped=shapes.dropped_field(started.dropped) if started and started.dropped else (),
                cost=shapes.cost_fields(self._charges) if self._charges else (),
                agent=f"{requested.agent.name}@{requested.agent.version}" if requested.agent else None,
                waits_for=tuple(self._hosted.waits_for),
            ),
        )

    # -- events ---------------------------------------------------------------------------------------

    def _begin(self, event: Event, body: TurnRequested) -> list[StreamEvent]:
        self.requested = body
        self._session = event.session.id
        self._created_ms = event.at_ms
        out: list[StreamEvent] = []
        background = body.request.background
        if self._cursor < opening_events(background) - 1:
            self.status = "queued" if background else "in_progress"
            response = self.response()
            out.append(shapes.ResponseEvent(type="response.created", sequence_number=0, response=response))
            if background:
                out.append(shapes.ResponseEvent(type="response.queued", sequence_number=1, response=response))
                self.status = "in_progress"
                response = self.response()
            last = opening_events(background) - 1
            out.append(shapes.ResponseEvent(type="response.in_progress", sequence_number=last, response=response))
        self._number = opening_events(background)
        return self._after_cursor(out)

    def _chunk(self, body: Chunk) -> list[StreamEvent]:
        if body.first != self._number:
            # A chunk before this one was pruned; the finished items will say what both said.
            return []
        if self._assembly is None:
            self._assembly = Assembly(body.first, self._output_index)
        out: list[StreamEvent] = []
        for op in body.ops:
            out += self._op(self._assembly, op)
        self._number = self._assembly.number
        return self._after_cursor(out)

    def _call_ended(self, body: ModelCallFinished | ModelCallFailed) -> list[StreamEvent]:
        if body.charge is not None:
            self._charges.append(body.charge)
        if type(body) is ModelCallFinished:
            self._finished_call = body
            self._output += body.items
            if body.usage is not None:
                self._usage = body.usage if self._usage is None else self._usage + body.usage
        self._assembly = None
        self._output_index = body.output_index + len(body.items)
        # What the reader has: up to its cursor, or what the chunks have told.
        seen = max(self._cursor, self._number - 1)
        self._number = max(self._number, body.next_number)
        if seen >= self._number - 1:
            return []
        out: list[StreamEvent] = []
        for at, (item, marks) in enumerate(zip(body.items, body.marks, strict=True)):
            out += self._structure(body.output_index + at, item, marks, seen)
        # Function calls that were made side by side have their numbers interleaved.
        return sorted((event for event in out if event.sequence_number > seen), key=_number)

    def _hosted_events(self, body: Body) -> list[StreamEvent]:
        before = len(self._output)
        out = self._hosted.apply(body, self._output)
        self._output_index += len(self._output) - before
        if out:
            self._number = max(self._number, out[-1].sequence_number + 1)
        return [event for event in out if event.sequence_number > self._cursor]

    def _end(self, event: Event, body: Body) -> list[StreamEvent]:
        self.finished = True
        self.status = _STATUS[type(body)]
        self._ended_ms = event.at_ms
        if type(body) is TurnIncomplete:
            self._reason = body.reason
        elif type(body) is TurnFailed:
            self._error = shapes.ResponseError(code=body.code, message=body.message)
        if self._cursor >= self._number:
            return []
        last = shapes.ResponseEvent(
            type=_LAST_TYPE[self.status], sequence_number=self._number, response=self.response()
        )
        return [last]

    def _after_cursor(self, events: list[StreamEvent]) -> list[StreamEvent]:
        if not events or events[0].sequence_number > self._cursor:
            return events
        return [event for event in events if event.sequence_number > self._cursor]

    # -- one operation ------------------------------------------------------------------------------------

    def _op(self, assembly: Assembly, op: Op) -> list[StreamEvent]:
        number = assembly.number
        assembly.apply(op)
        if type(op) is AddItem:
            item = op.item
            return [shapes.ItemEvent(type=_ADDED, sequence_number=number, output_index=op.index, item=item)]
        item = assembly.item(op.index)
        if type(op) is Delta:
            return [self._delta(item, item.parts[op.part], number, op.text, op.logprobs or [])]
        if type(op) is AddPart:
            part = item.parts[op.part]
            return [] if op.kind == "arguments" else [self._part(item, part, number, added=True)]
        if type(op) is AddAnnotation:
            note = shapes.AnnotationEvent(
                type="response.output_text.annotation.added",
                sequence_number=number,
                item_id=item.item.id,
                output_index=op.index,
                content_index=item.parts[op.part].position,
                annotation_index=op.number,
                annotation=op.annotation,
            )
            return [note]
        if type(op) is EndPart:
            return self._part_done(item, item.parts[op.part], number)
        done = item.assemble("completed")
        return [shapes.ItemEvent(type=_DONE, sequence_number=number, output_index=op.index, item=done)]

    def _delta(
        self,
        item: OpenItem,
        part: OpenPart,
        number: int,
        text: str,
        logprobs: list[dict[str, object]],
    ) -> StreamEvent:
        if part.kind == "text":
            return shapes.TextDeltaEvent(
                type="response.output_text.delta",
                sequence_number=number,
                item_id=item.item.id,
                output_index=item.index,
                content_index=part.position,
                delta=text,
                logprobs=logprobs,
            )
        name = self._name(part.kind) + ".delta"
        common = {"sequence_number": number, "item_id": item.item.id, "output_index": item.index}
        if part.kind == "arguments":
            return msgspec.convert({"type": name, "delta": text, **common}, shapes.ArgumentsDeltaEvent)
        if part.kind == "summary":
            fields = {"type": name, "delta": text, "summary_index": part.position, **common}
            return msgspec.convert(fields, shapes.SummaryDeltaEvent)
        fields = {"type": name, "delta": text, "content_index": part.position, **common}
        return msgspec.convert(fields, shapes.ContentDeltaEvent)

    def _part(self, item: OpenItem, part: OpenPart, number: int, *, added: bool) -> StreamEvent:
        content = OpenPart(part.kind, 0, 0).content() if added else part.content()
        suffix = "added" if added else "done"
        if part.kind == "summary":
            return shapes.SummaryPartEvent(
                type=f"response.reasoning_summary_part.{suffix}",
                sequence_number=number,
                item_id=item.item.id,
                output_index=item.index,
                summary_index=part.position,
                part=content,
            )
        return shapes.ContentPartEvent(
            type=f"response.content_part.{suffix}",
            sequence_number=number,
            item_id=item.item.id,
            output_index=item.index,
            content_index=part.position,
            part=content,
        )

    def _part_done(self, item: OpenItem, part: OpenPart, number: int) -> list[StreamEvent]:
        name = self._name(part.kind) + ".done"
        at = {
            "type": name,
            "sequence_number": number,
            "item_id": item.item.id,
            "output_index": item.index,
        }
        if part.kind == "arguments":
            assert isinstance(item.item, FunctionCall)
            done = {**at, "arguments": part.text, "name": item.item.name}
            return [msgspec.convert(done, shapes.ArgumentsDoneEvent)]
        event: StreamEvent
        if part.kind == "text":
            done = {
                **at,
                "content_index": part.position,
                "text": part.text,
                "logprobs": part.logprobs,
            }
            event = msgspec.convert(done, shapes.TextDoneEvent)
        elif part.kind == "refusal":
            event = msgspec.convert(
                {**at, "content_index": part.position, "refusal": part.text},
                shapes.RefusalDoneEvent,
            )
        elif part.kind == "reasoning":
            event = msgspec.convert(
                {**at, "content_index": part.position, "text": part.text}, shapes.ReasoningDoneEvent
            )
        else:
            event = msgspec.convert({**at, "summary_index": part.position, "text": part.text}, shapes.SummaryDoneEvent)
        return [event, self._part(item, part, number + 1, added=False)]

    def _name(self, kind: PartKind) -> str:
        if kind == "reasoning" and self._dialect == "openai":
            return "response.reasoning_text"
        return _NAMES[kind]

    # -- pruned: from the finished item and its marks ---------------------------------------------------------

    def _structure(self, index: int, item: ModelItem, marks: ItemMarks, seen: int) -> list[StreamEvent]:
        """The structural events of a finished item, and one delta for each part of which none was seen."""
        empty = _emptied(item)
        whole = OpenItem(index, empty, marks.added)
        out: list[StreamEvent] = [
            shapes.ItemEvent(type=_ADDED, sequence_number=marks.added, output_index=index, item=empty)
        ]
        for mark, part in zip(marks.parts, _parts(item, marks.parts), strict=True):
            whole.parts.append(part)
            if mark.kind != "arguments":
                out.append(self._part(whole, part, mark.added, added=True))
            # Arguments have no event of their own that opens them: their mark is their first delta's at the earliest.
            first = mark.added if mark.kind == "arguments" else mark.added + 1
            if mark.delta >= 0 and seen < first:
                out.append(self._delta(whole, part, mark.delta, part.text, part.logprobs))
            out += [
                shapes.AnnotationEvent(
                    type="response.output_text.annotation.added",
                    sequence_number=number,
                    item_id=item.id,
                    output_index=index,
                    content_index=part.position,
                    annotation_index=at,
                    annotation=part.annotations[at],
                )
                for at, number in enumerate(mark.notes)
            ]
            out += self._part_done(whole, part, mark.done)
        out.append(shapes.ItemEvent(type=_DONE, sequence_number=marks.done, output_index=index, item=item))
        return out


_ADDED = "response.output_item.added"
_DONE = "response.output_item.done"
_NAMES: dict[PartKind, str] = {
    "text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning": "response.reasoning",
    "summary": "response.reasoning_summary_text",
    "arguments": "response.function_call_arguments",
}


def _number(event: StreamEvent) -> int:
    return event.sequence_number


def _emptied(item: ModelItem) -> ModelItem:
    """The item as ``response.output_item.added`` showed it."""
    if isinstance(item, FunctionCall):
        return msgspec.structs.replace(item, arguments="", status="in_progress")
    if isinstance(item, Message):
        return msgspec.structs.replace(item, content=(), status="in_progress")
    return Reasoning(id=item.id)


def _parts(item: ModelItem, marks: tuple[PartMarks, ...]) -> list[OpenPart]:
    """The finished parts of an item, in the order in which they were opened."""
    holder = OpenItem(0, item, 0)
    sources: dict[str, list[Content]] = {"content": [], "summary": []}
    if isinstance(item, Message):
        sources["content"] = list(item.content)
    elif isinstance(item, Reasoning):
        sources["content"] = list(item.content or ())
        sources["summary"] = list(item.summary)
    for mark in marks:
        part = OpenPart(mark.kind, holder.position(mark.kind), mark.added)
        holder.parts.append(part)
        if isinstance(item, FunctionCall):
            part.texts = [item.arguments]
            continue
        source = sources["summary" if mark.kind == "summary" else "content"][part.position]
        if isinstance(source, OutputText):
            part.texts, part.logprobs, part.annotations = (
                [source.text],
                source.logprobs,
                list(source.annotations),
            )
        elif isinstance(source, Refusal):
            part.texts = [source.refusal]
        else:
            assert isinstance(source, ReasoningText | SummaryText)
            part.texts = [source.text]
    return holder.parts


def _text_field(text: TextConfig, dialect: Dialect) -> dict[str, object]:
    """``TextField``. Open Responses fixes the echoed schema to null; OpenAI's description requires it."""
    out: dict[str, object] = {}
    if type(text.format) is JsonSchema:
        shown = text.format.schema if dialect == "openai" else None
        out["format"] = {
            "type": "json_schema",
            "name": text.format.name,
            "description": text.format.description,
            "schema": shown,
            "strict": text.format.strict,
        }
    else:
        out["format"] = msgspec.to_builtins(text.format)
    if text.verbosity is not None:
        out["verbosity"] = text.verbosity
    return out
