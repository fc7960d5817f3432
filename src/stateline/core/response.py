"""The response object and the stream events of Open Responses (spec 2026-04-24).

Shapes only; ``view`` fills them from the log. Two dialects differ in a few names: see ``Dialect``.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

import msgspec

from stateline.core.billing import Charge
from stateline.core.calls import FunctionChoice, FunctionTool, ReasoningConfig, ToolChoice, Usage
from stateline.core.carrying import Dropped, What
from stateline.core.items import Content, Item, UrlCitation
from stateline.core.placing import Outcome, Passed, Priced, Refused, Ruling, Why
from stateline.core.tools import Demand, McpTool

Dialect = Literal["open-responses", "openai"]
"""``openai`` names reasoning deltas ``response.reasoning_text.*``, has a flat ``error`` and echoes JSON schemas."""

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class _Shape(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    pass


class InputTokensDetails(_Shape, frozen=True, gc=False, kw_only=True):
    cached_tokens: int


class OutputTokensDetails(_Shape, frozen=True, gc=False, kw_only=True):
    reasoning_tokens: int


class ResponseUsage(_Shape, frozen=True, gc=False, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


def usage_field(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.total_tokens,
    )


def placement_field(
    passed: tuple[Passed, ...], refused: tuple[Refused, ...] = (), priced: tuple[Priced, ...] = ()
) -> PlacementField | None:
    """None where there was nothing to choose from."""
    if not passed:
        return None
    return PlacementField(passed=passed_fields(passed, refused), prices=price_fields(priced))


def price_fields(priced: Iterable[Priced]) -> tuple[PriceField, ...]:
    return tuple(
        PriceField(
            deployment=each.deployment,
            list_per_mtok=f"{each.list_per_mtok:f}",
            effective_per_mtok=f"{each.effective_per_mtok:f}",
            draws=tuple(
                DrawField(commitment=one.commitment, fraction=f"{one.fraction:f}", value=f"{one.value:f}")
                for one in each.draws
            ),
        )
        for each in priced
    )


def passed_fields(passed: tuple[Passed, ...], refused: tuple[Refused, ...]) -> tuple[PassedField, ...]:
    rulings = {each.deployment: verdict_field(each.ruling) for each in refused}
    return tuple(
        PassedField(
            deployment=each.deployment, why=each.why, until_ms=each.until_ms, verdict=rulings.get(each.deployment)
        )
        for each in passed
    )


def cost_fields(charges: Iterable[Charge]) -> tuple[CostField, ...]:
    """Charges added up by currency."""
    found: dict[str, tuple[Decimal, bool]] = {}
    for each in charges:
        before = found.get(each.currency)
        if before is None:
            found[each.currency] = (each.amount, each.estimated)
        else:
            found[each.currency] = (before[0] + each.amount, before[1] or each.estimated)
    return tuple(
        [
            CostField(amount=f"{amount:f}", currency=currency, estimated=estimated)
            for currency, (amount, estimated) in found.items()
        ]
    )


def mcp_field(tool: McpTool) -> McpToolField:
    approval: str | dict[str, Any] = tool.require_approval
    if tool.always or tool.never:
        approval = {
            key: {"tool_names": list(names)} for key, names in (("always", tool.always), ("never", tool.never)) if names
        }
    return McpToolField(
        server_label=tool.server_label,
        server_url=tool.server_url,
        server_description=tool.server_description,
        allowed_tools=tool.allowed_tools,
        require_approval=approval,
    )


def verdict_field(ruling: Ruling | None) -> VerdictField | None:
    """None where there were no contracts."""
    if ruling is None:
        return None
    return VerdictField(
        outcome=ruling.outcome,
        resolved=ruling.resolved,
        posture=ruling.posture,
        clause=ruling.clause,
        readings=tuple(ReadingField(id=each.reading, outcome=each.outcome) for each in ruling.readings),
        observed=ruling.observed,
    )


def dropped_field(dropped: tuple[Dropped, ...]) -> tuple[DroppedField, ...]:
    return tuple([DroppedField(what=each.what, items=each.items) for each in dropped])


class IncompleteDetails(_Shape, frozen=True, gc=False, kw_only=True):
    reason: str


class ResponseError(_Shape, frozen=True, gc=False, kw_only=True):
    code: str
    message: str


class ConversationField(_Shape, frozen=True, gc=False, kw_only=True):
    id: str


class ReadingField(_Shape, frozen=True, gc=False, kw_only=True):
    """What one reading of a clause says."""

    id: str
    outcome: Outcome


class VerdictField(_Shape, omit_defaults=True, frozen=True, gc=False, kw_only=True):
    """What the contracts say of a placement.

    ``clause`` and its ``readings`` are those that decided; where every clause allows there are none. ``observed``:
    it is denied, and was not blocked, since its contract is only observed.
    """

    outcome: Outcome
    resolved: Literal["allow", "deny"]
    posture: str
    clause: str | None = None
    readings: tuple[ReadingField, ...] = ()
    observed: bool = False


class PassedField(_Shape, omit_defaults=True, frozen=True, gc=False, kw_only=True):
    """``verdict`` is there where ``why`` is ``contract``."""

    deployment: str
    why: Why
    until_ms: int | None = None
    verdict: VerdictField | None = None


class DrawField(_Shape, frozen=True, gc=False, kw_only=True):
    """A commitment that a deployment's use draws down: the part of the cost that counts, and what that is worth."""

    commitment: str
    fraction: str
    value: str


