"""Admission: from the bytes of a record to a rule that is known to parse, to type-check and to stay within its bounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec

from agents.rules import bounds, language
from agents.rules.condition import Condition
from agents.rules.language import Fault, NotCel
from agents.rules.promotion import promotions
from agents.rules.source import Source
from agents.rules.tree import Node, walk
from models.errors import RuleRefused
from models.rules import Rule

_live: WeakValueDictionary[str, Condition] = WeakValueDictionary()
#: Faults of one condition that are shown, at most.
_SHOWN = 3
_decoder = msgspec.json.Decoder(Rule)


class AdmittedRule(NamedTuple):
    """A rule and the meaning of its condition."""

    rule: Rule
    condition: Condition


def parse_rule(key: bytes | None, value: bytes) -> Rule:
    """Decode one record of the rules topic; raises :class:`RuleRefused`."""
    name = key_text(key)
    if len(value) > bounds.MAX_RULE_BYTES:
        raise RuleRefused(f"rule {name}: {len(value)} bytes, a rule has at most {bounds.MAX_RULE_BYTES}")
    rule = decode_rule(value, name)
    if rule.rule_id != name:
        raise RuleRefused(
            f"rule {name}: the record's key is {name!r} and its rule_id {rule.rule_id!r}; make them equal"
        )
    return rule


def key_text(key: bytes | None) -> str:
    """The rule id that a record's key is; raises :class:`RuleRefused`."""
    if not key:
        raise RuleRefused("a rule's record needs its rule_id as key; it has none")
    if len(key) > 1024:
        raise RuleRefused("the record's key is longer than a rule_id may be")
    try:
        text = key.decode()
    except UnicodeDecodeError:
        raise RuleRefused(f"the record's key {key!r} is not UTF-8") from None
    if not text.isprintable():
        raise RuleRefused(f"the record's key {text!r} holds other than printable characters")
    return text


def decode_rule(value: bytes, name: str) -> Rule:
    """Decode a rule's JSON; ``name`` says in errors which rule it is.  Raises :class:`RuleRefused`."""
    try:
        rule = _decoder.decode(value)
    except UnicodeDecodeError:
        raise RuleRefused(f"rule {name}: not UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise RuleRefused(f"rule {name}: {_said(error)}") from None
    # The decoder takes the last of two equal fields, other readers the first: such a rule means two things.
    twice = _repeated(json.loads(value, object_pairs_hook=_field_names))
    if twice is not None:
        raise RuleRefused(f"rule {name}: the field `{twice}` is there twice")
    if not rule.rule_id.isprintable():
        raise RuleRefused(f"rule {name!r}: a rule_id holds printable characters only")
    return rule


def _said(error: Exception) -> str:
    text = str(error)
    return text if text.startswith("JSON") else text[:1].lower() + text[1:]


def _field_names(pairs: list[tuple[str, object]]) -> list[str]:
    return [name for name, _ in pairs]


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for at, name in enumerate(names) if name in names[:at]), None)


def admit(rule: Rule) -> AdmittedRule:
    """Check the rule's condition; raises :class:`RuleRefused` with line, column and caret."""
    try:
        return AdmittedRule(rule, condition_of(rule.when))
    except RuleRefused as error:
        raise RuleRefused(f"rule {rule.rule_id}: {error}", line=error.line, column=error.column) from None


def condition_of(text: str) -> Condition:
    """The meaning of a condition's text; raises :class:`RuleRefused`.

    One object per text, however many rules and books hold it; those used last are kept even if nobody does, for the sake of
    rules that go and come back.
    """
    condition = _live.get(text)
    if condition is None:
        condition = _live[text] = understood(text)
    return condition


@lru_cache(maxsize=512)
def understood(text: str) -> Condition:
    """:func:`condition_of` without looking at what is in use."""
    if len(text) > bounds.MAX_TEXT_BYTES or len(text.encode()) > bounds.MAX_TEXT_BYTES:
        raise RuleRefused(f"the condition is longer than {bounds.MAX_TEXT_BYTES} bytes; make several rules of it")
    if not text.strip():
        raise RuleRefused(
            "the condition `when` is empty; write what must hold, such as amount > 10000.0", line=1, column=1
        )
    source, root = _check(text)
    try:
        bounds.check(root)
    except bounds.OutOfBounds as error:
        line, column = source.line_and_column(source.original(error.at))
        raise _refused(source, [Fault(line, column, str(error))]) from None
    return Condition(text, root)


def _check(text: str) -> tuple[Source, Node]:
    """Type-check the text, with its literals promoted where it does not pass without."""
    source = Source(text)
    faults: list[Fault]
    try:
        root = language.check(text)
        if not any("dyn" in node.type for node in walk(root)):
            return source, root
        faults = []
    except NotCel as error:
        faults = error.faults
        if not any("no matching overload" in fault.message for fault in faults):
            raise _refused(source, faults) from None
    edits = promotions(language.parse(text), text)
    if edits:
        promoted = Source(text, edits)
        try:
            return promoted, language.check(promoted.checked_text)
        except NotCel as error:
            raise _refused(promoted, [_moved(promoted, fault) for fault in error.faults]) from None
    if faults:
        raise _refused(source, faults)
    return source, root


def _moved(source: Source, fault: Fault) -> Fault:
    """The fault of the checked text at its place in the author's."""
    line, column = source.line_and_column(source.original(source.offset_checked(fault.line, fault.column)))
    return Fault(line, column, fault.message)


def _refused(source: Source, faults: list[Fault]) -> RuleRefused:
    """``faults`` are at their places in the author's text."""
    shown = [
        f"line {fault.line}, column {fault.column}: {fault.message}\n{source.caret(fault.line, fault.column)}"
        for fault in faults[:_SHOWN]
    ]
    return RuleRefused("\n".join(shown), line=faults[0].line, column=faults[0].column)
