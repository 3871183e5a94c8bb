"""All active rules as a few Python functions, and the set of rules that a worker judges transactions with.

Rules are spread over chunks by a hash of their ids; each chunk is one function, so a change compiles one chunk anew.
The code of a chunk depends on conditions alone and is kept in a bounded cache: a rule that is switched off and on, or
gets another description, compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from types import CodeType
from typing import Any
from zlib import crc32

from agents.rules.admission import AdmittedRule
from agents.rules.condition import Condition, Threshold
from agents.rules.explanation import Explain, explainer
from agents.rules.history import History
from agents.rules.translation import NAMESPACE, Translator
from models.time import Millis
from models.transactions import Transaction

#: Rules per chunk, on average at most.
CHUNK_RULES = 64

_RULE_ID = attrgetter("rule_id")

_Judge = Callable[[Transaction, History], "list[Firing] | None"]


class Counts:
    """What a rule did, by rule id, over all versions of the set; a deleted or inactive rule's counts go."""

    __slots__ = ("errors", "fired", "last_error")

    def __init__(self) -> None:
        self.fired: dict[str, int] = {}
        #: transactions for which the rule had a run-time error, so did not fire
        self.errors: dict[str, int] = {}
        #: what the last of them was
        self.last_error: dict[str, str] = {}

    def start(self, rule_id: str) -> None:
        self.fired.setdefault(rule_id, 0)
        self.errors.setdefault(rule_id, 0)

    def drop(self, rule_id: str) -> None:
        for counts in (self.fired, self.errors, self.last_error):
            counts.pop(rule_id, None)

    def add_fired(self, firings: list[Firing]) -> list[Firing]:
        """Count what fired for a transaction, and put it in order."""
        if len(firings) > 1:
            firings.sort(key=_RULE_ID)
        for firing in firings:
            self.fired[firing.rule_id] = self.fired.get(firing.rule_id, 0) + 1
        return firings

    def add_error(self, firing: Firing, error: Exception) -> None:
        self.errors[firing.rule_id] = self.errors.get(firing.rule_id, 0) + 1
        said = f"no value for {error}" if isinstance(error, KeyError) else str(error)
        self.last_error[firing.rule_id] = said[:200]


class Firing:
    """A rule that fired, as the alert tells of it.  One object per rule version: keep nothing of a transaction here."""

    __slots__ = ("_condition", "_explain", "message", "risk_level", "rule_id", "version")

    def __init__(self, admitted: AdmittedRule) -> None:
        rule = admitted.rule
        self.rule_id = rule.rule_id
        self.version = rule.version or 1
        self.risk_level = rule.risk_level.value
        self.message = f"Rule triggered: {rule.description}"
        self._condition = admitted.condition
        self._explain: Explain | None = None

    def __repr__(self) -> str:
        return f"Firing({self.rule_id!r}, version={self.version})"

    def explain(self, tx: Transaction, past: History) -> dict[str, object]:
        """See :func:`agents.rules.explanation.explainer`."""
        explain = self._explain
        if explain is None:  # most rules never fire
            explain = self._explain = explainer(self._condition)
        return explain(tx, past)


class _Chunk:
    """Some rules, in order of their ids, as one function."""

    __slots__ = ("judge", "longest_window_ms", "rules", "uses_history")

    def __init__(self, rules: Mapping[str, AdmittedRule], counts: Counts) -> None:
        self.rules = {name: rules[name] for name in sorted(rules)}
        namespace: dict[str, Any] = dict(NAMESPACE)
        namespace["_fired"] = counts.add_fired
        namespace["_failed"] = counts.add_error
        namespace["_error"] = Exception
        for number, admitted in enumerate(self.rules.values()):
            namespace[f"r_{number}"] = Firing(admitted)
        exec(
            compiled(tuple((admitted.condition, admitted.rule.effective_from) for admitted in self.rules.values())),
            namespace,
        )
        self.judge: _Judge = namespace["judge"]
        conditions = [admitted.condition for admitted in rules.values()]
        self.longest_window_ms = max((condition.longest_window_ms for condition in conditions), default=0)
        self.uses_history = any(condition.calls for condition in conditions)


