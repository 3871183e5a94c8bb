"""The pages of the documentation, and how their code is found and run.

A fenced ``sh`` block is typed into a shell, a ``python`` block is executed; the blocks of a page share a folder and their names, from
top to bottom.  An HTML comment right before a block says what is different about it:

``<!-- not run: WHY -->``           the block is only to be read
``<!-- exit 1 -->``                 the block ends with this exit code
``<!-- beside: COMMAND -->``        in its place COMMAND is started; the page goes on once its worker is ready, and it ends with the page
``<!-- services: start -->``        in its place PostgreSQL and Redis are started, on free ports; ``stop`` ends them, as the page's end does
``<!-- printed -->``                (before a ``text`` block) the ``sh`` block above prints exactly this
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- ([^\n]*?) -->\n+\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block.  ``comment`` is the text of the HTML comment right before it, if any."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page of the project's documentation."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks, in order."""
    text = text_of(page)
    found = []
    for match in _FENCE.finditer(text):
        comment = _COMMENT.search(text, max(0, match.start() - 300), match.start())
        found.append(
            Block(
                page, text.count("\n", 0, match.start()) + 1, match[1], match[2], comment[1].strip() if comment else ""
            )
        )
    return found


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", text_of(page))


def table(page: Path, *header: str) -> list[tuple[str, ...]]:
    """Cells of the table with this header, without the marks of code; fails where there is none."""
    lines = iter(text_of(page).splitlines())
    for line in lines:
        if _cells(line) == header:
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            return rows
    raise AssertionError(f"{page.relative_to(ROOT)} has no table with the columns {', '.join(header)}")


def _cells(line: str) -> tuple[str, ...]:
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return tuple(part.strip().replace("\\|", "|").replace("`", "") for part in parts)
