"""A compiled condition decides as CEL's own evaluation does, over random conditions, transactions and histories."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from math import inf
from string import Formatter
from typing import Any

from cel_expr_python import cel
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agents.rules import bounds, language
from agents.rules.admission import AdmittedRule, condition_of
from agents.rules.compiler import RuleSet
from models.history import HistoryEntry
from models.rules import RiskLevel, Rule
from models.transactions import Transaction
from tests.support.past import Past

NOW = 1_700_000_000_123
KEYS = ("a", "b", "n", "when")


# --- the oracle: CEL's evaluation, with history functions that look at every entry


class Moment:
    """What the oracle's functions look at: set before each evaluation."""

    tx: Transaction
    past: Past

    def window(self, span: timedelta) -> list[HistoryEntry]:
        width = span // timedelta(milliseconds=1)
        return [x for x in self.past if self.tx.timestamp - width < x.timestamp <= self.tx.timestamp]


moment = Moment()


def _sum(span: timedelta) -> float:
    total = sum((Fraction(x.amount) for x in moment.window(span)), Fraction())
    return float(total) if abs(total) < Fraction(1 << 1024) else inf * (1 if total > 0 else -1)


def _average(span: timedelta) -> float:
    return _sum(span) / len(moment.window(span))


def _previous_seconds() -> float:
    previous = moment.past.previous
    return 0.0 if previous is None else (moment.tx.timestamp - previous.timestamp) / 1000


WINDOW: dict[str, Callable[[timedelta], Any]] = {
    "count": lambda span: len(moment.window(span)),
    "sum_amount": _sum,
    "avg_amount": _average,
    "min_amount": lambda span: min((x.amount for x in moment.window(span)), default=0.0),
    "max_amount": lambda span: max((x.amount for x in moment.window(span)), default=0.0),
    "distinct_merchants": lambda span: len({x.merchant for x in moment.window(span)}),
    "distinct_countries": lambda span: len({x.country for x in moment.window(span)}),
}
PREVIOUS: dict[str, Callable[[], Any]] = {
    "has_previous": lambda: moment.past.previous is not None,
    "previous_amount": lambda: 0.0 if moment.past.previous is None else moment.past.previous.amount,
    "seconds_since_previous": _previous_seconds,
}


@cache
def oracle() -> cel.Env:
    kinds = {
        "bool": cel.Type.BOOL,
        "int": cel.Type.INT,
        "double": cel.Type.DOUBLE,
        "string": cel.Type.STRING,
        "timestamp": cel.Type.TIMESTAMP,
        "map(string, string)": cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
    }
    functions = [
        cel.FunctionDecl(
            name, [cel.Overload(name, return_type=kinds[kind], parameters=[cel.Type.DURATION], impl=WINDOW[name])]
        )
        for name, kind in language.WINDOW_TYPES.items()
    ] + [
        cel.FunctionDecl(name, [cel.Overload(name, return_type=kinds[kind], parameters=[], impl=PREVIOUS[name])])
        for name, kind in language.PREVIOUS_TYPES.items()
    ]
    return cel.NewEnv(variables={name: kinds[kind] for name, kind in language.FIELDS.items()}, functions=functions)


def expected(text: str, tx: Transaction, past: Past) -> str:
    moment.tx, moment.past = tx, past
    data = {name: getattr(tx, name) for name in language.FIELDS}
    data["timestamp"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=tx.timestamp)
    answer = oracle().compile(text).eval(data=data)
    if answer.type() == cel.Type.BOOL:
        return "fires" if answer.value() else "does not fire"
    return "error"


def decided(text: str, tx: Transaction, past: Past) -> str:
    rule = Rule(rule_id="r", description="", active=True, risk_level=RiskLevel.LOW, when=text, version=1)
    rules = RuleSet([AdmittedRule(rule, condition_of(text))])
    fired = rules.judge(tx, past)
    if rules.errors["r"]:
        return "error" if fired is None else "fires with an error"
    return "does not fire" if fired is None else "fires"


# --- random conditions: templates by type, whose {places} are filled by templates of the place's type

WORDS = (
    "",
    "a",
    "b",
    "m1",
    "DE",
    "KP",
    "ü€",
    "😀x",
    "12",
    "-7",
    "1.5",
    "true",
    "2023-11-14T22:13:20Z",
    "10m",
    "x" * 40,
)

