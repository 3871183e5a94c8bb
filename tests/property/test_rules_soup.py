"""Whatever is handed in as a rule is admitted and compiled, or refused with a place in its text: nothing else happens."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.rules.admission import condition_of
from agents.rules.book import RuleBook
from agents.rules.compiler import compiled
from agents.rules.lint import lint
from models.errors import RuleRefused

TOKENS = [
    *("amount", "timestamp", "attributes", "country", "count", "has_previous()", "duration('10m')", "'a'", "5", "5.0"),
    *(
        "0x1F",
        "1u",
        "b'x'",
        "null",
        "true",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        ",",
        ":",
        "?",
        "&&",
        "||",
        "!",
        "-",
        "+",
    ),
    *("*", "/", "%", "==", "<", ">=", " in ", "has", "size", "all", "map", "matches", "int", "double", "string", "dyn"),
    *(
        "//",
        "\n",
        "\r",
        "\x0b",
        "\u2028",
        "\\",
        "'",
        '"',
        "@",
        "x",
        "😀",
        "\0",
        "\x1b",
        "1e999",
        "-9223372036854775808",
    ),
]
soups = st.lists(st.sampled_from(TOKENS), max_size=40).map("".join) | st.text(max_size=40)


@settings(max_examples=400, deadline=None)
@given(text=soups)
def test_any_text_is_a_condition_or_is_refused_at_a_place_in_it(text: str) -> None:
    refused: RuleRefused | None = None
    try:
        compiled(((condition_of(text), None),))
    except RuleRefused as error:
        refused = error
    if refused is not None:
        lines = text.split("\n")
        assert 1 <= refused.line <= len(lines)
        assert 1 <= refused.column <= len(lines[refused.line - 1]) + 1
        assert "\x1b" not in str(refused)


@settings(max_examples=300, deadline=None)
@given(key=st.none() | st.binary(max_size=8), value=st.none() | st.binary(max_size=60))
def test_any_record_is_folded_or_refused(key: bytes | None, value: bytes | None) -> None:
    book = RuleBook()
    with suppress(RuleRefused):
        book.apply(key, value, offset=0, timestamp_ms=0)
    assert book.current() == {}


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(max_size=60)
    | st.binary(max_size=60)
    | st.lists(st.sampled_from('{}[],:"a5\n '), max_size=30).map("".join)
)
def test_any_file_has_problems_and_no_surprises(text: str | bytes) -> None:
    assert lint(text)
