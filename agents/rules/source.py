"""The text of a condition as its author sees it: lines, columns and the caret, also after literals were promoted."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """At code point ``at`` of the author's text, ``removed`` code points gave way to ``inserted``."""

    at: int
    removed: int
    inserted: str


@dataclass(frozen=True, slots=True)
class Source:
    """The author's ``text`` and the edits, in order, that made of it what the type checker was given."""

    text: str
    edits: tuple[Edit, ...] = ()

    @property
    def checked_text(self) -> str:
        parts: list[str] = []
        at = 0
        for edit in self.edits:
            parts += self.text[at : edit.at], edit.inserted
            at = edit.at + edit.removed
        return "".join((*parts, self.text[at:]))

    def original(self, offset: int) -> int:
        """Offset in the author's text of an offset in the checked one."""
        grown = 0
        for edit in self.edits:
            if edit.at + grown > offset:
                break
            grown += min(len(edit.inserted) - edit.removed, offset - edit.at - grown)
        return offset - grown

    def line_and_column(self, offset: int) -> tuple[int, int]:
        """Both from 1, in code points of the author's text, for an offset in it."""
        before = self.text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1

    def offset_checked(self, line: int, column: int) -> int:
        """Offset in the checked text of a line and column (from 1) in it."""
        text = self.checked_text
        at = 0
        for _ in range(line - 1):
            at = text.find("\n", at) + 1
        return at + column - 1

    def caret(self, line: int, column: int) -> str:
        """The line with a caret below, as CEL shows it::

        | amount > 10000.0 &
        | .................^
        """
        shown = self.text.split("\n")[line - 1]
        # A terminal takes control characters as commands and a wide character as two columns.
        shown = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in shown)
        dots = "".join("\uff0e" if unicodedata.east_asian_width(c) in "WF" else "." for c in shown[: column - 1])
        return f" | {shown}\n | {dots.ljust(column - 1, '.')}^"