CHOICES = {
    "key": KEYS,
    "span": ("1s", "1500ms", "1001ms", "10m", "1h", "720h", "1.5h"),
    "small": ("-2", "0", "1", "2", "3", "5", "12"),
    "compare": ("==", "!=", "<", "<=", ">", ">="),
    "equal": ("==", "!="),
    "text_test": ("contains", "startsWith", "endsWith"),
    "of_ints": ("+", "-", "*", "/", "%"),
    "of_doubles": ("+", "-", "*"),
    # Dividing a double by zero is the one place where our rules differ from CEL, on purpose.
    "not_zero": ("2.0", "-0.5", "3.0", "1e-300", "1e300"),
    "plus": ("+", "-"),
    "zone": ("", "'UTC'", "'+05:30'", "'-11:00'", "'02:00'"),
    "of_duration": ("Hours", "Minutes", "Seconds", "Milliseconds"),
    "of_timestamp": (
        *("FullYear", "Month", "Date", "DayOfMonth", "DayOfYear", "DayOfWeek"),
        *("Hours", "Minutes", "Seconds", "Milliseconds"),
    ),
    "literal_duration": ("0s", "1ns", "-90m", "1h30m", "1.5s", "2562047h", "-2562047h", "0.001s", "999ms"),
    "literal_timestamp": (
        "2023-11-14T22:13:20.123Z",
        "1969-12-31T23:59:59.999999999Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
        "2024-02-29T23:59:60+05:30",
        "2023-11-14t22:13:20.1-08:00",
    ),
}
LEAVES = {
    "string": ("{word}", "transaction_id", "user_id", "merchant", "country", "attributes.{key}", "attributes['{key}']"),
    "int": (
        "{integer}",
        "count(duration('{span}'))",
        "distinct_merchants(duration('{span}'))",
        "distinct_countries(duration('{span}'))",
        "size(attributes)",
    ),
    "double": (
        "{number}",
        "amount",
        "sum_amount(duration('{span}'))",
        "avg_amount(duration('{span}'))",
        "min_amount(duration('{span}'))",
        "max_amount(duration('{span}'))",
        "previous_amount()",
        "seconds_since_previous()",
    ),
    "duration": ("duration('{literal_duration}')",),
    "timestamp": ("timestamp('{literal_timestamp}')", "timestamp"),
    "bool": (
        "true",
        "false",
        "has_previous()",
        "('a' in attributes)",
        "has(attributes.{key})",
        "(1 / 0 == 1)",
        "(attributes.missing == 'x')",
        "(count(duration('{span}')) {compare} {small})",
        "({small} {compare} count(duration('{span}')))",
    ),
}
BRANCHES = {
    "string": (
        "({string} + {string})",
        "string({int})",
        "string({bool})",
        "attributes[{string}]",
        "{strings}[{int}]",
        "({bool} ? {string} : {string})",
    ),
    "int": (
        "({int} {of_ints} {int})",
        "(-({int}))",
        "size({string})",
        "size({ints})",
        "int({double})",
        "int({string})",
        "int({timestamp})",
        "{timestamp}.get{of_timestamp}({zone})",
        "{duration}.get{of_duration}()",
        "{ints}[{int}]",
        "({bool} ? {int} : {int})",
    ),
    "double": (
        "({double} {of_doubles} {double})",
        "({double} / {not_zero})",
        "(-({double}))",
        "double({int})",
        "double({string})",
        "{doubles}[{int}]",
        "{{'a': {double}, 'DE': {double}}}[{string}]",
        "{{'a': 1.0, 'DE': 2.0}}[{string}]",
        "{{'a': 1.0, 'DE': 2.0}}.DE",
        "({bool} ? {double} : {double})",
    ),
    "duration": (
        "({duration} {plus} {duration})",
        "({timestamp} - {timestamp})",
        "duration(attributes.when)",
        "({bool} ? {duration} : {duration})",
    ),
    "timestamp": (
        "({timestamp} {plus} {duration})",
        "({duration} + {timestamp})",
        "timestamp({int})",
        "timestamp(attributes.when)",
        "({bool} ? {timestamp} : {timestamp})",
    ),
    "bool": (
        "({bool} && {bool})",
        "({bool} || {bool})",
        "({bool} && {bool} && {bool})",
        "({bool} || {bool} || {bool})",
        "!({bool})",
        "({bool} ? {bool} : {bool})",
        "({string} {compare} {string})",
        "({int} {compare} {int})",
        "({double} {compare} {double})",
        "({duration} {compare} {duration})",
        "({timestamp} {compare} {timestamp})",
        "({bool} {compare} {bool})",
        "({string} in {strings})",
        "({int} in {ints})",
        "({double} in {doubles})",
        "({doubles} {equal} {doubles})",
        "({ints} + {ints} {equal} {ints})",
        "({string} in attributes)",
        "({string} in {{'DE': 1, 'a': 2}})",
        "{string}.{text_test}({string})",
        "{string}.matches('^[a-z0-9]+(1|2)*$')",
        "bool({string})",
    ),
}
LISTS = {"strings": "string", "ints": "int", "doubles": "double"}

