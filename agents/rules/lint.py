"""Reads files of rules: one rule, a JSON array, or one rule after another (JSON lines); finds what admission will refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from agents.rules import bounds
from agents.rules.admission import admit, decode_rule
from models.errors import RuleRefused
from models.rules import Rule

#: After so many the rest of the file is not looked at.
MAX_PROBLEMS = 1000

_SPACE = " \t\n\r"
#: Only finds where values begin and end, so numbers may stay text.
_decoder = json.JSONDecoder(parse_int=str, parse_float=str)


class Problem(NamedTuple):
    """One reason to refuse; ``text`` has the caret in it where there is one."""

    #: line of the file where the rule begins, from 1
    file_line: int
    #: ``None`` where the rule could not be read that far
    rule_id: str | None
    #: place within the rule's condition, from 1; 0 where it is not in the condition
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"line {self.file_line} of the file: {self.text}"


class RuleFile(NamedTuple):
    """The good rules of a file, in order, and what is wrong with the others."""

    rules: list[Rule]
    problems: list[Problem]


def lint(text: str | bytes) -> list[Problem]:
    """What is wrong with a file of rules; empty when every rule in it would be admitted."""
    return read(text).problems


def read(text: str | bytes) -> RuleFile:
    """Rules of a file, each of them admitted, and the problems of the rest.  Raises nothing."""
    file = RuleFile([], [])
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            file.problems.append(Problem(line, None, 0, 0, "the file is not UTF-8 text"))
            return file
    first: dict[str, int] = {}
    for line, value in _values(text):
        if len(file.problems) == MAX_PROBLEMS:
            break
        if isinstance(value, Problem):
            file.problems.append(value)
            continue
        rule_id: str | None = None
        try:
            rule = decode_rule(value.encode("utf-8", "surrogatepass"), _named(value))
            rule_id = rule.rule_id
            admit(rule)
        except RuleRefused as error:
            file.problems.append(Problem(line, rule_id, error.line, error.column, str(error)))
            continue
        if rule_id in first:
            said = f"rule {rule_id}: is there twice, first in line {first[rule_id]}"
            file.problems.append(Problem(line, rule_id, 0, 0, said))
            continue
        first[rule_id] = line
        file.rules.append(rule)
    if not file.rules and not file.problems:
        file.problems.append(Problem(1, None, 0, 0, "there is no rule in the file"))
    return file


def _named(value: str) -> str:
    """What a rule that does not decode is called in errors."""
    content = _decoder.decode(value)
    name = content.get("rule_id") if isinstance(content, dict) else None
    return name if isinstance(name, str) and name and name.isprintable() else "(without rule_id)"


def _values(text: str) -> Iterator[tuple[int, str | Problem]]:
    """(line, JSON text) of each rule; a problem where there is no JSON."""
    at = _skip(text, 0, _SPACE)
    separators = _SPACE
    array = text[at : at + 1] == "["
    if array:
        at, separators = at + 1, _SPACE + ","
    # Lines are counted on from the last value, so that a long file is gone through once.
    line, counted = 1, 0
    while (at := _skip(text, at, separators)) < len(text):
        line, counted = line + text.count("\n", counted, at), at
        if array and text[at] == "]":
            rest = _skip(text, at + 1, _SPACE)
            if rest < len(text):
                yield line, Problem(line, None, 0, 0, "there is more after the array's end")
            return
        try:
            _, end = _decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            yield line, Problem(error.lineno, None, 0, 0, f"no JSON, column {error.colno}: {error.msg}")
        except RecursionError:
            yield line, Problem(line, None, 0, 0, "nested too deep for a rule")
        else:
            if end - at > bounds.MAX_RULE_BYTES:
                yield line, Problem(line, None, 0, 0, f"a rule has at most {bounds.MAX_RULE_BYTES} bytes")
            else:
                yield line, text[at:end]
            at = end
            continue
        # After a bad line go on with the next one that begins a rule; inside an array there is no telling.
        next_rule = text.find("\n{", at + 1)
        if array or next_rule < 0:
            return
        at = next_rule + 1
    if array:
        yield line, Problem(line, None, 0, 0, "the array has no end")


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at
