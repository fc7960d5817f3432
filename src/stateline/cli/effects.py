"""`stateline effects`: what agents did, and what a person says of a call whose outcome is not known."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated, Any

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, print_json
from stateline.cli._server import (
    KEY_ENV,
    KeyOption,
    LimitOption,
    SessionOption,
    UrlOption,
    checked_id,
    find_server,
    moment,
    policy_line,
    print_answer,
    print_fields,
    print_table,
)
from stateline.core.errors import BadRequest

app = command_app("See what agents did, and say what became of a call, on the server that runs.")

Shown = dict[str, Any]
_PATH = "/v1/effects"
IdArgument = Annotated[str, typer.Argument(help="As `stateline effects list` shows it: mcp_…")]


class Decision(Enum):
    """What a person says of a call whose outcome is not known."""

    COMMITTED = "committed"
    ABANDONED = "abandoned"
    RETRY = "retry"


@app.command("list")
def list_effects(
    *,
    status: Annotated[str | None, typer.Option("--status", help="unknown, committed, failed, dispatched …")] = None,
    principal: Annotated[str | None, typer.Option("--principal", help="For whom: a key's id, user:NAME.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="By which agent.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Which model wanted it.")] = None,
    deployment: Annotated[str | None, typer.Option("--deployment", help="Of which deployment.")] = None,
    server_label: Annotated[str | None, typer.Option("--server", help="Of which tool server.")] = None,
    name: Annotated[str | None, typer.Option("--tool", help="Of which tool.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="By the key that the tool was given.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="The first day, UTC, as 2026-11-01.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="The last day, UTC.")] = None,
    session: SessionOption = None,
    limit: LimitOption = 100,
    url: UrlOption = None,
    api_key_env: KeyOption = KEY_ENV,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tool calls, the newest session first: what was done, for whom, and what became of it.

    \b
    Examples:
      stateline effects list --status unknown
      stateline effects list --principal key_06h01cz5v5s8e9q2 --from 2026-11-20 --json
      stateline effects list --server payments --tool refund
    """
    query = {
        "status": status,
        "principal": principal,
        "agent": agent,
        "model": model,
        "deployment": deployment,
        "server_label": server_label,
        "name": name,
        "key": key,
        "from": since,
        "to": until,
        "session": session,
    }
    found = find_server(config, url, api_key_env).listed(_PATH, query, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        (
            ("ID", lambda each: each["id"]),
            ("STATUS", lambda each: each["status"]),
            ("TOOL", lambda each: f"{each['server_label']}/{each['name']}"),
            ("CLASS", lambda each: each["effect"] or "-"),
            ("FOR", lambda each: each["principal"]),
            ("AGENT", lambda each: each["agent"] or "-"),
            ("AT (UTC)", lambda each: moment(each["created_at"])),
            ("ARGUMENTS", lambda each: each["arguments"]),
        ),
        found,
    )


@app.command()
def show(
    effect_id: IdArgument,
    *,
    url: UrlOption = None,
    api_key_env: KeyOption = KEY_ENV,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one call whole.

    \b
    Examples:
      stateline effects show mcp_06h01cz5v5s8e9q2t1s2i0
    """
    found = find_server(config, url, api_key_env).one(_PATH, effect_id, "effect", {})
    if as_json:
        print_json(found)
        return
    print_fields(
        (
            ("id", found["id"]),
            ("status", found["status"]),
            ("tool", f"{found['server_label']}/{found['name']}"),
            ("arguments", found["arguments"]),
            ("class", found["effect"]),
            ("key", found["key"]),
            ("for", found["principal"]),
            ("agent", found["agent"]),
            ("model", found["model"]),
            ("deployment", found["deployment"]),
            ("policy", policy_line(found)),
            ("approval", found["approval_request_id"]),
            ("answered by", found["decided_by"]),
            ("code", found["code"]),
            ("message", found["message"]),
            ("the tool says", "it did not do it" if found["failed"] else None),
            ("read back", "an earlier run took effect" if found["read_back"] else None),
            ("began", moment(found["created_at"])),
            ("ended", None if found["ended_at"] is None else moment(found["ended_at"])),
            ("response", found["response_id"]),
            ("session", found["session"]),
        )
    )


@app.command()
def resolve(
    effect_id: IdArgument,
    decision: Annotated[
        Decision, typer.Argument(help="It took effect; it stays unknown; or it is made again, on your word.")
    ],
    *,
    output: Annotated[
        str | None, typer.Option("--output", help="With committed: what the tool gave; - reads standard input.")
    ] = None,
    url: UrlOption = None,
    api_key_env: KeyOption = KEY_ENV,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what became of a call whose outcome is not known. The response that goes on is named.

    \b
    Examples:
      stateline effects resolve mcp_06h01cz5v5s8e9q2t1s2i0 committed --output "refund 7 was made"
      stateline effects resolve mcp_06h01cz5v5s8e9q2t1s2i0 abandoned
      stateline effects resolve mcp_06h01cz5v5s8e9q2t1s2i0 retry
    """
    if output is not None and decision is not Decision.COMMITTED:
        raise BadRequest("--output goes with committed alone: no other call gave anything", code="invalid_value")
    path = f"{_PATH}/{checked_id(effect_id, 'effect')}"
    server = find_server(config, url, api_key_env)
    text = sys.stdin.read() if output == "-" else output or ""
    answered = server.ask("POST", path, {"decision": decision.value, "output": text})
    print_answer(answered, decision.value, as_json=as_json)
