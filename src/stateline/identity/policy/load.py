"""From a folder to policies in force: parsed, named and validated, or refused with all that is wrong."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from stateline.core.limits import POLICIES_MAX, POLICY_NAME_CHARS_MAX
from stateline.identity.policy import cedar, files
from stateline.identity.policy.errors import PolicyError, Problem
from stateline.identity.policy.mentions import Mentions
from stateline.identity.policy.rule import CedarPolicy
from stateline.identity.policy.schema import Policy, Shapes, problems
from stateline.identity.policy.shapes import Record, SchemaProblem, declared


def load_policy(path: Path, *, mode: Literal["enforce", "log_only"] = "enforce") -> CedarPolicy:
    """The policies of a folder.

    Raises:
        PolicyError: ``policy_unreadable`` or ``policy_invalid``; nothing has changed.
    """
    sources = files.read_folder(path)
    statements = [each for name, text in sources.files for each in files.split(name, text)]
    if len(statements) > POLICIES_MAX:
        raise PolicyError([Problem(sources.folder, 0, f"more than {POLICIES_MAX} policies")], code="policy_unreadable")
    tools, found = _declared(sources)
    policies: list[Policy] = []
    for statement in statements:
        policy, message = _parsed(statement)
        if policy is None:
            found.append(Problem(sources.place(statement.file), statement.line, message))
        else:
            policies.append(policy)
    found += _taken(policies, sources)
    if not found:
        found = _validated(policies, tools, sources)
    if found:
        raise PolicyError(found)
    return CedarPolicy(Shapes(policies, tools), version=_version(sources), enforced=mode == "enforce")


def _version(sources: files.Sources) -> str:
    digest = sha256()
    for name, text in (*sources.files, (files.SCHEMA, sources.schema or "")):
        for part in (name, text):
            data = part.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]


def _declared(sources: files.Sources) -> tuple[dict[str, Record], list[Problem]]:
    if sources.schema is None:
        return {}, []
    place = sources.place(files.SCHEMA)
    try:
        tools = declared(sources.schema)
        cedar.parse_schema(sources.schema)
    except SchemaProblem as problem:
        return {}, [Problem(place, problem.line, str(problem))]
    except ValueError as error:
        return {}, [Problem(place, 0, str(error))]
    return tools, []


def _parsed(statement: files.Statement) -> tuple[Policy | None, str]:
    """A policy, or what is wrong with it."""
    try:
        parsed = cedar.to_json(statement.text)
        if parsed["templates"]:
            return None, "a template permits nothing until it is linked, which nobody does here; write out who and what"
        (policy,) = parsed["staticPolicies"].values()
        name = _name(policy, statement)
        if name is None:
            return None, f"@id has 1 to {POLICY_NAME_CHARS_MAX} printable characters"
        return Policy(statement, name, policy, Mentions(policy)), ""
    except ValueError as error:
        return None, str(error)
    except RecursionError:
        return None, "nested too deep"


def _name(policy: dict[str, Any], statement: files.Statement) -> str | None:
    """Its own, or its place; None where its own is no name."""
    annotations = policy.get("annotations", {})
    if "id" not in annotations:
        return statement.name
    name = annotations["id"] or ""
    return name if 0 < len(name) <= POLICY_NAME_CHARS_MAX and name.isprintable() else None


def _taken(policies: list[Policy], sources: files.Sources) -> list[Problem]:
    counts = Counter(each.name for each in policies)
    return [
        Problem(sources.place(each.statement.file), each.statement.line, f'the name "{each.name}" is taken')
        for each in policies
        if counts[each.name] > 1
    ]


def _validated(policies: list[Policy], tools: dict[str, Record], sources: files.Sources) -> list[Problem]:
    shapes = Shapes(policies, tools)
    schema_of = lru_cache(maxsize=None)(cedar.parse_schema)
    found: list[Problem] = []
    for policy in policies:
        try:
            messages = list(problems(policy, shapes, schema_of))
        except ValueError as error:
            messages = [str(error)]
        statement = policy.statement
        found += [Problem(sources.place(statement.file), statement.line, each) for each in messages]
    return found
