"""What a predicate may say: anything else is refused before it could silently never apply."""

from __future__ import annotations

import pytest

from stateline.contracts.errors import PredicateError
from stateline.contracts.predicates import compile_predicate
from stateline.core.limits import PREDICATE_CHARS_MAX, PREDICATE_DEPTH_MAX

GOOD = [
    "true",
    "!(deployment.cloud in ['aws'])",
    '"azure" in product.shipped_on || !("azure" in product.declined_by)',
    "[1, 2][0] == 1 && product.shipped_on[0] == 'azure'",
    "[deployment.cloud, 'aws'][1] == deployment.cloud",
    '["aws", "azure"].exists(c, c == deployment.cloud)',
    'product.shipped_on.filter(c, c != "aws").size() > 0',
    'product.shipped_on.map(c, c + "x") == ["azurex"]',
    "product.shipped_on.all(c, c.startsWith('a'))",
    'model.name.startsWith("gpt") && size(model.name) < 10 // a comment',
    'at < timestamp("2026-04-27T00:00:00Z") && at.getFullYear() == 2026',
    'at - timestamp("2026-04-27T00:00:00Z") < duration("1h")',
    "has(model.family) ? model.family == 'x' : deployment.region == r'a\\d'",
    '(true ? "aws" : "azure") == deployment.cloud',
    '(true ? deployment.cloud : model.vendor) == "aws"',
    "(true ? 1 : 'a') == 'a'",
    "(true ? [1] : ['a']) == [1]",
    "-1 + 2 * 3 == 5 && 0x1f == 31 && 1.5e3 > 2u",
    "1/0 == 1",
    "[] == product.shipped_on && null == null",
    "principal.tenant in ['t']",
    "'a' in (true ? product.shipped_on : 1)",
    "!model.vendor",
    "(1)[0] == 1",
    "'a' + 'b' == 'ab' && ('a' + 1) == 'a'",
    "matches(model.name, 'a')",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_can_be_checked_is_compiled(text: str) -> None:
    assert compile_predicate(text).text == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('false && model.vender == "x"', 'did you mean "vendor"'),
        ('true || modle.vendor == "x"', 'did you mean "model"'),
        ('model["vendor"] == "x"', "cannot be checked"),
        ("model == product", "no fact by itself"),
        ('"x" == model.vendor.name', "fields"),
        ("at.day == 1", "fields"),
        ("model.vendor == 1", "compared"),
        ("1 in product.shipped_on", "compared"),
        ("deployment.cloud in [1]", "compared"),
        ('deployment.cloud in ["aws", 1]', "different types"),
        ("model.vendor == null", "compared"),
        ('at > "2026-01-01"', "compared"),
        ('at.getFullYear() == "2026"', "compared"),
        ('"a" in model.vendor', "looks into a list"),
        ('deployment.cloud == "AWS"', 'did you mean "aws"'),
        ('"asw" != deployment.cloud', 'did you mean "aws"'),
        ('(deployment.cloud) in ["aws", "gcp"]', "cannot be"),
        ('workload.kind == "statefull"', 'did you mean "stateful"'),
        ('["asw"].exists(c, c == deployment.cloud)', "cannot be"),
        ('(true ? "asw" : "aws") == deployment.cloud', "cannot be"),
        ('["asw"][0] == deployment.cloud', "cannot be"),
        ('"asw" in [deployment.cloud]', "cannot be"),
        ('["asw"].filter(c, true).exists(d, d == deployment.cloud)', "cannot be"),
        ('["asw"].map(c, c).exists(d, d == deployment.cloud)', "cannot be"),
        ("nothing", "no fact"),
        ("now() == at", "no function"),
        ("model.vendor.reverse() == 'x'", "no function"),
        ("[1].exists(at, true)", "a name already"),
        ("[1].exists(model, true)", "a name already"),
        ("[[1]].exists(x, x.exists(x, true))", "a name already"),
        ("[1].exists(1, true)", "a name was expected"),
        ("[1].exists(x true)", "was expected"),
        ('model.vendor == "a\\n"', "backslashes"),
        ("model.vendor ==", "was expected"),
        ("", "was expected"),
        ("a b", "no fact"),
        ("true true", "was expected"),
        ("true #", "cannot be read"),
        ("{}", "cannot be read"),
        ("0xfu == 1u ? true : 99999999999999999999 == 1", "not valid CEL"),
        ("(" * PREDICATE_DEPTH_MAX + "true" + ")" * PREDICATE_DEPTH_MAX, "deep"),
        ("true" + " " * PREDICATE_CHARS_MAX, "longer"),
    ],
)
def test_what_could_silently_never_apply_is_refused(text: str, word: str) -> None:
    with pytest.raises(PredicateError, match=word):
        compile_predicate(text)


def test_a_predicate_that_speaks_of_the_instant_says_so() -> None:
    assert compile_predicate("at == at").timed
    assert not compile_predicate("'at' == 'at'").timed
