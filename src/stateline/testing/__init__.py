"""What a test of, or on, Stateline needs; public and kept stable like the HTTP API.

Names are imported when they are first used, so that a test pays for what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateline.testing.exercise import exercise_store
    from stateline.testing.postgres_server import postgres_server
    from stateline.testing.scripted import Answer, Asked, Gate, ScriptedCall, ScriptedModel
    from stateline.testing.store_rig import ManualClock
    from stateline.testing.upstream import ScriptedUpstream

_HOMES = {
    "Answer": "stateline.testing.scripted",
    "Asked": "stateline.testing.scripted",
    "Gate": "stateline.testing.scripted",
    "ManualClock": "stateline.testing.store_rig",
    "ScriptedCall": "stateline.testing.scripted",
    "ScriptedModel": "stateline.testing.scripted",
    "ScriptedUpstream": "stateline.testing.upstream",
    "exercise_store": "stateline.testing.exercise",
    "postgres_server": "stateline.testing.postgres_server",
}

__all__ = [
    "Answer",
    "Asked",
    "Gate",
    "ManualClock",
    "ScriptedCall",
    "ScriptedModel",
    "ScriptedUpstream",
    "exercise_store",
    "postgres_server",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
