"""What a bare call did, as spans: one of the request, and one of each try, side by side under it."""

from __future__ import annotations

from stateline.core.call_spans import BareCall, BareTry, call_spans
from stateline.core.calls import Finish, Usage
from stateline.core.placing import Ruling

CALLER = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
DENIED = Ruling(outcome="contested", clause="c/exclusive")


def call(*tries: BareTry, interface: str = "chat", stream: bool = True, traceparent: str = CALLER) -> BareCall:
    return BareCall(
        key="t/1",
        tenant="t",
        interface=interface,
        model="gpt-5",
        stream=stream,
        traceparent=traceparent,
        began_ms=1000,
        ended_ms=1900,
        first_ms=1500,
        tries=list(tries),
    )


def one(deployment: str = "a", began_ms: int = 1010, ruling: Ruling | None = None) -> BareTry:
    return BareTry(deployment=deployment, origin="openai-chat/azure", began_ms=began_ms, ruling=ruling)


def test_tries_are_siblings_under_the_call_which_is_a_child_of_its_callers_span() -> None:
    lost, kept = one("a"), one("b", 1200, DENIED)
    lost.failed("upstream_error", None, 1100)
    kept.first_ms = 1500
    kept.answered(
        Finish(
            reason="stop",
            usage=Usage(input_tokens=3, output_tokens=2),
            upstream_id="u",
            upstream_model="gpt-5-1",
        ),
        1800,
    )
    first, second, whole = call_spans(call(lost, kept))
    assert {each.trace_id for each in (first, second, whole)} == {"0123456789abcdef0123456789abcdef"}
    assert (whole.kind, whole.name, whole.parent_id) == ("server", "stateline.call", "0123456789abcdef")
    assert first.parent_id == second.parent_id == whole.span_id
    assert len({first.span_id, second.span_id, whole.span_id}) == 3
    assert (first.error, first.start_ms, first.end_ms) == ("upstream_error", 1010, 1100)
    assert (second.name, second.kind, second.error) == ("chat gpt-5", "client", None)
    assert (second.start_ms, second.first_ms, second.end_ms) == (1200, 1500, 1800)
    assert second.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "azure.ai.openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.id": "u",
        "gen_ai.response.model": "gpt-5-1",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "stateline.clause": "c/exclusive",
        "stateline.deployment": "b",
        "stateline.try": 2,
        "stateline.verdict": "contested",
    }
    assert whole.attributes["stateline.tries"] == 2
    assert whole.attributes["gen_ai.usage.output_tokens"] == 2


def test_a_call_without_a_callers_trace_has_one_of_its_own() -> None:
    asked = call(interface="embeddings", stream=False, traceparent="")
    asked.code = "model_not_found"
    (whole,) = call_spans(asked)
    assert (whole.trace_id, whole.span_id) == asked.trace
    assert (len(whole.trace_id), len(whole.span_id), whole.parent_id) == (32, 16, "")
    assert (whole.error, whole.first_ms) == ("model_not_found", 0)
    assert whole.attributes["gen_ai.operation.name"] == "embeddings"


def test_a_try_that_was_not_streamed_has_no_first_words_and_an_allowing_verdict_no_clause() -> None:
    quiet = one(ruling=Ruling(outcome="allow"))
    quiet.first_ms = 1500
    told, _ = call_spans(call(quiet, stream=False))
    assert (told.first_ms, told.end_ms) == (0, 1900)
    assert told.attributes["stateline.verdict"] == "allow"
    assert "stateline.clause" not in told.attributes
