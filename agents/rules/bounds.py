"""What a condition may cost, and which part of CEL it may use: everything that could run long is refused before it runs.

A condition within these bounds takes time linear in its nodes, in the text of the fields and in the user's kept history.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agents.rules import language, values
from agents.rules.condition import history_call
from agents.rules.tree import Call, Foreign, ListOf, Literal, MapOf, Name, Node, children, walk
from models.time import Millis

#: size of a whole rule record, bytes
MAX_RULE_BYTES = 100_000
#: size of a condition, bytes of UTF-8
MAX_TEXT_BYTES = 4096
MAX_NODES = 1000
MAX_LIST_ELEMENTS = 512
#: uses of history functions in one condition
MAX_HISTORY_CALLS = 16
MAX_PATTERNS = 4
MAX_PATTERN_BYTES = 256
#: spans of the history functions, both included, ms
MIN_WINDOW_MS: Millis = 1000
MAX_WINDOW_MS: Millis = 30 * 24 * 3600 * 1000

_SCALARS = frozenset({"bool", "int", "double", "string", "timestamp", "duration"})
_TEXT = frozenset({"startsWith", "endsWith", "contains"})
_TIMESTAMP_PARTS = frozenset(
    {
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfYear",
        "getDayOfWeek",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    }
)
_OPERATORS = frozenset(
    {
        "_&&_",
        "_||_",
        "!_",
        "_?_:_",
        "_==_",
        "_!=_",
        "_<_",
        "_<=_",
        "_>_",
        "_>=_",
        "_+_",
        "_-_",
        "_*_",
        "_/_",
        "_%_",
        "-_",
    }
)
#: What each conversion takes.
_CONVERSIONS = {
    "bool": frozenset({"bool", "string"}),
    "int": frozenset({"int", "double", "string", "timestamp"}),
    "double": frozenset({"double", "int", "string"}),
    "string": frozenset({"string", "int", "bool"}),
    "timestamp": frozenset({"timestamp", "string", "int"}),
    "duration": frozenset({"duration", "string"}),
}


class OutOfBounds(ValueError):
    """Refused; ``at`` is the offset in the checked text."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at


def check(root: Node) -> None:
    """Check a type-checked tree; raises :class:`OutOfBounds`."""
    nodes = list(walk(root))
    if len(nodes) > MAX_NODES:
        raise OutOfBounds(
            nodes[MAX_NODES].at, f"{len(nodes)} parts, at most {MAX_NODES} are taken; make several rules of it"
        )
    calls = [node for node in nodes if isinstance(node, Call)]
    uses = [
        call for call in calls if call.function in language.WINDOW_TYPES or call.function in language.PREVIOUS_TYPES
    ]
    _at_most(uses, MAX_HISTORY_CALLS, "uses of history functions")
    _at_most([call for call in calls if call.function == "matches"], MAX_PATTERNS, "uses of matches")
    _check_from_below(root)
    if root.type != "bool":
        raise OutOfBounds(
            root.at, f"a condition is true or false, this is of type {root.type}; compare it with something"
        )


def _check_from_below(node: Node) -> None:
    """The parts of a node first: "unsigned numbers are not part of rules" says more than "uint is not compared"."""
    for child in children(node):
        _check_from_below(child)
    _check_node(node)


def _at_most(nodes: Sequence[Node], limit: int, what: str) -> None:
    if len(nodes) > limit:
        raise OutOfBounds(nodes[limit].at, f"{len(nodes)} {what}, at most {limit} are taken; make several rules of it")


def _check_node(node: Node) -> None:
    match node:
        case Foreign():
            if node.what == "comprehension":
                raise OutOfBounds(
                    node.at, "all, exists, exists_one, map and filter are not part of rules; use 'in' or write it out"
                )
            raise OutOfBounds(node.at, f"{node.what} is not part of rules")
        case Literal():
            _check_literal(node)
        case Name():
            if node.name not in language.FIELDS:
                raise OutOfBounds(
                    node.at, f"the type name {node.name} is not part of rules; name a field of the transaction"
                )
        case ListOf():
            if len(node.elements) > MAX_LIST_ELEMENTS:
                raise OutOfBounds(node.at, f"{len(node.elements)} elements, a list holds at most {MAX_LIST_ELEMENTS}")
            if node.elements:
                _check_same_scalars(node, node.elements, "a list")
            return
        case MapOf():
            _check_map(node)
            return
        case Call():
            _check_call(node)
    if node.type not in _SCALARS and not node.type.startswith(("list(", "map(")):
        raise OutOfBounds(node.at, f"values of type {node.type} are not part of rules")


