"""Contracts: clauses and readings as data, and a verdict on each placement. Pure: no I/O, no clock.

`load` checks parsed documents and compiles them; `evaluate` gives the verdict.
"""

from __future__ import annotations

from stateline.contracts.errors import ContractError, FactsError
from stateline.contracts.evaluate import Contracts, evaluate
from stateline.contracts.facts import Facts, check_facts, parse_at
from stateline.contracts.load import Document, load
from stateline.contracts.model import ClauseVerdict, Contract, ReadingVerdict, Verdict

__all__ = [
    "ClauseVerdict",
    "Contract",
    "ContractError",
    "Contracts",
    "Document",
    "Facts",
    "FactsError",
    "ReadingVerdict",
    "Verdict",
    "check_facts",
    "evaluate",
    "load",
    "parse_at",
]
