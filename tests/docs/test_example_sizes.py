"""No operator of the examples takes more lines than the Java class that it is a translation of."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"

#: Lines of code of the source document's Java classes, counted as below: no blank lines, comments and imports.  Of the queryable count it is
#: the anonymous function alone, without the descriptor and the client.
JAVA = {
    "UserProfileProcessor": 19,
    "RecentEventsTracker": 27,
    "SessionManager": 34,
    "UserSessionProcessor": 27,
    "FraudDetectionFunction": 30,
    "CountedUsers": 13,
    "CustomSessionWindow": 47,
    "OrderPaymentJoin": 52,
    "AsyncDatabaseEnrichment": 44,
    "AsyncRedisEnrichment": 35,
}
_NO_CODE = {
    tokenize.NL,
    tokenize.COMMENT,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def lines_of_code(source: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def python() -> dict[str, int]:
    found = {}
    for path in sorted((DOCS / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and node.name in JAVA:
                found[node.name] = lines_of_code(ast.get_source_segment(source, node) or "")
    return found


def test_a_line_of_code_is_one_with_more_than_a_comment() -> None:
    assert lines_of_code('# no\n\nclass A:  # yes\n\n    x = (\n        1,\n    )\n    """text\n    of two"""\n') == 6


@pytest.mark.parametrize("name", JAVA)
def test_no_example_takes_more_lines_than_its_java(name: str) -> None:
    assert 0 < python()[name] <= JAVA[name]


def test_the_page_lists_the_lines_as_they_are() -> None:
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")[:3]]
        for line in (DOCS / "operators.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `") and line.split("`")[1] in JAVA
    ]
    counted = python()
    assert {name: (int(java), int(ours)) for name, java, ours in rows} == {
        name: (java, counted[name]) for name, java in JAVA.items()
    }