def _check_literal(node: Literal) -> None:
    if node.kind == "uint":
        raise OutOfBounds(node.at, f"unsigned numbers are not part of rules; write {node.value!r}")
    if node.kind in {"bytes", "null"}:
        raise OutOfBounds(node.at, f"{node.kind} is not part of rules")
    if isinstance(node.value, float) and not math.isfinite(node.value):
        raise OutOfBounds(node.at, "the number is too large for a double")


def _check_same_scalars(node: Node, elements: Sequence[Node], what: str) -> None:
    types = {element.type for element in elements}
    if len(types) > 1:
        raise OutOfBounds(node.at, f"{what} mixes the types {' and '.join(sorted(types))}")
    if not types <= _SCALARS:
        raise OutOfBounds(node.at, f"{what} holds plain values only, not {types.pop()}")


def _check_map(node: MapOf) -> None:
    if not node.entries:
        raise OutOfBounds(node.at, "an empty map has no use in a rule")
    if len(node.entries) > MAX_LIST_ELEMENTS:
        raise OutOfBounds(node.at, f"{len(node.entries)} entries, a map holds at most {MAX_LIST_ELEMENTS}")
    keys: set[object] = set()
    for key, _ in node.entries:
        if not isinstance(key, Literal) or key.kind != "string":
            raise OutOfBounds(key.at, "keys of a map are literal strings")
        if key.value in keys:
            raise OutOfBounds(key.at, f"the key {key.value!r} is there twice")
        keys.add(key.value)
    _check_same_scalars(node, [value for _, value in node.entries], "a map")


def _check_call(node: Call) -> None:
    function, args = node.function, node.args
    types = [arg.type for arg in args]
    if function in language.WINDOW_TYPES:
        _check_window(node)
    elif function in _CONVERSIONS:
        if types[0] not in _CONVERSIONS[function]:
            raise OutOfBounds(node.at, f"{function}() of {types[0]} is not part of rules")
        _check_constant(node)
    elif function in _TIMESTAMP_PARTS:
        if len(args) == 2:
            zone = args[1]
            if not isinstance(zone, Literal) or not isinstance(zone.value, str):
                raise OutOfBounds(zone.at, "the time zone must be a literal such as '+02:00'")
            try:
                values.zone_of_string(zone.value)
            except ValueError as error:
                raise OutOfBounds(zone.at, str(error)) from None
    elif function == "matches":
        _check_pattern(args[1])
    elif function in {"_==_", "_!=_"} and not _comparable(types[0]):
        raise OutOfBounds(node.at, f"values of type {types[0]} are not compared")
    elif function not in _OPERATORS | _TEXT | language.PREVIOUS_TYPES.keys() | {"@in", "_[_]", "size"}:
        raise OutOfBounds(node.at, f"{function}() is not part of rules")


def _comparable(type_: str) -> bool:
    return (
        type_ in _SCALARS or type_ == "map(string, string)" or (type_.startswith("list(") and type_[5:-1] in _SCALARS)
    )


def _check_window(node: Call) -> None:
    span = node.args[0]
    try:
        call = history_call(node)
    except ValueError as error:
        raise OutOfBounds(span.at, f"{node.function}: {error}") from None
    if call is None or not MIN_WINDOW_MS <= call.window_ms <= MAX_WINDOW_MS:
        raise OutOfBounds(span.at, f"{node.function}: the span must be from 1 s to 30 days (720h)")


def _check_constant(node: Call) -> None:
    """A literal that cannot be converted would fail at every transaction: say so now."""
    arg = node.args[0]
    if not isinstance(arg, Literal) or not isinstance(arg.value, str):
        return
    try:
        if node.function == "timestamp":
            values.timestamp_of_string(arg.value)
        elif node.function == "duration":
            values.duration_of_string(arg.value)
    except (ValueError, ArithmeticError) as error:
        raise OutOfBounds(arg.at, f"{error}: {arg.value!r}") from None


def _check_pattern(node: Node) -> None:
    if not isinstance(node, Literal) or not isinstance(node.value, str):
        raise OutOfBounds(
            node.at, "matches takes a literal pattern; for plain text use contains, startsWith or endsWith"
        )
    if len(node.value.encode()) > MAX_PATTERN_BYTES:
        raise OutOfBounds(node.at, f"the pattern is longer than {MAX_PATTERN_BYTES} bytes")
    try:
        language.pattern(node.value)
    except ValueError as error:
        raise OutOfBounds(node.at, f"the pattern is refused: {error}") from None
