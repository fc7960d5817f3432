"""Which policies are put in force, and what is said of the others: file, line and one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.policy.build import SPENDING, call, folder_of, loaded, refused

from stateline.core import limits
from stateline.identity.policy import PolicyError, load_policy

ANY = "permit(principal, action, resource)"
REFUND = '@tool("payments/refund") type Refund = { amount_cents: Long, note?: String };'


def test_an_empty_folder_permits_nothing(tmp_path: Path) -> None:
    ruling = load_policy(folder_of(tmp_path / "p")).rule(call())
    assert (ruling.outcome, ruling.policies, ruling.errors) == ("deny", (), ())


def test_files_are_found_in_folders_and_hidden_ones_are_not(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, f"{ANY};")
    for name in ("more", ".git"):
        (folder / name).mkdir()
        (folder / name / "b.cedar").write_text(f'// One "more;\n\n{ANY};')
    assert load_policy(folder).names == ["a.cedar:1", "more/b.cedar:3"]


def test_a_policy_is_named_by_its_id_or_by_its_place(tmp_path: Path) -> None:
    policy = loaded(tmp_path, f'\ufeff@id("first") {ANY}; {ANY}\nwhen {{ "a;//" == ";" }};\n// An end;\n{ANY};')
    assert policy.names == ["first", "a.cedar:1.2", "a.cedar:4"]


def test_the_version_changes_with_every_file(tmp_path: Path) -> None:
    texts = [{"text": f"{ANY};"}, {"text": f"{ANY}; "}, {"text": "", "b": f"{ANY};"}]
    found = [load_policy(folder_of(tmp_path / str(at), **each)).version for at, each in enumerate(texts)]
    found.append(load_policy(folder_of(tmp_path / "s", f"{ANY};", REFUND)).version)
    assert len(set(found)) == 4
    assert load_policy(folder_of(tmp_path / "again", f"{ANY};"), mode="log_only").version == found[0]


def test_the_rule_that_a_platform_engineer_writes_first_is_valid_without_a_schema(tmp_path: Path) -> None:
    assert refused(tmp_path, SPENDING) == []
    assert refused(tmp_path, SPENDING, REFUND) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{ANY};\n\n{ANY} when {{ context.x + }};", "a.cedar:3: unexpected token `}`"),
        (f'{ANY} when {{ "never ends }};', "a.cedar:1: invalid token"),
        (f"{ANY}", "a.cedar:1: unexpected end of input"),
        ("permit(principal == ?principal, action, resource);", "a.cedar:1: a template permits nothing"),
        (f'@id("a") {ANY};\n@id("a") {ANY};', 'a.cedar:1: the name "a" is taken'),
        (f"@id {ANY};", "a.cedar:1: @id has 1 to 128 printable characters"),
        (f'@id("{"x" * 129}") {ANY};', "a.cedar:1: @id has 1 to 128 printable characters"),
        (f'@id("a\\nb") {ANY};', "a.cedar:1: @id has 1 to 128 printable characters"),
        (f'{ANY} when {{ principal.nam == "x" }};', "a.cedar:1: attribute `nam` on entity type `Agent` not found"),
        (
            f"{ANY} when {{ context.aproved }};",
            'a.cedar:1: attribute `aproved` in context for Action::"call" not found',
        ),
        (f"{ANY} when {{ context.history.call > 1 }};", "a.cedar:1: attribute `history.call` in context"),
        ('permit(principal == Team::"x", action, resource);', "a.cedar:1: unrecognized entity type `Team`"),
        ('permit(principal, action == Action::"cal", resource);', 'a.cedar:1: unrecognized action `Action::"cal"`'),
        ('permit(principal, action, resource == Server::"x");', "a.cedar:1: unable to find an applicable action"),
        (f'{ANY} when {{ context.user == User::"a/b" }};', "a.cedar:1: unable to guarantee safety of access"),
        (
            f'{ANY} when {{ resource.effect == "raed" }};',
            "a.cedar:1: resource.effect is one of read, idempotent, unsafe",
        ),
        (f'{ANY} when {{ ["save"].contains(resource.effect) }};', 'and never "save"'),
        (f"{ANY} when {{ {'(' * 99}true{')' * 99} }};", ""),
        (f"{ANY} when {{ {'&&'.join(['true'] * 4000)} }};", "a.cedar:1: nested too deep"),
        # Names that nobody has: what forbids them something would forbid nothing.
        (
            'forbid(principal == User::"alice", action, resource);',
            'a.cedar:1: User::"alice" is nobody: write User::"TENANT',
        ),
        ('permit(principal == Agent::"acme/", action, resource);', 'a.cedar:1: Agent::"acme/" is nobody'),
        ('forbid(principal, action, resource == Tool::"refund");', 'a.cedar:1: Tool::"refund" is no tool'),
        ('forbid(principal, action, resource is Tool in Server::"a/b");', 'a.cedar:1: Server::"a/b" is none'),
        ('permit(principal in Tenant::"", action, resource);', 'a.cedar:1: Tenant::"" is none'),
        (f'{ANY} when {{ [User::"a/b", User::"c"].contains(principal) }};', 'User::"c" is nobody'),
        (f'{ANY} when {{ principal == Key::"acme/ci" }};', 'Key::"acme/ci" is nobody: a Key is named by its id'),
        (f'{ANY} when {{ principal == User::"acme/key_0123456789abcdef" }};', "is nobody: that is a key"),
        (f'{ANY} when {{ context.history.tools.contains(Tool::"x") }};', 'Tool::"x" is no tool'),
        # What one policy takes for a number, another cannot take for a text.
        (
            f'{ANY} when {{ context.arguments.n < 5 }};\n{ANY} when {{ context.arguments.n == "a" }};',
            "a.cedar:2: the types Long and String are not compatible",
        ),
        # A slip of the pen in a sum would stand at nothing for ever.
        (
            f"{ANY} when {{ context.history.sum.amuont + context.arguments.amount < 5 }};",
            "a.cedar:1: context.history.sum.amuont: no policy for tools that no policy names reads",
        ),
        (
            f"{ANY} when {{ context.arguments has n && context.arguments.n < 5 || context.arguments.n == 7 }};",
            "a.cedar:1: unable to guarantee safety of access to optional attribute `arguments.n`",
        ),
    ],
)
def test_a_policy_that_does_not_hold_is_refused_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    found = refused(tmp_path, text)
    assert bool(found) == bool(problem)
    assert not found or problem in found[0], found


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    found = refused(tmp_path, f"{ANY};{ANY} when {{", b=f"\n{ANY} when {{ }}; permit", schema="type A = ")
    assert [each.split(": ")[0] for each in found] == ["schema.cedarschema:1", "a.cedar:1", "b.cedar:2", "b.cedar:2"]


def test_a_general_policy_is_held_against_each_tool_whose_arguments_are_declared(tmp_path: Path) -> None:
    text = f'{ANY} when {{ context.arguments has amount_cents && context.arguments.amount_cents == "x" }};'
    (problem,) = refused(tmp_path, text, REFUND)
    assert problem == "a.cedar:1: the types Long and String are not compatible (for payments/refund)"


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("context.arguments.amount_cents < 5", ""),
        ('context.arguments has note && context.arguments.note like "a*"', ""),
        ('context.arguments.note like "a*"', "unable to guarantee safety of access to optional attribute"),
        ('context.arguments.amount_cents == "5"', "the types Long and String are not compatible"),
        ("context.arguments.amuont_cents < 5", "attribute `arguments.amuont_cents` in context"),
        ("context.arguments has amuont && true", "the schema declares no such argument of payments/refund"),
        ("context.history.sum.amount_cents < 5", ""),
        ("context.history.sum.note < 5", "attribute `history.sum.note` in context"),
    ],
)
def test_declared_arguments_find_what_is_misspelt(tmp_path: Path, condition: str, problem: str) -> None:
    text = f'permit(principal, action, resource == Tool::"payments/refund") when {{ {condition} }};'
    found = refused(tmp_path, text, REFUND)
    assert bool(found) == bool(problem)
    assert not found or problem in found[0], found


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("entity User;", 'schema.cedarschema:1: "entity" cannot stand here'),
        ("\n\nnamespace A { type B = Long; }", 'schema.cedarschema:3: "namespace" cannot stand here'),
        ('action "call";', 'schema.cedarschema:1: "action" cannot stand here'),
        ('@tool("a/b") type A = { who: User };', 'schema.cedarschema:1: "User" is no type of an argument'),
        ('@tool("a/b") type A = { who: __cedar::Long };', 'schema.cedarschema:1: "__cedar" is no type of an argument'),
        ("type A = { b: B };\ntype B = { a: Set<A> };", "contains itself"),
        ('@tool("a/b") type A = Long;', 'the arguments of "a/b" are a record, and A is not'),
        (
            '@tool("a/b") type A = {};\n@tool("a/b") type B = {};',
            'schema.cedarschema:2: the tool "a/b" is declared twice',
        ),
        ('@tool("refund") type A = {};', "schema.cedarschema:1: @tool names a tool"),
        ("@tool type A = {};", "schema.cedarschema:1: @tool names a tool"),
        ('@tool("\\u{61}/b") type A = {};', "is not a plain string"),
        ("type A = { b Long };", 'schema.cedarschema:1: "Long" where ":" was expected'),
        ("type A = { b: Boolean };", 'schema.cedarschema:1: "Boolean" is no type of an argument'),
        ("type A = {}", "schema.cedarschema: error parsing schema"),
        ("type A = {}; type A = {};", "schema.cedarschema: error parsing schema"),
        (f"type A = {'Set<' * 40}Long{'>' * 40};", "nested more than 32 deep"),
        ('type A = { "a b"?: Set<B>, @doc("x") c: decimal, };\n// Words.\ntype B = { n: Bool };', ""),
        ('@doc("x") @tool("a/b") type A = B;\ntype B = { d: datetime };', ""),
    ],
)
def test_a_schema_declares_arguments_and_nothing_else(tmp_path: Path, schema: str, problem: str) -> None:
    found = refused(tmp_path, schema=schema)
    assert bool(found) == bool(problem)
    assert not found or problem in found[0], found


def test_what_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    for path, reason in {
        tmp_path / "none": "no such folder",
        folder_of(tmp_path / "big", "x" * (limits.POLICY_FILE_BYTES_MAX + 1)): "larger than",
        folder_of(tmp_path / "many", f"{ANY};\n" * (limits.POLICIES_MAX + 1)): "more than 1000 policies",
        folder_of(tmp_path / "f", **{f"f{n}": "" for n in range(limits.POLICY_FILES_MAX)}): "more than 200 files",
    }.items():
        with pytest.raises(PolicyError, match=reason) as caught:
            load_policy(path)
        assert caught.value.code == "policy_unreadable"
    (tmp_path / "big" / "a.cedar").write_bytes(b"\xff")
    with pytest.raises(PolicyError, match="not UTF-8"):
        load_policy(tmp_path / "big")
    (tmp_path / "big" / "a.cedar").unlink()
    (tmp_path / "big" / "a.cedar").mkdir()
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "big")
