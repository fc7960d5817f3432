"""What tool calls may do, by policies in Cedar (docs/policies.md): an implementation of ``ports.Policy``.

A call is asked about with ``approved`` false, then, where that is not allowed, with true: allowed, allowed once a
person approves, or denied. Where an agent acts for somebody both are asked about, and both must be allowed, so an
agent never does more than either may. An evaluation with an error denies.
"""

from __future__ import annotations

from stateline.identity.policy.errors import PolicyError, Problem
from stateline.identity.policy.load import load_policy
from stateline.identity.policy.names import principal_of
from stateline.identity.policy.rule import CedarPolicy

__all__ = ["CedarPolicy", "PolicyError", "Problem", "load_policy", "principal_of"]
