"""The stream events of hosted tools: what the events of effects stand for."""

from __future__ import annotations

from collections.abc import Iterator

from stateline.core import acting
from stateline.core import events as e
from stateline.core import response as shapes
from stateline.core.items import Item, McpCall, McpListTools
from stateline.core.response import StreamEvent

_ADDED = "response.output_item.added"
_DONE = "response.output_item.done"
HOSTED_EVENTS: frozenset[type] = e.EFFECTS | {e.ToolsListed}


class HostedView:
    """The items of hosted tools in one turn's output.

    Attributes:
        waits_for: calls that wait for a person.
    """

    def __init__(self) -> None:
        self.waits_for: list[shapes.AskField] = []
        self._open: dict[str, int] = {}

    def apply(self, body: e.Body, output: list[Item]) -> list[StreamEvent]:
        """Take one event in: the items of ``output`` change, and these are its stream events."""
        if type(body) is e.ToolsListed:
            return list(self._listed(body, output))
        if type(body) is e.EffectDispatched:
            item = acting.dispatched_item(body)
            self._open[item.id] = body.output_index
            output.append(item)
            return [
                _item(_ADDED, body.number, body.output_index, _without_arguments(item)),
                _event("response.mcp_call.in_progress", body.number + 1, body.output_index, item.id),
                *_arguments(body.number + 2, body.output_index, item),
            ]
        if type(body) is e.EffectRefused:
            refused = acting.refused_item(body)
            output.append(refused)
            at, index = body.number, body.output_index
            return [
                _item(_ADDED, at, index, _without_arguments(refused)),
                *_arguments(at + 1, index, refused),
                _event("response.mcp_call.failed", at + 3, index, refused.id),
                _item(_DONE, at + 4, index, refused),
            ]
        if type(body) is e.ApprovalRequested:
            asked = acting.asked_item(body)
            output.append(asked)
            self.waits_for.append(
                shapes.AskField(
                    id=body.id,
                    server_label=asked.server_label,
                    name=asked.name,
                    demanded_by=body.asked.demanded_by,
                    expires_ms=body.asked.expires_ms,
                )
            )
            return [
                _item(_ADDED, body.number, body.output_index, asked),
                _item(_DONE, body.number + 1, body.output_index, asked),
            ]
        assert type(body) is e.EffectCommitted or type(body) is e.EffectFailed or type(body) is e.EffectUnknown
        return self._ended(body, output)

    def _listed(self, body: e.ToolsListed, output: list[Item]) -> Iterator[StreamEvent]:
        number = body.number
        for at, item in enumerate(body.items):
            index = body.output_index + at
            output.append(item)
            yield _item(_ADDED, number, index, McpListTools(id=item.id, server_label=item.server_label))
            yield _event("response.mcp_list_tools.in_progress", number + 1, index, item.id)
            yield _event("response.mcp_list_tools.completed", number + 2, index, item.id)
            yield _item(_DONE, number + 3, index, item)
            number += acting.LIST_EVENTS

    def _ended(
        self, body: e.EffectCommitted | e.EffectFailed | e.EffectUnknown, output: list[Item]
    ) -> list[StreamEvent]:
        at = next(at for at, item in enumerate(output) if item.id == body.id)
        item = output[at]
        assert type(item) is McpCall
        done = output[at] = acting.ended_item(item, body)
        if type(body) is e.EffectUnknown:
            self.waits_for.append(shapes.AskField(id=body.id, server_label=done.server_label, name=done.name))
        index = self._open.pop(body.id)
        how = "completed" if done.status == "completed" else "failed"
        return [
            _event(f"response.mcp_call.{how}", body.number, index, done.id),
            _item(_DONE, body.number + 1, index, done),
        ]


def _item(type_: str, number: int, index: int, item: Item) -> StreamEvent:
    return shapes.ItemEvent(type=type_, sequence_number=number, output_index=index, item=item)


def _event(type_: str, number: int, index: int, item_id: str) -> StreamEvent:
    return shapes.HostedEvent(type=type_, sequence_number=number, output_index=index, item_id=item_id)


def _without_arguments(item: McpCall) -> McpCall:
    return McpCall(
        id=item.id,
        server_label=item.server_label,
        name=item.name,
        arguments="",
        approval_request_id=item.approval_request_id,
        status="in_progress",
    )


def _arguments(number: int, index: int, item: McpCall) -> list[StreamEvent]:
    return [
        shapes.ArgumentsDeltaEvent(
            type="response.mcp_call_arguments.delta",
            sequence_number=number,
            item_id=item.id,
            output_index=index,
            delta=item.arguments,
        ),
        shapes.HostedArgumentsDoneEvent(
            type="response.mcp_call_arguments.done",
            sequence_number=number + 1,
            item_id=item.id,
            output_index=index,
            arguments=item.arguments,
        ),
    ]
