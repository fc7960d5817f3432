"""Recorded placements under other contracts: what becomes of each, and what is said where nobody can know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.contracts.build import clause, contract, loaded

from stateline.contracts import parse_at
from stateline.contracts.replay import Replay, Replayed, Tally
from stateline.core.ids import SessionRef
from stateline.core.placed import Placed
from stateline.core.placing import Passed, Refused, Ruling, Why, responses_call
from stateline.ports import Deployment, Product

NO_AWS = contract(clause("no-aws", 'deployment.cloud == "aws"'))
NO_AZURE = contract(clause("no-azure", 'deployment.cloud == "azure"'))
NOWHERE = contract(clause("none", 'model.vendor == "openai"'))
NOTHING = contract(clause("other", 'model.vendor == "nobody"'))
TWO_READINGS = contract(
    "  - id: split\n    kind: exclusivity\n    readings:\n"
    "      - {id: all, held_by: [azure], deny: 'deployment.cloud == \"aws\"'}\n"
    '      - {id: bare, held_by: [aws], deny: \'deployment.cloud == "aws" && workload.kind == "stateless"\'}\n'
)
REFUSAL = Ruling(outcome="deny", resolved="deny", clause="c/old")
FINE = Ruling(outcome="allow")
AT_MS = 1_773_800_000_000  # 2026-03-18


def place(name: str, cloud: str = "", **options: Any) -> Deployment:
    given: dict[str, Any] = {"model": "m", "format": "openai-chat", "base_url": "", "vendor": "openai", **options}
    return Deployment(name=name, cloud=cloud or name, upstream_model=name, **given)


AWS, AZURE, GOOGLE = place("aws", priority=1), place("azure", priority=2), place("google", priority=3)


def placed(where: str | None, *passed: tuple[str, Why], verdict: Ruling | None = FINE, **changes: Any) -> Placed:
    refused = tuple(Refused(name, REFUSAL) for name, why in passed if why == "contract")
    return Placed(
        session=SessionRef("t", "s"), turn=1, step=2, response_id="r", at_ms=AT_MS, model="m",
        call=responses_call("t", "anonymous", stateful=True, service_tier=None), affinity="s",
        deployment=where, origin=None if where is None else f"openai-chat/{where}", verdict=verdict,
        passed=tuple(Passed(*each) for each in passed), refused=refused,
    )._replace(**changes)  # fmt: skip


def replayed(
    one: Placed, *texts: str, places: tuple[Deployment, ...] = (AWS, AZURE, GOOGLE), **options: Any
) -> Replayed:
    return Replay(loaded(*texts), places, **options).of(one)


def test_what_is_allowed_still_stays_where_it_was_with_both_verdicts() -> None:
    row = replayed(placed("aws", ("azure", "behind")), NOTHING)
    assert (row.id, row.result, row.about, row.before, row.after) == ("s/1/2", "same", "aws", FINE, FINE)
    assert (row.to, row.missing, row.unproven) == (None, None, False)


def test_what_is_denied_now_moves_to_the_next_that_took_calls_then() -> None:
    row = replayed(placed("aws", ("azure", "rate_limited"), ("google", "behind")), NO_AWS)
    assert (row.result, row.to, row.about, row.unproven) == ("moved", "google", "aws", False)
    assert row.after is not None
    assert (row.after.outcome, row.after.clause, row.after.readings) == ("deny", "c/no-aws", (("r", "deny"),))


def test_a_deployment_that_is_denied_as_well_is_passed_over() -> None:
    row = replayed(placed("aws", ("azure", "behind"), ("google", "behind")), NO_AWS, NO_AZURE.replace("c\n", "d\n", 1))
    assert (row.result, row.to) == ("moved", "google")


def test_what_is_denied_everywhere_is_denied() -> None:
    row = replayed(placed("aws", ("azure", "behind")), NOWHERE)
    assert (row.result, row.to) == ("denied", None)
    assert replayed(placed("aws"), NO_AWS).result == "denied"


def test_what_is_allowed_elsewhere_where_no_call_was_taken_waits() -> None:
    row = replayed(placed("aws", ("azure", "rate_limited"), ("google", "circuit_open")), NO_AWS)
    assert (row.result, row.to) == ("waits", None)


def test_a_call_waits_at_the_first_that_was_merely_full() -> None:
    row = replayed(placed("aws", ("azure", "max_concurrency"), ("google", "max_concurrency")), NO_AWS)
    assert (row.result, row.to) == ("moved", "azure")


def test_what_a_contract_kept_out_then_and_goes_first_takes_the_call_unproven() -> None:
    row = replayed(placed("azure", ("aws", "contract"), ("google", "behind")), NOTHING)
    assert (row.result, row.to, row.about, row.unproven) == ("moved", "aws", "aws", True)
    assert (row.before, row.after) == (REFUSAL, FINE)
    # Kept out now as well, or behind the chosen one by the record or by its priority.
    assert replayed(placed("azure", ("aws", "contract")), NO_AWS).result == "same"
    assert replayed(placed("azure", ("google", "behind"), ("aws", "contract")), NOTHING).result == "same"
    assert replayed(placed("azure", ("google", "contract")), NOTHING).result == "same"
    assert replayed(placed("azure", ("aws", "failed")), NOTHING).result == "same"


def test_a_denied_call_may_move_to_what_was_kept_out_and_says_that_nobody_looked() -> None:
    row = replayed(placed("azure", ("aws", "contract"), ("google", "behind")), NO_AZURE)
    assert (row.result, row.to, row.unproven) == ("moved", "aws", True)


def test_where_priorities_were_others_then_nobody_can_say_who_goes_first() -> None:
    row = replayed(placed("azure", ("google", "contract"), ("aws", "rate_limited")), NOTHING)
    assert (row.result, row.missing) == ("not_known", "priorities or weights were others then")


def test_a_call_that_waited_goes_where_it_is_let_in_now() -> None:
    waited = placed(None, ("aws", "contract"), ("azure", "rate_limited"), verdict=None)
    row = replayed(waited, NOTHING)
    assert (row.deployment, row.result, row.to, row.unproven) == (None, "allowed", "aws", True)
    assert (row.before, row.after) == (REFUSAL, FINE)
    assert replayed(waited, NO_AWS).result == "same"
    assert replayed(waited, NOWHERE).result == "denied"
    assert replayed(waited, NOTHING, places=(AZURE,)).missing == "aws is not configured"


def test_a_posture_decides_what_is_contested() -> None:
    one = placed("aws", ("azure", "behind"))
    assert replayed(one, TWO_READINGS).result == "moved"
    row = replayed(one, TWO_READINGS, posture="aws")
    assert (row.result, row.to) == ("contested", None)
    assert row.after is not None
    assert (row.after.outcome, row.after.resolved, row.after.posture) == ("contested", "allow", "aws")
    again = replayed(one._replace(verdict=row.after), TWO_READINGS, posture="aws")
    assert again.result == "same"
    assert replayed(one._replace(verdict=None), TWO_READINGS, posture="aws").result == "contested"


def test_each_is_judged_at_its_own_time_unless_one_is_given() -> None:
    ends = contract(clause("no-aws", 'deployment.cloud == "aws"', rest="effective: {from: 2026-06-01}"))
    assert replayed(placed("aws"), ends).result == "same"
    assert replayed(placed("aws"), ends, at=parse_at("2026-06-01")).result == "denied"


def test_what_is_only_observed_stays() -> None:
    row = replayed(placed("aws"), NO_AWS, mode="observe")
    assert row.result == "same"
    assert row.after is not None
    assert row.after.observed


@pytest.mark.parametrize(
    ("places", "missing"),
    [
        ((AZURE,), "aws is not configured"),
        ((place("aws", model="other"),), "aws is configured for another model"),
        ((place("aws", cloud="azure"),), "aws was openai-chat/aws, and is openai-chat/azure"),
    ],
)
def test_a_deployment_of_which_the_facts_are_gone_is_not_guessed_at(
    places: tuple[Deployment, ...], missing: str
) -> None:
    row = replayed(placed("aws"), NOTHING, places=places)
    assert (row.result, row.missing, row.after) == ("not_known", missing, None)


def test_what_is_not_known_of_others_matters_only_where_they_may_take_the_call() -> None:
    def of(*passed: tuple[str, Why]) -> Replayed:
        return replayed(placed("aws", *passed), NO_AWS, places=(AWS, AZURE))

    assert of(("azure", "behind"), ("gone", "behind")).to == "azure"
    assert of(("gone", "behind"), ("azure", "behind")).missing == "gone is not configured"
    # It took no calls then: it is passed over, and only whether the call is denied or waits is open.
    assert of(("gone", "rate_limited"), ("azure", "behind")).to == "azure"
    assert of(("gone", "rate_limited"), ("lost", "tpm")).missing == "gone is not configured"
    assert of(("gone", "rate_limited"), ("azure", "tpm")).result == "waits"
    assert of(("gone", "rate_limited"), ("azure", "max_concurrency")).result == "not_known"
    kept_out = replayed(placed("aws", ("gone", "contract")), NOTHING, places=(AWS,))
    assert (kept_out.result, kept_out.missing) == ("not_known", "gone is not configured")


def test_a_tally_counts_results_clauses_moves_and_what_is_missing() -> None:
    tally = Tally()
    one = placed("aws", ("azure", "behind"))
    for row in (
        replayed(one, NOTHING),
        replayed(one, NO_AWS),
        replayed(one, TWO_READINGS, posture="aws"),
        replayed(one, NO_AWS, mode="observe"),
        replayed(one, NO_AWS, places=()),
        replayed(placed("azure", ("aws", "contract")), NOTHING),
        replayed(placed(None, ("aws", "contract")), NOTHING),
    ):
        tally.add(row)
    assert dict(tally.results) == {"same": 2, "moved": 2, "contested": 1, "not_known": 1, "allowed": 1}
    assert dict(tally.clauses) == {"c/no-aws": 1, "c/split": 1}
    assert dict(tally.moves) == {("aws", "azure"): 1, ("azure", "aws"): 1}
    assert dict(tally.missing) == {"aws is not configured": 1}
    assert (tally.observed, tally.unproven) == (1, 2)


def test_clauses_may_ask_what_a_deployment_serves_and_where_it_was_shipped() -> None:
    shipped = contract(clause("ship", 'product.name == "p" && !("aws" in product.shipped_on)'))
    for clouds, result in (((), "denied"), (("aws",), "same")):
        at = place("aws", product=Product(name="p", shipped_on=clouds))
        assert replayed(placed("aws"), shipped, places=(at,)).result == result


def test_a_row_is_plain_json() -> None:
    shown = msgspec.json.decode(msgspec.json.encode(replayed(placed("aws", ("azure", "behind")), NO_AWS)))
    assert shown["after"] == {
        "outcome": "deny", "resolved": "deny", "clause": "c/no-aws", "readings": [["r", "deny"]]
    }  # fmt: skip
