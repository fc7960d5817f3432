"""One value of every kind of event, with every field set that the kind has."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import msgspec

from stateline.core import events as e
from stateline.core.billing import Charge, Counted, Held, Price, Rates, Reserved, Tariff
from stateline.core.calls import (
    AllowedTools,
    FunctionChoice,
    FunctionTool,
    JsonSchema,
    ReasoningConfig,
    TextConfig,
    Usage,
)
from stateline.core.items import (
    Compaction,
    EffectResolution,
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    Item,
    ListedTool,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpCallError,
    McpListTools,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    Sidecar,
    SummaryText,
    UrlCitation,
)
from stateline.core.limits import TurnLimits
from stateline.core.links import Anchor, Record
from stateline.core.ops import AddAnnotation, AddItem, AddPart, Delta, EndItem, EndPart, ItemMarks, PartMarks
from stateline.core.placing import Drew, Passed, Priced, Refused, Ruling, Said
from stateline.core.tools import Agent, Answer, Asked, McpTool, PlannedCall, PolicyRuling, ServerTools, Tool

SESSION = "0123456789abcdefghjkmnpq"
RESPONSE = f"resp_{SESSION}aaaaaaaa1"
NOTE = UrlCitation(url="https://example.org", start_index=0, end_index=2, title="An example")
LOGPROB = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
SIDECARS = {f"rs_{SESSION}t1s1i0": Sidecar(origin="openai-responses/openai", data={"id": "rs_1", "n": [1, None]})}

PRICE = Price(
    cloud="azure",
    model="gpt-5",
    region="eu",
    service_tier="priority",
    currency="EUR",
    rates=(
        Rates(input=Decimal("1.25"), output=Decimal(10), cached=Decimal("0.125"), cache_write=Decimal("1.5")),
        Rates(input=Decimal("2.5"), reasoning=Decimal(15), above=272_000),
    ),
    per_call=Decimal("0.0001"),
    since=date(2026, 1, 1),
    until=date(2027, 1, 1),
    source="a price list",
)
TARIFF = Tariff(
    id="trf_0",
    deployment="azure",
    model="gpt-5",
    upstream_model="gpt-5-prod",
    cloud="azure",
    host="azure",
    price=PRICE,
    vendor="openai",
    region="swedencentral",
    billing_account="1234",
    accelerator="nvidia-h100",
    channel="marketplace",
)
RESERVED = Reserved(
    tariff="trf_0",
    amount=Decimal("0.5"),
    currency="EUR",
    held=(Held("budget/all/2026-11", Decimal("1.1")),),
    output_tokens=4_096,
)
COUNTED = (
    Counted("rate/all/acme/k1/tokens/29861280", tokens=4_200, until_ms=1_791_676_860_000),
    Counted("rate/all/acme/k1/concurrency", places=1),
)
PRICED = (
    Priced("azure", Decimal("3.4"), Decimal("2.55"), (Drew("deal/spend", Decimal(1), Decimal("0.25")),)),
    Priced("b", Decimal(5), Decimal(5)),
)
CHARGE = Charge(tariff="trf_0", amount=Decimal("0.01"), currency="EUR", estimated=True)
NO_CHARGE = Charge(tariff="trf_0", amount=Decimal(0), currency="EUR")

INPUT: tuple[Item, ...] = (
    Message(id=f"msg_{SESSION}t1s0i0", role="developer", content=(InputText(text="Be brief. é"),)),
    Message(
        id=f"msg_{SESSION}t1s0i1",
        role="user",
        content=(
            InputImage(image_url="data:image/png;base64,AAAA", detail="low"),
            InputFile(filename="a.txt", file_data="AAAA"),
            InputFile(file_url="https://example.org/a.pdf"),
            InputVideo(video_url="https://example.org/a.mp4"),
        ),
    ),
    FunctionCallOutput(id=f"fco_{SESSION}t1s0i2", call_id="c0", output="21 °C"),
    FunctionCallOutput(id=f"fco_{SESSION}t1s0i3", call_id="c9", output=(InputText(text="x"),), status="incomplete"),
    Compaction(id=f"cmp_{SESSION}t1s0i4", encrypted_content="opaque"),
)
REASONING = Reasoning(
    id=f"rs_{SESSION}t1s1i0",
    summary=(SummaryText(text="short"),),
    content=(ReasoningText(text="long"),),
    encrypted_content="sealed",
    status="completed",
)
SAID = Message(
    id=f"msg_{SESSION}t1s1i1",
    role="assistant",
    phase="final_answer",
    content=(OutputText(text="Hi", annotations=(NOTE,), logprobs=[LOGPROB]), Refusal(refusal="No.")),
)
CALL = FunctionCall(id=f"fc_{SESSION}t1s1i2", call_id="c1", name="f", arguments='{"a":1}', status="incomplete")
MARKS = (
    ItemMarks(2, (PartMarks("summary", 3, 4, (), 5), PartMarks("reasoning", 7, 8, (), 9)), 11),
    ItemMarks(12, (PartMarks("text", 13, 14, (15,), 16), PartMarks("refusal", 18, -1, (), 19)), 21),
    ItemMarks(22, (PartMarks("arguments", 23, 23, (), 24),), 25),
)
REQUEST = e.TurnRequest(
    model="gpt-5",
    instructions="Answer in French.",
    tools=(FunctionTool(name="f", description="Does f", parameters={"type": "object", "properties": {}}, strict=True),),
    tool_choice=AllowedTools(tools=(FunctionChoice(name="f"),), mode="required"),
    parallel_tool_calls=False,
    text=TextConfig(
        format=JsonSchema(name="s", description="d", schema={"type": "object"}, strict=True), verbosity="low"
    ),
    reasoning=ReasoningConfig(effort="low", summary="auto"),
    max_output_tokens=100,
    temperature=0.5,
    top_p=0.9,
    presence_penalty=0.1,
    frequency_penalty=0.2,
    top_logprobs=3,
    logprobs=True,
    include=("reasoning.encrypted_content",),
    service_tier="flex",
    safety_identifier="hash",
    prompt_cache_key="key",
    user="somebody",
    stop=("END",),
    seed=7,
    store=True,
    background=True,
    stream=True,
    previous_response_id=RESPONSE,
    in_conversation=True,
    metadata={"a": "b"},
    max_tool_calls=4,
    truncation="auto",
)
OPS = (
    AddItem(0, SAID),
    AddPart(0, 0, "text"),
    Delta(0, 0, "text", "Hi", [LOGPROB]),
    AddAnnotation(0, 0, 0, NOTE),
    EndPart(0, 0, "text"),
    EndItem(0, "sealed"),
    EndItem(1),
)

DENIAL = Ruling(
    outcome="contested",
    resolved="deny",
    posture="microsoft",
    clause="msoai/x",
    readings=(Said("r", "deny"), Said("s", "allow")),
    observed=True,
)
PLANNED = PlannedCall(id=f"mcp_{SESSION}t1s1i0", server="payments", tool="refund", arguments='{"cents":500}')
POLICY = PolicyRuling(outcome="approve", policies=("refunds.cedar:3",), errors=("e",), version="v1", enforced=False)
ASKED = Asked(
    demanded_by="policy",
    principal="key_1",
    agent="clerk",
    expires_ms=1_791_676_860_000,
    policy_version="v1",
    key_id="k1",
    signature="c2ln",
)
TOOL = Tool(name="refund", description="Pays back", parameters={"type": "object"}, effect="idempotent")
SERVER = McpTool(
    server_label="payments",
    server_url="https://example.org/mcp",
    server_description="Pays",
    allowed_tools=("refund",),
    require_approval="never",
    always=("refund",),
    never=("look",),
)
AGENT = Agent(
    name="clerk",
    version="3",
    model="gpt-5",
    instructions="Be kind.",
    description="Answers",
    tools=(McpTool(server_label="payments"),),
    max_output_tokens=100,
    max_tool_calls=5,
)
LISTED = McpListTools(
    id=f"mcpl_{SESSION}t1s0i0",
    server_label="payments",
    tools=(ListedTool(name="refund", description="Pays back", input_schema={"type": "object"}, annotations={"a": 1}),),
    error="none",
)
HOSTED: tuple[Item, ...] = (
    LISTED,
    McpApprovalRequest(id=f"mcpr_{SESSION}t1s1i0", server_label="payments", name="refund", arguments="{}"),
    McpApprovalResponse(id="mcpa_1", approval_request_id=f"mcpr_{SESSION}t1s1i0", approve=True, reason="fine"),
    McpCall(
        id=PLANNED.id,
        server_label="payments",
        name="refund",
        arguments="{}",
        output="done",
        error=McpCallError(content="no"),
        approval_request_id=f"mcpr_{SESSION}t1s1i0",
        status="failed",
        content=(InputText(text="done"),),
    ),
    EffectResolution(id="efr_1", call_id=PLANNED.id, decision="committed", output="done"),
)

ANCHOR = Anchor(count=1, link=b"\x01link", at_ms=5, key=b"\x02key", signature=b"\x03signature")
LINK = Record(session="0123456789abcdefghjkmnpq", seq=2, at_ms=4, kind="prompt", leaf=b"\x04leaf", link=b"\x01link")
EVERY_BODY: tuple[e.Body, ...] = (
    e.TurnRequested(
        response_id=RESPONSE,
        turn=2,
        request=e.TurnRequest(model="agent/clerk", servers=(SERVER,)),
        input=HOSTED,
        agent=AGENT,
        traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
        answers=(Answer(id="mcpr_1", decision="approve", by="key_2", call=PLANNED, asked=ASKED),),
    ),
    e.ToolsListed(
        turn=1,
        servers=(
            ServerTools(label="payments", digest="d", tools=(TOOL,), data_zone="eu"),
            ServerTools(label="other", digest="e"),
        ),
        items=(LISTED,),
        number=2,
        output_index=1,
    ),
    e.EffectDispatched(
        turn=1,
        step=2,
        number=6,
        call=PLANNED,
        effect="idempotent",
        output_index=1,
        policy=POLICY,
        approval="mcpr_1",
        again=True,
    ),
    e.EffectCommitted(
        turn=1, step=2, number=10, id=PLANNED.id, output=(InputText(text="x"),), failed=True, read_back=True
    ),
    e.EffectFailed(turn=1, step=2, number=10, id=PLANNED.id, code="tool_timeout", message="slow"),
    e.EffectUnknown(turn=1, step=2, number=10, id=PLANNED.id, code="worker_lost", message="gone"),
    e.EffectRefused(
        turn=1,
        step=2,
        number=6,
        call=PLANNED,
        code="policy_denied",
        message="no",
        output_index=1,
        policy=POLICY,
    ),
    e.ApprovalRequested(
        turn=1, step=2, number=6, id="mcpr_1", call=PLANNED, asked=ASKED, output_index=1, policy=POLICY
    ),
    e.SessionCreated(kind="chain", metadata={"a": "b"}, parent=(RESPONSE, 7)),
    e.SessionCreated(kind="conversation"),
    e.SessionCreated(kind="system"),
    e.SessionUpdated(metadata={"a": "c"}),
    e.SessionDeleted(),
    e.ItemsAdded(items=INPUT),
    e.ItemDeleted(item_id="msg_1"),
    e.ResponseDeleted(response_id=RESPONSE),
    e.SessionQuarantined(crashes=3),
    e.TurnRequested(
        response_id=RESPONSE,
        turn=1,
        request=REQUEST,
        input=INPUT,
        limits=TurnLimits(steps_max=3, output_bytes_max=99),
        principal="key_1",
        sidecars=SIDECARS,
    ),
    e.TurnRequested(
        response_id=RESPONSE,
        turn=3,
        request=e.TurnRequest(model="m"),
        input=(),
        principal="key_1",
        user="ada",
        answers=(
            Answer(
                id="mcpr_2",
                decision="approve",
                by="key_2",
                by_another=True,
                call=PLANNED,
                asked=msgspec.structs.replace(ASKED, user="ada", server_url="https://pay.example/mcp"),
            ),
        ),
    ),
    e.TurnRequested(response_id=RESPONSE, turn=1, request=e.TurnRequest(model="m"), input=()),
    e.TurnRequested(response_id=RESPONSE, turn=1, request=e.TurnRequest(model="m"), input=(), shown_bytes=2048),
    e.TurnRequested(
        response_id=RESPONSE, turn=1, request=e.TurnRequest(model="m", store=False), input=(), from_session=True
    ),
    e.InputRejected(response_id=RESPONSE, code="conversation_locked", message="busy"),
    e.TurnResumed(owner="o", clean=True, progress=True),
    e.CancelRequested(response_id=RESPONSE),
    e.TurnCompleted(response_id=RESPONSE),
    e.TurnIncomplete(response_id=RESPONSE, reason="max_steps"),
    e.TurnFailed(response_id=RESPONSE, code="upstream_error", message="it is down"),
    e.TurnCancelled(response_id=RESPONSE),
    e.ModelCallStarted(turn=1, step=1, deployment="d", origin="openai-chat/openai", model="m", stream=False),
    e.ModelCallStarted(
        turn=1,
        step=1,
        deployment="d",
        origin="openai-chat/openai",
        model="m",
        passed=(Passed("b", "contract"), Passed("c", "behind")),
        verdict=Ruling(outcome="allow"),
        refused=(Refused("b", DENIAL),),
    ),
    e.Chunk(turn=1, step=1, first=2, ops=OPS),
    e.ModelCallFinished(
        turn=1,
        step=1,
        finish_reason="tool_calls",
        items=(REASONING, SAID, CALL),
        marks=MARKS,
        output_index=1,
        next_number=26,
        usage=Usage(input_tokens=4, output_tokens=3, cached_tokens=2, reasoning_tokens=1),
        sidecars=SIDECARS,
        upstream_id="up_1",
        upstream_model="m-2026",
        service_tier="default",
    ),
    e.ModelCallFailed(
        turn=1,
        step=1,
        code="rate_limited",
        message="slow down",
        retryable=True,
        retry_after_ms=1500,
        provider_status=429,
        items=(REASONING, SAID, CALL),
        marks=MARKS,
        output_index=1,
        next_number=26,
    ),
    e.TimerSet(turn=1, step=2, due_ms=1_800_000_000_000),
    e.TimerSet(
        turn=1,
        step=2,
        due_ms=1_800_000_000_000,
        passed=(Passed("a", "rpm", 1_800_000_000_000), Passed("b", "contract")),
        refused=(Refused("b", DENIAL),),
    ),
    e.TimerFired(turn=1, step=2),
    e.DeadlinePassed(turn=1),
    e.Snapshot(fold=1, state=msgspec.Raw(b'{"kind":"chain","created_at_ms":1,"turns":2}')),
    e.ModelCallStarted(
        turn=1, step=3, deployment="azure", origin="openai-chat/azure", model="gpt-5", reserved=RESERVED, priced=PRICED
    ),
    e.ModelCallFinished(turn=1, step=3, finish_reason="stop", charge=CHARGE),
    e.ModelCallFinished(turn=1, step=1, finish_reason="tool_calls", calls=(PLANNED,)),
    e.ModelCallFailed(
        turn=1, step=3, code="rate_limit_exceeded", message="slow down", retryable=True, unbilled=True, charge=NO_CHARGE
    ),
    e.TariffRecorded(tariff=TARIFF),
    e.StatelessCalls(
        started=(
            e.StatelessCallStarted(
                id="acme/0/1",
                tenant="acme",
                principal="k1",
                interface="chat",
                deployment="azure",
                model="gpt-5",
                passed=(Passed("b", "budget"),),
                verdict=DENIAL,
                refused=(Refused("b", DENIAL),),
                reserved=RESERVED,
                priced=PRICED,
            ),
            e.StatelessCallStarted(
                id="acme/1/1",
                tenant="acme",
                principal="k1",
                interface="chat",
                deployment="azure",
                model="gpt-5",
                counted=COUNTED,
            ),
        ),
        ended=(e.StatelessCallEnded(id="acme/0/1", usage=Usage(input_tokens=1), code="node_lost", charge=CHARGE),),
    ),
    e.KeyCreated(key_id="k1", tenant="acme", name="ci", hash="00ff", expires_at_ms=5),
    e.KeyRevoked(key_id="k1"),
    e.ModelCallStarted(turn=1, step=3, deployment="azure", origin="openai-chat/azure", model="gpt-5", counted=COUNTED),
    e.KeyCreated(
        key_id="k2", tenant="acme", name="desk", hash="01ff", scopes=("approve", "responses"), user="ann", agent="desk"
    ),
    e.SecretStored(
        tenant="acme", name="github", key_id="0123456789abcdef", wrapped=b"\x00w", sealed=b"\xffs", written_at_ms=7
    ),
    e.SecretRemoved(tenant="acme", name="github"),
    e.AuditSalted(tenant="acme", session="0123456789abcdefghjkmnpq", salt=b"\x00salt"),
    e.AuditKept(tenant="acme", session="0123456789abcdefghjkmnpq", anchor=ANCHOR),
    e.AuditKept(tenant="acme", session="0123456789abcdefghjkmnpq", anchor=ANCHOR, records=(LINK,), erased=True),
)
