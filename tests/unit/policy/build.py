"""Folders of policies, and calls to ask about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stateline.core.tools import PolicyRequest
from stateline.identity.policy import CedarPolicy, PolicyError, load_policy

SPENDING = (
    'permit(principal, action, resource == Tool::"payments/refund") when { context.arguments.amount_cents <= 5000 && '
    "context.history.sum.amount_cents + context.arguments.amount_cents <= 20000 };"
)


def folder_of(folder: Path, text: str = "", schema: str | None = None, **files: str) -> Path:
    """`text` is a.cedar; others by their names without the ending."""
    folder.mkdir(exist_ok=True)
    for name, content in {"a": text, **files}.items():
        (folder / f"{name}.cedar").write_text(content)
    if schema is not None:
        (folder / "schema.cedarschema").write_text(schema)
    return folder


def loaded(folder: Path, text: str, schema: str | None = None) -> CedarPolicy:
    return load_policy(folder_of(folder / "policies", text, schema))


def refused(folder: Path, text: str = "", schema: str | None = None, **files: str) -> list[str]:
    """The problems, each without the folder."""
    try:
        load_policy(folder_of(folder / "policies", text, schema, **files))
    except PolicyError as error:
        found = error
    else:
        return []
    assert found.code == "policy_invalid"
    assert str(found).startswith(str(found.problems[0]))
    return [str(each).removeprefix(f"{folder}/policies/") for each in found.problems]


def call(**changes: Any) -> PolicyRequest:
    """Alice asks for a refund of 3.00, by no agent."""
    fields: dict[str, Any] = {
        "tenant": "acme",
        "principal": "alice",
        "agent": "",
        "server": "payments",
        "tool": "refund",
        "effect": "unsafe",
        "arguments": {"amount_cents": 300},
    }
    return PolicyRequest(**{**fields, **changes})