class PriceField(_Shape, omit_defaults=True, frozen=True, gc=False, kw_only=True):
    """What a candidate costs in effect; see `core.placing.Priced`. Decimals, in digits."""

    deployment: str
    list_per_mtok: str
    effective_per_mtok: str
    draws: tuple[DrawField, ...] = ()


class PlacementField(_Shape, omit_defaults=True, frozen=True, gc=False, kw_only=True):
    """The last decision about where the turn's call goes: the other candidates, and why each did not get it.

    ``until_ms`` is Unix time, for reasons that pass by themselves. ``prices`` is there where they decide.
    """

    passed: tuple[PassedField, ...]
    prices: tuple[PriceField, ...] = ()


class DroppedField(_Shape, frozen=True, gc=False, kw_only=True):
    """What of its context the turn's last call did not get, and in how many items (`core.carrying`)."""

    what: What
    items: int


class CostField(_Shape, frozen=True, gc=False, kw_only=True):
    """What the turn's calls cost so far, failed ones included. ``amount`` is a decimal, in digits.

    ``estimated``: the usage of one of them never came, so it counts with all that it had reserved.
    """

    amount: str
    currency: str
    estimated: bool


class McpToolField(_Shape, frozen=True, gc=False, kw_only=True, tag_field="type", tag="mcp"):
    """``MCPTool`` of the request, without what is secret in it."""

    server_label: str
    server_url: str | None = None
    server_description: str | None = None
    allowed_tools: tuple[str, ...] | None = None
    require_approval: str | dict[str, Any]
    headers: None = None


class AskField(_Shape, omit_defaults=True, frozen=True, gc=False, kw_only=True):
    """A call that waits for a person (docs/approvals.md).

    ``demanded_by`` is there where it is an approval that is wanted; else its outcome is not known.
    """

    id: str
    server_label: str
    name: str
    demanded_by: Demand | None = None
    expires_ms: int | None = None


class StatelineField(_Shape, omit_defaults=True, frozen=True, gc=False, kw_only=True):
    """Stateline's own facts about a response (an extension of Open Responses).

    ``cost`` has one entry a currency; none where no price is known.
    """

    session: str
    turn: int
    steps: int = 0
    deployment: str | None = None
    upstream_model: str | None = None
    placement: PlacementField | None = None
    verdict: VerdictField | None = None
    dropped: tuple[DroppedField, ...] = ()
    cost: tuple[CostField, ...] = ()
    agent: str | None = None
    waits_for: tuple[AskField, ...] = ()


class Response(_Shape, frozen=True, gc=False, kw_only=True):
    """``ResponseResource``; ``created_at`` and ``completed_at`` are Unix seconds."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    incomplete_details: IncompleteDetails | None
    model: str
    previous_response_id: str | None
    conversation: ConversationField | msgspec.UnsetType = msgspec.UNSET
    instructions: str | None
    output: tuple[Item, ...]
    error: ResponseError | None
    tools: tuple[FunctionTool | McpToolField, ...]
    tool_choice: ToolChoice | FunctionChoice
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: dict[str, Any]
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: ReasoningConfig | None
    usage: ResponseUsage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None
    stateline: StatelineField | msgspec.UnsetType = msgspec.UNSET


class StreamEvent(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Base of the stream events. ``type`` is a field, since the dialects rename some."""

    type: str
    sequence_number: int


class ResponseEvent(StreamEvent, frozen=True, gc=False, kw_only=True):
    """created, queued, in_progress, completed, failed, incomplete."""

    response: Response


class ItemEvent(StreamEvent, frozen=True, gc=False, kw_only=True):
    """``response.output_item.added`` and ``.done``."""

    output_index: int
    item: Item


class _PartEvent(StreamEvent, frozen=True, gc=False, kw_only=True):
    item_id: str
    output_index: int


class ContentPartEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    content_index: int
    part: Content


class SummaryPartEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    summary_index: int
    part: Content


class TextDeltaEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    content_index: int
    delta: str
    logprobs: list[dict[str, Any]] = []


class TextDoneEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    content_index: int
    text: str
    logprobs: list[dict[str, Any]] = []


class ContentDeltaEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    """``response.refusal.delta`` and the reasoning delta."""

    content_index: int
    delta: str


class RefusalDoneEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    content_index: int
    refusal: str


class ReasoningDoneEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    content_index: int
    text: str


class SummaryDeltaEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    summary_index: int
    delta: str


class SummaryDoneEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    summary_index: int
    text: str


class AnnotationEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    content_index: int
    annotation_index: int
    annotation: UrlCitation


class ArgumentsDeltaEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    delta: str


class HostedEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    """``response.mcp_call.*`` and ``response.mcp_list_tools.*`` without more."""


class HostedArgumentsDoneEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    """``response.mcp_call_arguments.done``."""

    arguments: str


class ArgumentsDoneEvent(_PartEvent, frozen=True, gc=False, kw_only=True):
    """``name`` is OpenAI's addition."""

    arguments: str
    name: str


class ErrorPayload(_Shape, frozen=True, gc=False, kw_only=True):
    type: str
    code: str | None
    message: str
    param: str | None


class ErrorEvent(StreamEvent, frozen=True, gc=False, kw_only=True):
    """Open Responses' ``error``: nested."""

    error: ErrorPayload


class FlatErrorEvent(StreamEvent, frozen=True, gc=False, kw_only=True):
    """OpenAI's ``error``: flat."""

    code: str | None
    message: str
    param: str | None
