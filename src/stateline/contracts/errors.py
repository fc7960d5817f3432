"""What is wrong with a contract or with facts, and where."""

from __future__ import annotations

from stateline.core.errors import Blame, StatelineError


class ContractError(StatelineError):
    """A contract that cannot be used. Whatever was in force before stays in force.

    Attributes:
        file: the file at fault, as it was named.
        line: its line, counted from 1, or None where none is known.
        key: the key at fault, as `clauses[0].amount.unit`; empty for the whole file.
    """

    code = "contract_invalid"
    status = 400
    blame: Blame = "operator"

    def __init__(
        self, message: str, *, file: str, line: int | None = None, key: str = "", code: str | None = None
    ) -> None:
        place = f"{file}:{line}" if line else file
        super().__init__(f"{place}: {key}: {message}" if key else f"{place}: {message}", code=code)
        self.file = file
        self.line = line
        self.key = key


class FactsError(StatelineError):
    """Facts, an instant or a posture that no verdict can be given on."""

    code = "facts_invalid"
    status = 400
    blame: Blame = "client"


class PredicateError(ValueError):
    """A predicate that is refused when it is loaded; the loader adds the place."""
