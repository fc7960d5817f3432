"""Submit, work, perform, recover, live: the runtime between the ports and the API."""

from __future__ import annotations

from stateline.core.placed import Placed
from stateline.engine.correlation import current_trace
from stateline.engine.facade import Engine
from stateline.engine.types import Accepted, Answerer, Conversation, Submission

__all__ = ["Accepted", "Answerer", "Conversation", "Engine", "Placed", "Submission", "current_trace"]