@lru_cache(maxsize=256)
def compiled(conditions: tuple[tuple[Condition, Millis | None], ...]) -> CodeType:
    """Code that defines ``judge(tx, h)`` over these conditions, given a :class:`Firing` ``r_N`` for each."""
    return compile(source_of(conditions), "<rules>", "exec", dont_inherit=True)


def source_of(conditions: Sequence[tuple[Condition, Millis | None]]) -> str:
    """Python source of a chunk's module."""
    translator = Translator(condition for condition, _ in conditions)
    body: list[str] = []
    before: list[str] = []
    for least, numbers in _by_threshold([condition.threshold for condition, _ in conditions]):
        lines: list[str] = []
        for number in numbers:
            condition, effective_from = conditions[number]
            lines += _rule(number, condition, effective_from, translator, before)
        body += lines if least is None else [f"if {translator.threshold(least)}:", *_indent(lines)]
    lines = [
        *translator.constants(),
        *before,
        "def judge(tx, h):",
        *_indent([*translator.first_lines(), "f = None", *body, "return f if f is None else _fired(f)"]),
    ]
    return "\n".join(lines) + "\n"


def _by_threshold(thresholds: Sequence[Threshold | None]) -> Iterator[tuple[Threshold | None, list[int]]]:
    """Rules by the threshold that none of them passes unless the transaction does: a hundred limits on the amount cost one comparison.

    ``None`` for the others.  Their places in the sequence stand for the rules.
    """
    alike: dict[tuple[str, bool], list[int]] = {}
    others: list[int] = []
    for number, threshold in enumerate(thresholds):
        (others if threshold is None else alike.setdefault((threshold.field, threshold.above), [])).append(number)
    for (field, above), numbers in alike.items():
        limits = [threshold.limit for number in numbers if (threshold := thresholds[number]) is not None]
        yield Threshold(field, above, min(limits) if above else max(limits)), numbers
    yield None, others


def _rule(
    number: int, condition: Condition, effective_from: Millis | None, translator: Translator, before: list[str]
) -> list[str]:
    """Lines that try one rule; ``before`` gets what they need in front of the function."""
    test = translator.expression(condition.root)
    if effective_from is not None:
        test = f"{translator.effective_from(effective_from)} and {test}"
    if not condition.can_fail:
        # Ten rules in 0.19 us; with a try around each of them it is 0.26.
        return _fire(number, test)
    lines = ["try:", *_indent(_fire(number, test))]
    if not condition.absorbs:
        return [*lines, "except _error as x:", f"    _failed(r_{number}, x)"]
    before += _exact_function(number, condition)
    lines += ["except _error:", "    try:"]
    lines += _indent(_indent(_fire(number, f"exact_{number}(tx, h)")))
    return [*lines, "    except _error as x:", f"        _failed(r_{number}, x)"]


def _fire(number: int, test: str) -> list[str]:
    return [f"if {test}:", f"    if f is None: f = [r_{number}]", f"    else: f.append(r_{number})"]


def _exact_function(number: int, condition: Condition) -> list[str]:
    """The condition with CEL's absorption of errors, asked after the plain form raised."""
    translator = Translator((condition,), exact=True, constants=f"c_{number}")
    test = translator.expression(condition.root)
    return [
        *translator.constants(),
        f"def exact_{number}(tx, h):",
        *_indent([*translator.first_lines(), f"return {test}"]),
    ]


def _indent(lines: Iterable[str]) -> list[str]:
    return ["    " + line for line in lines]


