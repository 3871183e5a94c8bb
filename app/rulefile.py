"""Rules in a file: one rule, a JSON array of rules, or a rule a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from agents.rules.lint import lint
from models.errors import RuleRefused
from models.rules import Rule


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one rule of a file: the rule, or why it is refused.  ``place`` says where it stands."""

    place: str
    rule_id: str | None
    rule: Rule | None
    error: RuleRefused | None

    def as_json(self) -> dict[str, object]:
        found: dict[str, object] = {"place": self.place, "rule_id": self.rule_id, "ok": self.error is None}
        if self.error is not None:
            found |= {"error": str(self.error), "line": self.error.line, "column": self.error.column}
        return found


def lint_file(text: bytes) -> Sequence[Finding]:
    """Findings in the order of the file; empty for a file without rules."""
    return [_finding(place, rule) for place, rule in _split(text)]


def _split(text: bytes) -> list[tuple[str, bytes]]:
    if text.lstrip().startswith(b"["):
        try:
            rules = msgspec.json.decode(text, type=list[msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            return [("the array", text)]
        return [(f"rule {number}", bytes(rule)) for number, rule in enumerate(rules, 1)]
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        lines = enumerate(text.splitlines(), 1)
        by_line = [(f"line {number}", line) for number, line in lines if line.strip()]
        # One rule spread over lines that is not JSON is reported once, not a line at a time.
        return by_line if all(line.lstrip().startswith(b"{") for _, line in by_line[1:]) else [("rule 1", text)]
    return [("rule 1", text)]


def _finding(place: str, text: bytes) -> Finding:
    try:
        rule = lint(text)
    except RuleRefused as error:
        return Finding(place, _rule_id(text), None, error)
    return Finding(place, rule.rule_id, rule, None)


def _rule_id(text: bytes) -> str | None:
    try:
        named = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    rule_id = named.get("rule_id")
    return rule_id if isinstance(rule_id, str) else None
