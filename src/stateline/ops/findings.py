"""What a check says."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line. ``todo`` is what to do, where there is something."""

    check: str
    state: State
    message: str
    todo: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check=check, state="ok", message=_line(message))


def warn(check: str, message: str, todo: str) -> Finding:
    return Finding(check=check, state="warn", message=_line(message), todo=_line(todo))


def fail(check: str, message: str, todo: str) -> Finding:
    return Finding(check=check, state="fail", message=_line(message), todo=_line(todo))


def _line(text: str) -> str:
    return " ".join(text.split())