class RuleSet:
    """The active rules of one moment; it never changes, a change makes another one (:meth:`with_changes`)."""

    __slots__ = ("_chunks", "_counts", "judge", "longest_window_ms", "uses_history")

    #: (transaction, the user's history with it) -> the rules that fired, by rule id, or ``None`` for none, at once.
    judge: Callable[[Transaction, History], Sequence[Firing] | None]
    #: longest span of the window functions in use, ms; 0 without one
    longest_window_ms: Millis
    #: whether any rule asks for the history, be it only for the previous transaction
    uses_history: bool

    def __init__(self, rules: Iterable[AdmittedRule] = ()) -> None:
        """Of rules with equal ids the last one counts; inactive rules are left out."""
        last = {admitted.rule.rule_id: admitted for admitted in rules}
        active = {name: admitted for name, admitted in last.items() if admitted.rule.active}
        self._counts = Counts()
        for name in active:
            self._counts.start(name)
        self._take(_spread(active, self._counts))

    def with_changes(self, changes: Mapping[str, AdmittedRule | None]) -> RuleSet:
        """The set after these changes by rule id (``None``: deleted); the counts go on in it."""
        size = len(self._chunks)
        stale: dict[int, dict[str, AdmittedRule]] = {}
        for name, admitted in changes.items():
            place = _place(name, size)
            rules = stale[place] if place in stale else dict(self._chunks[place].rules)
            if admitted is not None and admitted.rule.active:
                if rules.get(name) == admitted:
                    continue
                rules[name] = admitted
                self._counts.start(name)
            elif rules.pop(name, None) is None:
                continue
            else:
                self._counts.drop(name)
            stale[place] = rules
        if not stale:
            return self
        number = len(self) + sum(len(rules) - len(self._chunks[place].rules) for place, rules in stale.items())
        new = RuleSet.__new__(RuleSet)
        new._counts = self._counts
        if _chunk_number(number, size) == size:
            chunks = list(self._chunks)
            for place, rules in stale.items():
                chunks[place] = _Chunk(rules, self._counts)
            new._take(chunks)
        else:
            every: dict[str, AdmittedRule] = {}
            for place, chunk in enumerate(self._chunks):
                every.update(stale.get(place, chunk.rules))
            new._take(_spread(every, self._counts))
        return new

    def _take(self, chunks: Sequence[_Chunk]) -> None:
        self._chunks = tuple(chunks)
        self.longest_window_ms = max(chunk.longest_window_ms for chunk in chunks)
        self.uses_history = any(chunk.uses_history for chunk in chunks)
        self.judge = _judge_all([chunk.judge for chunk in chunks if chunk.rules])

    def __len__(self) -> int:
        return sum(len(chunk.rules) for chunk in self._chunks)

    def rules(self) -> dict[str, AdmittedRule]:
        """The active rules, by rule id."""
        return {name: admitted for chunk in self._chunks for name, admitted in chunk.rules.items()}

    @property
    def fired(self) -> Mapping[str, int]:
        """Transactions for which a rule fired, by rule id."""
        return self._counts.fired

    @property
    def errors(self) -> Mapping[str, int]:
        """Transactions for which a rule had a run-time error and so did not fire, by rule id."""
        return self._counts.errors

    @property
    def last_errors(self) -> Mapping[str, str]:
        """The last run-time error, by rule id, of those that had one."""
        return self._counts.last_error


def _chunk_number(rules: int, now: int) -> int:
    """A power of two.  It stays while chunks are not too full and not four times too empty."""
    if rules <= now * CHUNK_RULES and (now == 1 or rules * 4 >= now * CHUNK_RULES):
        return now
    number = 1
    while rules > number * CHUNK_RULES:
        number *= 2
    return number


def _place(rule_id: str, chunks: int) -> int:
    return crc32(rule_id.encode()) % chunks


def _spread(rules: Mapping[str, AdmittedRule], counts: Counts) -> list[_Chunk]:
    size = _chunk_number(len(rules), 1)
    members: list[dict[str, AdmittedRule]] = [{} for _ in range(size)]
    for name, admitted in rules.items():
        members[_place(name, size)][name] = admitted
    return [_Chunk(part, counts) for part in members]


def _judge_all(judges: Sequence[_Judge]) -> Callable[[Transaction, History], Sequence[Firing] | None]:
    if len(judges) == 1:
        return judges[0]

    def judge(tx: Transaction, past: History) -> Sequence[Firing] | None:
        fired: list[Firing] | None = None
        for part in judges:
            found = part(tx, past)
            if found is not None:
                fired = found if fired is None else sorted(fired + found, key=lambda firing: firing.rule_id)
        return fired

    return judge
