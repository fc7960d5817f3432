"""What the demo remembers from one run to the next: ids alone, since all else is in the server's log."""

from __future__ import annotations

import json
from pathlib import Path


class State:
    """The ids of the last conversation, and of the response that was not seen to its end ("" for none)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.conversation = ""
        self.response = ""
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            self.conversation, self.response = str(known["conversation"]), str(known["response"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # The first run, or a file that somebody changed: then there is nothing to go on with.

    def remember(self, *, conversation: str | None = None, response: str | None = None) -> None:
        self.conversation = self.conversation if conversation is None else conversation
        self.response = self.response if response is None else response
        text = json.dumps({"conversation": self.conversation, "response": self.response})
        self._path.write_text(text + "\n", encoding="utf-8")
