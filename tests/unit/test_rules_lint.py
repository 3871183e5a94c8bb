"""Files of rules: what is read, and what is said of the rest."""

from __future__ import annotations

import json

import pytest

from agents.rules import lint as lint_module
from agents.rules.lint import lint, read


def rule(rule_id: str = "R", **changes: object) -> dict[str, object]:
    return {"rule_id": rule_id, "description": "d", "active": True, "risk_level": "LOW", "when": "amount > 1"} | changes


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(rule("a")),
        json.dumps(rule("a"), indent=2),
        "\ufeff" + json.dumps(rule("a")),
        json.dumps([rule("a")]),
        json.dumps([rule("a")], indent=2) + "\n",
        json.dumps(rule("a")) + "\n\n",
    ],
)
def test_one_rule_is_read_from_every_form(text: str) -> None:
    found = read(text.encode())
    assert ([r.rule_id for r in found.rules], found.problems) == (["a"], [])


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_and_lines_hold_several_rules(indent: int | None) -> None:
    rules = [rule("a"), rule("b"), rule("c")]
    lines = "\n".join(json.dumps(r, indent=indent) for r in rules)
    for text in (json.dumps(rules, indent=indent), lines):
        assert [r.rule_id for r in read(text).rules] == ["a", "b", "c"]


def test_a_bad_rule_does_not_hide_the_others() -> None:
    lines = [
        json.dumps(rule("a")),
        "{oops",
        json.dumps(rule("b", when="amount >")),
        json.dumps(rule("c", x=1)),
        json.dumps(rule("d")),
    ]
    found = read("\n".join(lines))
    assert [r.rule_id for r in found.rules] == ["a", "d"]
    assert [(p.file_line, p.rule_id, p.line, p.column) for p in found.problems] == [
        (2, None, 0, 0),
        (3, "b", 1, 9),
        (4, None, 0, 0),
    ]
    assert " | amount >\n | ........^" in found.problems[1].text
    assert "rule c: object contains unknown field `x`" in found.problems[2].text
    assert str(found.problems[1]).startswith("line 3 of the file: rule b: line 1, column 9: ")


def test_a_line_is_that_where_the_rule_begins() -> None:
    text = json.dumps([rule("a"), rule("b", when="foo")], indent=2)
    assert [(p.file_line, p.rule_id) for p in lint(text)] == [(9, "b")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no rule in the file"),
        (" \n", "there is no rule in the file"),
        ("[]", "there is no rule in the file"),
        (b"\xff", "not UTF-8"),
        ("5", "expected `object`, got `int`"),
        ("9" * 5000, "number out of range"),
        ("{", "no JSON"),
        ("[" + json.dumps(rule()), "the array has no end"),
        ("[" + json.dumps(rule()) + "] x", "more after the array's end"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        (json.dumps(rule(when="x" * 100_001)), "at most 100000"),
        (json.dumps(rule()) + json.dumps(rule()), "rule R: is there twice, first in line 1"),
        (json.dumps(rule(when="user_id == '\ud800'")), "rule R"),
    ],
)
def test_what_is_no_file_of_rules_is_told_so(text: str | bytes, said: str) -> None:
    problems = lint(text)
    assert len(problems) == 1
    assert said in problems[0].text


def test_a_file_of_nothing_but_faults_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint_module, "MAX_PROBLEMS", 3)
    assert len(lint("\n".join(["{oops"] * 10))) == 3
