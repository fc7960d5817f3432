"""What is wrong with policies, and where; and why a call cannot be put to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stateline.core.errors import Blame, StatelineError


class Problem(NamedTuple):
    """One thing that is wrong. ``line`` counts from 1; 0 stands for the whole file."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {' '.join(self.message.split())}"


class PolicyError(StatelineError):
    """Policies that cannot be used. Whatever was in force before stays in force.

    Attributes:
        problems: all that was found; the message is the first.
    """

    code = "policy_invalid"
    status = 400
    blame: Blame = "operator"

    def __init__(self, problems: Sequence[Problem], *, code: str | None = None) -> None:
        more = f" (and {len(problems) - 1} more: stateline policy check)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}", code=code)
        self.problems = tuple(problems)


class Unfit(Exception):
    """A call that policies cannot be asked about, so it is denied.

    Attributes:
        code: stable, in docs/errors.md.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