words = st.sampled_from(WORDS) | st.text(max_size=5)
integers = st.integers(-3, 12) | st.sampled_from([2**63 - 1, -(2**63), 2**62, 10**10])
numbers = st.sampled_from([0.0, -0.0, 1.0, 12.5, 1e308, -1e308, 5e-324, 0.1]) | st.floats(-100, 100)


def quoted(text: str) -> str:
    return "'" + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text) + "'"


def places(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name]


@st.composite
def written(draw: st.DrawFn, kind: str, depth: int) -> str:
    """An expression of a type, its branches at most ``depth`` deep."""
    if kind == "word":
        return quoted(draw(words))
    if kind == "integer":
        return str(draw(integers))
    if kind == "number":
        return repr(draw(numbers))
    if kind in CHOICES:
        return draw(st.sampled_from(CHOICES[kind]))
    if kind in LISTS:
        elements = [draw(written(LISTS[kind], depth - 1)) for _ in range(draw(st.integers(1, 3)))]
        return "[" + ", ".join(elements) + "]"
    deeper = depth > 0 and draw(st.integers(0, 2)) > 0
    template = draw(st.sampled_from((BRANCHES if deeper else LEAVES)[kind]))
    pieces = [draw(written(place, depth - 1)) for place in places(template)]
    return re.sub(r"\{[a-z_]+\}", "{}", template).format(*pieces)


def within_bounds(text: str) -> bool:
    uses = re.findall(r"(?:count|_amount|distinct_\w+|_previous)\(", text)
    return len(text) < 3000 and len(uses) <= bounds.MAX_HISTORY_CALLS and text.count("matches(") <= bounds.MAX_PATTERNS


conditions = written("bool", 5).filter(within_bounds)

# --- random transactions and histories

times = st.integers(NOW - 4_000_000, NOW + 2_000) | st.sampled_from(
    [NOW, NOW - 999, NOW - 1000, NOW - 1001, NOW - 600_000, NOW - 599_999, NOW + 1]
)
amounts = st.sampled_from([0.0, 1.0, 12.5, -3.0, 1e308, 0.1, 0.2]) | st.floats(-1e6, 1e6)
entries = st.builds(
    HistoryEntry,
    timestamp=times,
    amount=amounts,
    merchant=st.sampled_from(["", "m1", "m2", "m3"]),
    country=st.sampled_from(["", "DE", "KP"]),
)


@st.composite
def moments(draw: st.DrawFn) -> tuple[Transaction, Past]:
    attributes = draw(st.dictionaries(st.sampled_from(KEYS), words, max_size=4))
    here = draw(entries)
    tx = Transaction("t1", draw(words) or "u", here.amount, NOW, here.merchant, here.country, attributes)
    others = draw(st.lists(entries, max_size=14))
    past = Past(sorted([*others, HistoryEntry(NOW, tx.amount, tx.merchant, tx.country)], key=lambda x: x.timestamp))
    past.previous = draw(st.none() | st.sampled_from(others)) if others else None
    return tx, past


EMPTY = (Transaction("t1", "u", 1.0, NOW), Past([HistoryEntry(NOW, 1.0)]))


@settings(max_examples=600, deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
@given(text=conditions, at=moments())
@example(text="1 / 0 == 1 || true", at=EMPTY)
@example(text="attributes.x == 'y' && false", at=EMPTY)
@example(text="(1 / 0 == 1 ? true : true) || amount < 2.0", at=EMPTY)
@example(text="double('nan') in [double('nan')]", at=EMPTY)
@example(text="[double('nan')] == [double('nan')]", at=EMPTY)
@example(text="-9223372036854775808 / -1 == 1", at=EMPTY)
@example(text="[1, 2][-1] == 2", at=EMPTY)
@example(text="-7 / 2 == -3 && -7 % 2 == -1", at=EMPTY)
def test_a_compiled_condition_decides_as_cel_does(text: str, at: tuple[Transaction, Past]) -> None:
    tx, past = at
    assert decided(text, tx, past) == expected(text, tx, past), text
