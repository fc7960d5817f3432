"""What the demo shows: numbered steps, who says what, what was checked; colour only on a terminal."""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

_INDENT = 4
_LABEL = 8
_WIDTH_MAX = 100


class Screen:
    """Writes to standard output, at once; text that is streamed is shown as it comes."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            # A model may say what a terminal cannot show: that is no reason to end.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        self.console = Console(highlight=False, soft_wrap=True)
        self.width = min(self.console.width, _WIDTH_MAX) if self.console.is_terminal else _WIDTH_MAX
        self._step = 0
        self._column = 0
        utf = (self.console.encoding or "").lower().startswith("utf")
        self._yes, self._no, self._bar = ("✓", "✗", "│") if utf else ("ok", "NO", "|")

    def title(self, text: str) -> None:
        self._out(Text(text, style="bold"))

    def step(self, text: str) -> None:
        """A numbered heading."""
        self._step += 1
        self._out(Text())
        self._out(Text.assemble((f"{self._step:>2}  ", "bold cyan"), (text, "bold")))

    def note(self, text: str) -> None:
        """What is happening, in words."""
        for line in self._wrapped(text, _INDENT):
            self._out(Text(" " * _INDENT + line))

    def says(self, who: str, text: str) -> None:
        """What somebody said, whole."""
        self.begin(who)
        self.more(text)
        self.end()

    def begin(self, who: str) -> None:
        """Open a passage of streamed text."""
        self._out(Text.assemble(" " * _INDENT, (f"{who:<{_LABEL - 2}}{self._bar} ", "cyan")), end="")
        self._column = 0

    def more(self, text: str, style: str = "green") -> None:
        """Show the next piece of the passage, broken into lines at spaces."""
        edge = self.width - _INDENT - _LABEL - 12
        shown: list[str] = []
        margin = "\n" + " " * (_INDENT + _LABEL - 2) + self._bar + " "
        for char in text:
            if char == "\n" or (char == " " and self._column >= edge):
                shown.append(margin)
                self._column = 0
            elif char.isprintable():
                shown.append(char)
                self._column += 1
        self._out(Text("".join(shown), style=style), end="")

    def end(self) -> None:
        """Close the passage."""
        self._out(Text())
        self._column = 0

    def check(self, holds: bool, text: str) -> None:
        """What was verified, and whether it holds."""
        mark, style = (self._yes, "bold green") if holds else (self._no, "bold red")
        first, *rest = self._wrapped(text, _INDENT + 3)
        self._out(Text.assemble(" " * _INDENT, (f"{mark:<3}", style), (first, "" if holds else "red")))
        for line in rest:
            self._out(Text(" " * (_INDENT + 3) + line, style="" if holds else "red"))

    def code(self, lines: Iterable[str]) -> None:
        """Something to copy: never wrapped, never indented, so that it can be pasted."""
        for line in lines:
            self._out(Text(line, style="yellow"))

    def failure(self, text: str) -> None:
        """The one line that says why the demo ends."""
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text, style="bold red"))

    def _wrapped(self, text: str, indent: int) -> list[str]:
        return textwrap.wrap(text, self.width - indent, break_long_words=False, break_on_hyphens=False) or [""]

    def _out(self, text: Text, end: str = "\n") -> None:
        self.console.print(text, end=end)
        self.console.file.flush()
