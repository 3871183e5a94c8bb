"""An admitted condition: its checked tree and what it uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.rules import language, values
from agents.rules.tree import Call, Literal, Name, Node, Select, children, walk
from models.time import Millis


class HistoryCall(NamedTuple):
    """One use of the user's history; ``window_ms`` is 0 for the functions of the previous transaction."""

    name: str
    window_ms: Millis
    #: as it is shown in an explanation: ``count(duration('10m'))``
    shown: str


class Threshold(NamedTuple):
    """What a transaction must pass for a condition to hold: the field lies above the limit, or below, or (to be simple) on it."""

    field: str
    above: bool
    limit: float


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition that is known to be translatable and within the cost bounds.  Equal only to itself."""

    #: as its author wrote it
    text: str
    root: Node
    #: names of the transaction's fields it reads, ``attributes`` only where it reads them as a whole, in order
    fields: tuple[str, ...] = field(init=False)
    #: keys of attributes that it names
    attributes: tuple[str, ...] = field(init=False)
    calls: tuple[HistoryCall, ...] = field(init=False)
    #: the first thing that it asks, if that is a comparison of a number with a literal
    threshold: Threshold | None = field(init=False)
    #: whether evaluating it can have a run-time error
    can_fail: bool = field(init=False)
    #: whether such an error can be absorbed by the right side of ``&&`` or ``||``
    absorbs: bool = field(init=False)

    def __post_init__(self) -> None:
        uses = list(_uses(self.root))
        set_ = object.__setattr__
        set_(self, "fields", tuple(dict.fromkeys(use.name for use in uses if isinstance(use, Name))))
        set_(self, "attributes", tuple(dict.fromkeys(use for use in uses if isinstance(use, str))))
        set_(self, "calls", tuple(dict.fromkeys(use for use in uses if isinstance(use, HistoryCall))))
        set_(self, "threshold", _threshold(self.root))
        set_(self, "can_fail", can_fail(self.root))
        set_(self, "absorbs", _absorbs(self.root))

    @property
    def longest_window_ms(self) -> Millis:
        return max((call.window_ms for call in self.calls), default=0)


def attribute_key(node: Node) -> str | None:
    """The key of ``attributes.key``, ``has(attributes.key)``, ``attributes["key"]`` and ``"key" in attributes``, else None."""
    match node:
        case Select(operand=Name(name="attributes"), field=key):
            return key
        case Call(function="_[_]", args=(Name(name="attributes"), Literal(value=str(key)))):
            return key
        case Call(function="@in", args=(Literal(value=str(key)), Name(name="attributes"))):
            return key
        case _:
            return None


def history_call(node: Node) -> HistoryCall | None:
    """The use of the history that the node is; raises ``ValueError`` for a span that is no literal duration."""
    if not isinstance(node, Call):
        return None
    if node.function in language.PREVIOUS_TYPES:
        return HistoryCall(node.function, 0, f"{node.function}()")
    if node.function not in language.WINDOW_TYPES:
        return None
    match node.args:
        case (Call(function="duration", args=(Literal(value=str(text)),)),):
            # Timestamps are whole milliseconds, so x > t - d holds exactly when x > t - (d rounded up).
            window_ms = -(-values.duration_of_string(text) // values.NS_PER_MS)
            return HistoryCall(node.function, window_ms, f"{node.function}(duration('{text}'))")
    raise ValueError("write the span as a literal, such as duration('10m')")


def _uses(node: Node) -> Iterator[Name | str | HistoryCall]:
    call = history_call(node)
    if call is not None:
        yield call
        return
    key = attribute_key(node)
    if key is not None:
        yield key
        return
    if isinstance(node, Name):
        yield node
    for child in children(node):
        yield from _uses(child)


def _threshold(node: Node) -> Threshold | None:
    match node:
        case Call(function="_&&_", args=(left, _)):
            return _threshold(left)
        case Call(function="_>_" | "_>=_", args=(Name(name="amount") as name, Literal(value=int() | float() as limit))):
            return Threshold(name.name, True, limit)
        case Call(function="_<_" | "_<=_", args=(Name(name="amount") as name, Literal(value=int() | float() as limit))):
            return Threshold(name.name, False, limit)
        case Call(function="_<_" | "_<=_", args=(Literal(value=int() | float() as limit), Name(name="amount") as name)):
            return Threshold(name.name, True, limit)
        case Call(function="_>_" | "_>=_", args=(Literal(value=int() | float() as limit), Name(name="amount") as name)):
            return Threshold(name.name, False, limit)
        case _:
            return None


_INT_OVERFLOW = frozenset({"_+_", "_-_", "_*_", "-_"})


def can_fail(node: Node) -> bool:
    """Whether evaluating the node, or anything below it, can have a run-time error."""
    return any(_fails_itself(below) for below in walk(node))


def _fails_itself(node: Node) -> bool:
    if isinstance(node, Select):
        return not node.test_only
    if not isinstance(node, Call):
        return False
    function, args = node.function, node.args
    if function in {"duration", "timestamp"}:
        # Literal texts were converted at admission.
        return args[0].type != function and not (isinstance(args[0], Literal) and args[0].kind == "string")
    if function in {"_[_]", "_%_", "matches"}:
        return True
    if function in {"bool", "int"}:
        return args[0].type in {"string", "double"}
    if function == "_/_":
        divisor = args[1]
        return node.type == "int" or not (isinstance(divisor, Literal) and bool(divisor.value))
    if function in _INT_OVERFLOW:
        return node.type in {"int", "timestamp", "duration"}
    if function == "double":
        return args[0].type == "string"
    return function.startswith("get") and args[0].type == "timestamp"


def _absorbs(node: Node) -> bool:
    return any(
        isinstance(below, Call) and below.function in {"_&&_", "_||_"} and can_fail(below.args[0])
        for below in walk(node)
    )
