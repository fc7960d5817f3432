"""`stateline approvals`: the tool calls that wait for a person, and the person's answer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, print_json
from stateline.cli._server import (
    KEY_ENV,
    KeyOption,
    LimitOption,
    Server,
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

app = command_app("See the tool calls that wait for a person, and answer them, on the server that runs.")

Shown = dict[str, Any]
_PATH = "/v1/approvals"
IdArgument = Annotated[str, typer.Argument(help="As `stateline approvals list` shows it: mcpr_…")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Why; it is kept.")]


@app.command("list")
def list_approvals(
    *,
    status: Annotated[str, typer.Option("--status", help="waiting, committed, rejected …, or all.")] = "waiting",
    session: SessionOption = None,
    limit: LimitOption = 100,
    url: UrlOption = None,
    api_key_env: KeyOption = KEY_ENV,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what waits for a person, the newest session first.

    \b
    Examples:
      stateline approvals list
      stateline approvals list --status all --json
      STATELINE_API_KEY=sk-sl-… stateline approvals list --url https://agents.example.com
    """
    server = find_server(config, url, api_key_env)
    found = server.listed(_PATH, {"status": status, "session": session}, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        (
            ("ID", lambda each: each["id"]),
            ("STATUS", lambda each: each["status"]),
            ("TOOL", lambda each: f"{each['server_label']}/{each['name']}"),
            ("FOR", _whom),
            ("DEMANDED BY", lambda each: each["demanded_by"]),
            ("EXPIRES (UTC)", lambda each: moment(each["expires_at"])),
            ("ARGUMENTS", lambda each: each["arguments"]),
        ),
        found,
    )


@app.command()
def show(
    approval_id: IdArgument,
    *,
    url: UrlOption = None,
    api_key_env: KeyOption = KEY_ENV,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one whole, with the exact arguments of its call.

    \b
    Examples:
      stateline approvals show mcpr_06h01cz5v5s8e9q2t1s2i0
    """
    server = find_server(config, url, api_key_env)
    found = server.one(_PATH, approval_id, "approval", {"status": "all"})
    if as_json:
        print_json(found)
        return
    print_fields(
        (
            ("id", found["id"]),
            ("status", found["status"]),
            ("tool", f"{found['server_label']}/{found['name']}"),
            ("server", found["server_url"]),
            ("arguments", found["arguments"]),
            ("for", _whom(found)),
            ("demanded by", found["demanded_by"]),
            ("policy", policy_line(found)),
            ("answered by", found["decided_by"]),
            ("asked", moment(found["created_at"])),
            ("expires", moment(found["expires_at"])),
            ("response", found["response_id"]),
            ("session", found["session"]),
        )
    )


@app.command()
def approve(
    approval_id: IdArgument,
    *,
    reason: ReasonOption = None,
    url: UrlOption = None,
    api_key_env: KeyOption = KEY_ENV,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a call be made. The first answer counts; the response that goes on is named.

    \b
    Examples:
      stateline approvals approve mcpr_06h01cz5v5s8e9q2t1s2i0
      stateline approvals approve mcpr_06h01cz5v5s8e9q2t1s2i0 --reason "within the limit" --json
    """
    server = find_server(config, url, api_key_env)
    print_answer(_answered(server, approval_id, reason, approve=True), "approved", as_json=as_json)


@app.command()
def reject(
    approval_id: IdArgument,
    *,
    reason: ReasonOption = None,
    url: UrlOption = None,
    api_key_env: KeyOption = KEY_ENV,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a call not be made. The agent is told so, with the reason, and goes on.

    \b
    Examples:
      stateline approvals reject mcpr_06h01cz5v5s8e9q2t1s2i0 --reason "ask the customer first"
    """
    server = find_server(config, url, api_key_env)
    print_answer(_answered(server, approval_id, reason, approve=False), "rejected", as_json=as_json)


def _answered(server: Server, approval_id: str, reason: str | None, *, approve: bool) -> Shown:
    path = f"{_PATH}/{checked_id(approval_id, 'approval')}"
    return server.ask("POST", path, {"approve": approve, "reason": reason})


def _whom(each: Shown) -> str:
    return each["principal"] + (f" by agent/{each['agent']}" if each["agent"] else "")
