"""The CEL environment of rules, and how its parser and type checker are asked.

Names: ``transaction_id, user_id, merchant, country`` (string), ``amount`` (double), ``timestamp`` (timestamp), ``attributes``
(map of strings) and the history functions, see :mod:`agents.rules.history`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import NamedTuple

from cel_expr_python import cel

from agents.rules import wire
from agents.rules.tree import Node

FIELDS: Mapping[str, str] = {
    "transaction_id": "string",
    "user_id": "string",
    "merchant": "string",
    "country": "string",
    "amount": "double",
    "timestamp": "timestamp",
    "attributes": "map(string, string)",
}
#: History functions of a window, with the type of their value; each takes one duration.
WINDOW_TYPES: Mapping[str, str] = {
    "count": "int",
    "sum_amount": "double",
    "avg_amount": "double",
    "min_amount": "double",
    "max_amount": "double",
    "distinct_merchants": "int",
    "distinct_countries": "int",
}
#: History functions of the previous transaction, with the type of their value; they take nothing.
PREVIOUS_TYPES: Mapping[str, str] = {
    "has_previous": "bool",
    "previous_amount": "double",
    "seconds_since_previous": "double",
}

_FAULT = re.compile(r"^(?:INVALID_ARGUMENT: )?ERROR: <input>:(-?[0-9]+):(-?[0-9]+): (.*)$", re.MULTILINE)
_HINTS = (
    (re.compile(r"'(?:count|\w+_amount|distinct_\w+)' applied to '\(string\)'"), "write the span as duration('10m')"),
    (
        re.compile(r"'\(double, int\)'"),
        "write the whole number with a decimal point, such as 10000.0, or use double(...)",
    ),
    (re.compile(r"'\(int, double\)'"), "write both as whole numbers, or use double(...)"),
    (re.compile(r"unsupported syntax '\.\?'"), "optional values are not part of rules; use has(...)"),
    (re.compile(r"(?i)mismatched input '(?:and|or)'"), "write && for and, || for or"),
    (re.compile(r"token recognition error at: '="), "write == to compare"),
)
_UNDECLARED = re.compile(r"undeclared reference to '(\w{1,64})'")


class Fault(NamedTuple):
    """What is wrong; ``line`` and ``column`` count from 1."""

    line: int
    column: int
    message: str


class NotCel(ValueError):
    """The text does not parse or does not type-check."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults[0].message)
        self.faults = faults


@cache
def _types() -> Mapping[str, cel.Type]:
    kind = cel.Type
    return {
        "bool": kind.BOOL,
        "int": kind.INT,
        "double": kind.DOUBLE,
        "string": kind.STRING,
        "timestamp": kind.TIMESTAMP,
        "map(string, string)": kind.Map(kind.STRING, kind.STRING),
    }


@cache
def environment() -> cel.Env:
    """Built on first use.  It declares the history functions and has no implementation of them."""
    types = _types()
    functions = [
        cel.FunctionDecl(name, [cel.Overload(name, return_type=types[result], parameters=parameters)])
        for names, parameters in ((WINDOW_TYPES, [cel.Type.DURATION]), (PREVIOUS_TYPES, []))
        for name, result in names.items()
    ]
    return cel.NewEnv(variables={name: types[type_] for name, type_ in FIELDS.items()}, functions=functions)


def check(text: str) -> Node:
    """Parse and type-check; raises :class:`NotCel`."""
    return _ask(text, parse_only=False)


def parse(text: str) -> Node:
    """Parse only: the nodes have no types; raises :class:`NotCel`."""
    return _ask(text, parse_only=True)


def _ask(text: str, *, parse_only: bool) -> Node:
    try:
        expression = environment().compile(text, disable_check=parse_only)
    except RuntimeError as error:
        raise NotCel(_faults(str(error))) from None
    try:
        return wire.decode(expression.serialize()).root
    except wire.WireError as error:
        raise NotCel(
            [Fault(1, 1, f"the parser answered what cannot be read ({error}); write it more simply")]
        ) from error


def _faults(answer: str) -> list[Fault]:
    found = _FAULT.findall(answer)
    # Without a place come the depth and remarks such as "more errors were truncated".
    placeless = [message for line, _, message in found if int(line) < 1]
    if answer.startswith("CANCELLED: Expression recursion limit") or any(
        "recursion depth" in said for said in placeless
    ):
        return [Fault(1, 1, "nested deeper than 32 levels; take it apart into several rules")]
    faults = []
    for line, column, message in found:
        if int(line) < 1:
            continue
        hint = next((f"; {hint}" for pattern, hint in _HINTS if pattern.search(message)), "") or _meant(message)
        message = message.removesuffix(" [INVALID_ARGUMENT]").replace(" (in container '')", "")
        printable = "".join(c if c.isprintable() else "\ufffd" for c in message)
        faults.append(Fault(int(line), int(column), printable + hint))
    return faults or [Fault(1, 1, answer)]


def _meant(message: str) -> str:
    """A hint for a name that is not there: the function that it lacks the parentheses of, or one that is spelt alike."""
    found = _UNDECLARED.search(message)
    if found is None:
        return ""
    functions = {name: f"{name}()" for name in PREVIOUS_TYPES} | {
        name: f"{name}(duration('10m'))" for name in WINDOW_TYPES
    }
    names = {name: name for name in FIELDS} | functions
    name = found[1]
    if name not in names:
        close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.75)
        if not close:
            return ""
        name = close[0]
    return f"; did you mean {names[name]}?"


class Pattern:
    """A regular expression, matched by CEL's own engine (RE2): linear time, whatever the pattern."""

    def __init__(self, pattern: str) -> None:
        """Raises ``ValueError`` for what is no pattern or takes too much memory."""
        try:
            self._expression = _patterns().compile(f"text.matches({_quoted(pattern)})")
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        self.matches("")

    def matches(self, text: str) -> bool:
        """Whether the pattern is found anywhere in the text; raises ``ValueError``."""
        try:
            answer = self._expression.eval(data={"text": text})
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        if answer.type() != cel.Type.BOOL:
            raise ValueError(str(answer.value()))
        return bool(answer.value())


@cache
def _patterns() -> cel.Env:
    return cel.NewEnv(variables={"text": cel.Type.STRING})


@lru_cache(maxsize=1024)
def pattern(text: str) -> Pattern:
    """The matcher of a pattern, from a bounded cache; raises ``ValueError``."""
    return Pattern(text)


def _quoted(text: str) -> str:
    """A CEL string literal with every character outside of letters and digits as an escape."""
    return "'" + "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text) + "'"
