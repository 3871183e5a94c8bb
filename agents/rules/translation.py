"""From checked trees to Python source: one expression per condition.

Nothing of a rule's text gets into the source but through ``repr`` of a literal; every name is one of ours.  Names that the
source may use: ``t`` (timestamp in ms), ``tns`` (in ns), ``f_FIELD``, ``h`` (history), ``e`` (end of the window),
``w_MS`` (start of a window), ``v_N`` (a shared value) and the functions in :data:`NAMESPACE`.

Two ways of writing a condition:

plain   Python's ``and`` and ``or``.  Right whenever it does not raise.  History values used more than once are computed
        at their first use and kept in a local.
exact   with CEL's absorption of errors: ``error || true`` is true, ``false && error`` is false on both sides.  Slower;
        evaluated only after the plain one raised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from agents.rules import history, language, values
from agents.rules.condition import Condition, HistoryCall, Threshold, can_fail, history_call
from agents.rules.tree import Call, ListOf, Literal, MapOf, Name, Node, Select, walk

_Thunk = Callable[[], bool]


def _absorbing_and(left: _Thunk, right: _Thunk) -> bool:
    try:
        if not left():
            return False
    except values.FAULTS:
        if not right():
            return False
        raise
    return right()


def _absorbing_or(left: _Thunk, right: _Thunk) -> bool:
    try:
        if left():
            return True
    except values.FAULTS:
        if right():
            return True
        raise
    return right()


#: What the generated source may call; with it go no builtins at all.
NAMESPACE: Mapping[str, object] = {
    "__builtins__": {},
    "_and": _absorbing_and,
    "_or": _absorbing_or,
    "_int": values.checked_int,
    "_idiv": values.int_divide,
    "_imod": values.int_modulo,
    "_ddiv": values.double_divide,
    "_int_of_double": values.int_of_double,
    "_int_of_string": values.int_of_string,
    "_double_of_string": values.double_of_string,
    "_bool_of_string": values.bool_of_string,
    "_string_of_bool": values.string_of_bool,
    "_duration_of_string": values.duration_of_string,
    "_timestamp_of_string": values.timestamp_of_string,
    "_timestamp_of_int": values.timestamp_of_int,
    "_ts": values.checked_timestamp,
    "_du": values.checked_duration,
    "_part": values.timestamp_part,
    "_whole": values.duration_whole,
    "_millis": values.duration_milliseconds,
    "_at": values.at,
    "_in_doubles": values.in_doubles,
    "_equal_doubles": values.equal_doubles,
    "_pattern": language.pattern,
    **{f"_{name}": function for name, function in history.WINDOW_FUNCTIONS.items()},
    **{f"_{name}": function for name, function in history.PREVIOUS_FUNCTIONS.items()},
    "float": float,
    "len": len,
    "str": str,
}

_COMPARE = {"_==_": "==", "_!=_": "!=", "_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">="}
_MIRROR = {"_<_": "_>_", "_<=_": "_>=_", "_>_": "_<_", "_>=_": "_<=_"}
_ARITHMETIC = {"_+_": "+", "_-_": "-", "_*_": "*"}
_CHECKED = {"int": "_int", "timestamp": "_ts", "duration": "_du"}
_DURATION_UNITS = {
    "getHours": 3600 * values.NS_PER_S,
    "getMinutes": 60 * values.NS_PER_S,
    "getSeconds": values.NS_PER_S,
}
_CONVERSIONS = {
    ("bool", "string"): "_bool_of_string",
    ("int", "double"): "_int_of_double",
    ("int", "string"): "_int_of_string",
    ("double", "int"): "float",
    ("double", "string"): "_double_of_string",
    ("string", "int"): "str",
    ("string", "bool"): "_string_of_bool",
    ("timestamp", "string"): "_timestamp_of_string",
    ("timestamp", "int"): "_timestamp_of_int",
    ("duration", "string"): "_duration_of_string",
}


class Translator:
    """Writes conditions that end up in one function, and the first lines which that function needs."""

    def __init__(self, conditions: Iterable[Condition], *, exact: bool = False, constants: str = "c") -> None:
        self._exact = exact
        self._prefix = constants
        self._fields: set[str] = set()
        self._constants: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        calls: Counter[HistoryCall] = Counter()
        for condition in conditions:
            for node in walk(condition.root):
                call = history_call(node)
                if call is not None:
                    calls[call._replace(shown="")] += 1
        #: starts of windows and values that are used more than once
        self._repeated = {call for call, times in calls.items() if times > 1}
        spans = Counter(call.window_ms for call in calls if call.window_ms)
        self._repeated_spans = {span for span, times in spans.items() if times > 1}

    # --- the function around the conditions

    def constants(self) -> list[str]:
        """Assignments for the module: patterns and tables of literals."""
        return [f"{name} = {source}" for source, name in self._constants.items()]

    def first_lines(self) -> list[str]:
        """What the function does first, given ``tx`` and ``h``: only what its conditions use."""
        lines = [f"f_{name} = tx.{name}" for name in language.FIELDS if name in self._fields]
        if self._fields & {"t", "tns", "e"}:
            lines.append("t = tx.timestamp")
        if "tns" in self._fields:
            lines.append("tns = t * 1000000")
        if "e" in self._fields:
            lines.append("e = h.position(t)")
        if self._shared:
            lines.append(" = ".join((*self._shared.values(), "None")))
        return lines

    def effective_from(self, timestamp_ms: int) -> str:
        self._fields.add("t")
        return f"t >= {timestamp_ms!r}"

    def threshold(self, threshold: Threshold) -> str:
        return f"{self._use(threshold.field, 'f_')} {'>=' if threshold.above else '<='} {threshold.limit!r}"

    # --- nodes

    def expression(self, node: Node) -> str:
        """Python source of a checked node; a name, a literal or something in brackets."""
        match node:
            case Literal():
                return repr(node.value)
            case Name(name="timestamp"):
                return self._use("tns")
            case Name():
                return self._use(node.name, "f_")
            case Select():
                return self._select(node)
            case ListOf():
                return "(" + "".join(f"{self.expression(element)}, " for element in node.elements) + ")"
            case MapOf():
                return self._map(node)
            case Call():
                return self._call(node)
            case _:
                raise ValueError(f"cannot translate {node!r}")

    def _use(self, name: str, prefix: str = "") -> str:
        self._fields.add(name)
        return prefix + name

    def _select(self, node: Select) -> str:
        operand = self.expression(node.operand)
        if node.test_only:
            return f"({node.field!r} in {operand})"
        return self._look_up(node.operand, operand, repr(node.field))

    @staticmethod
    def _look_up(operand: Node, source: str, key: str) -> str:
        if operand.type.startswith("list("):
            return f"_at({source}, {key})"
        return f"{source}[{key}]"

    def _map(self, node: MapOf) -> str:
        source = (
            "{" + ", ".join(f"{self.expression(key)}: {self.expression(value)}" for key, value in node.entries) + "}"
        )
        return self._constant(source) if all(isinstance(value, Literal) for _, value in node.entries) else source

    def _constant(self, source: str) -> str:
        return self._constants.setdefault(source, f"{self._prefix}_{len(self._constants)}")

    def _call(self, node: Call) -> str:
        call = history_call(node)
        if call is not None:
            return self._history(call)
        function, args = node.function, node.args
        if function in {"_&&_", "_||_"}:
            return self._logic(node)
        if function in _COMPARE:
            return self._compare(node)
        if function == "@in":
            return self._in(*args)
        if function in _ARITHMETIC or function in {"_/_", "_%_", "-_"}:
            return self._arithmetic(node)
        if function in {"bool", "int", "double", "string", "timestamp", "duration"}:
            return self._convert(node)
        if function.startswith("get"):
            return self._part(node)
        if function == "matches":
            text, pattern = self.expression(args[0]), self._constant(f"_pattern({self.expression(args[1])}).matches")
            return f"{pattern}({text})"
        sources = [self.expression(arg) for arg in args]
        if function == "!_":
            return f"(not {sources[0]})"
        if function == "_?_:_":
            return f"({sources[1]} if {sources[0]} else {sources[2]})"
        if function == "_[_]":
            return self._look_up(args[0], *sources)
        if function == "size":
            return f"len({sources[0]})"
        if function == "contains":
            return f"({sources[1]} in {sources[0]})"
        if function in {"startsWith", "endsWith"}:
            return f"{sources[0]}.{function.lower()}({sources[1]})"
        raise ValueError(f"cannot translate {function}()")

    def _logic(self, node: Call) -> str:
        left, right = (self.expression(arg) for arg in node.args)
        word = "and" if node.function == "_&&_" else "or"
        if self._exact and can_fail(node.args[0]):
            return f"_{word}(lambda: {left}, lambda: {right})"
        return f"({left} {word} {right})"

    def _compare(self, node: Call) -> str:
        left, right = node.args
        if node.function in _MIRROR:
            for call, limit, function in ((left, right, node.function), (right, left, _MIRROR[node.function])):
                quick = self._count_compared(call, function, limit)
                if quick is not None:
                    return quick
        sources = self.expression(left), self.expression(right)
        if left.type == "list(double)" or right.type == "list(double)":
            return f"({'not ' if node.function == '_!=_' else ''}_equal_doubles({sources[0]}, {sources[1]}))"
        return f"({sources[0]} {_COMPARE[node.function]} {sources[1]})"

    def _count_compared(self, node: Node, function: str, limit: Node) -> str | None:
        """``count(d) > 5`` without counting: whether the sixth entry from the end is in the window."""
        call = history_call(node)
        if call is None or call.name != "count" or not isinstance(limit, Literal) or not isinstance(limit.value, int):
            return None
        least = limit.value + (function in {"_>_", "_<=_"})
        if least <= 0:
            reached = "True"
        else:
            t = self._use("t")
            reached = f"h.reaches({least!r}, {t} - {call.window_ms!r}, {t})"
        return reached if function in {"_>_", "_>=_"} else f"(not {reached})"

    def _in(self, item: Node, container: Node) -> str:
        source = self.expression(item)
        if container.type == "list(double)" and not _all_literals(container):
            return f"_in_doubles({source}, {self.expression(container)})"
        if isinstance(container, ListOf) and container.elements and _all_literals(container):
            # A set of literals is a constant of the code object: no time to build, one step to look up.
            return f"({source} in {{{', '.join(self.expression(element) for element in container.elements)}}})"
        return f"({source} in {self.expression(container)})"

    def _arithmetic(self, node: Call) -> str:
        function = node.function
        sources = [self.expression(arg) for arg in node.args]
        checked = _CHECKED.get(node.type, "")
        if function == "-_":
            return f"{checked}(-{sources[0]})"
        if function == "_%_":
            return f"_imod({sources[0]}, {sources[1]})"
        if function == "_/_":
            if node.type == "int":
                return f"_idiv({sources[0]}, {sources[1]})"
            divisor = node.args[1]
            if isinstance(divisor, Literal) and divisor.value:
                return f"({sources[0]} / {sources[1]})"
            return f"_ddiv({sources[0]}, {sources[1]})"
        return f"{checked}({sources[0]} {_ARITHMETIC[function]} {sources[1]})"

    def _convert(self, node: Call) -> str:
        arg, to = node.args[0], node.function
        if isinstance(arg, Literal) and isinstance(arg.value, str):
            if to == "timestamp":
                return repr(values.timestamp_of_string(arg.value))
            if to == "duration":
                return repr(values.duration_of_string(arg.value))
        source = self.expression(arg)
        if arg.type == to:
            return source
        if (to, arg.type) == ("int", "timestamp"):
            return f"({source} // 1000000000)"
        return f"{_CONVERSIONS[to, arg.type]}({source})"

    def _part(self, node: Call) -> str:
        source = self.expression(node.args[0])
        if node.args[0].type == "duration":
            unit = _DURATION_UNITS.get(node.function)
            return f"_millis({source})" if unit is None else f"_whole({source}, {unit!r})"
        zone_s = 0
        if len(node.args) == 2 and isinstance(node.args[1], Literal):
            zone_s = values.zone_of_string(str(node.args[1].value))
        return f"_part({node.function!r}, {source}, {zone_s!r})"

    # --- history

    def _history(self, call: HistoryCall) -> str:
        call = call._replace(shown="")
        t = self._use("t")
        if not call.window_ms:
            source = f"_{call.name}(h, {t})"
        else:
            end = self._use("e")
            begin = f"h.position({t} - {call.window_ms!r})"
            if call.window_ms in self._repeated_spans:
                begin = self._kept(f"w_{call.window_ms}", begin)
            source = f"({end} - {begin})" if call.name == "count" else f"_{call.name}(h, {begin}, {end})"
        return self._kept(f"v_{call.name}_{call.window_ms}", source) if call in self._repeated else source

    def _kept(self, name: str, source: str) -> str:
        """Computed at the first use; a condition that is not reached costs nothing."""
        if self._exact:
            return source
        self._shared[name] = name
        return f"({name} if {name} is not None else ({name} := {source}))"


def _all_literals(node: Node) -> bool:
    return isinstance(node, ListOf) and all(isinstance(element, Literal) for element in node.elements)
