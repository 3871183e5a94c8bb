"""Makes ``amount > 10000`` mean ``amount > 10000.0``: CEL has no operator between a double and an int.

Where a double meets whole-number literals (alone, negated, or added, subtracted and multiplied among themselves; as the
elements of a list, values of a map or branches of ``?:``), the literals get a decimal point in the text that the type checker sees.
Division is left alone: ``7 / 2`` is 3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agents.rules.language import FIELDS, PREVIOUS_TYPES, WINDOW_TYPES
from agents.rules.source import Edit
from agents.rules.tree import Call, ListOf, Literal, MapOf, Name, Node, Select, children

_LITERAL = re.compile(r"-?\s*(0[xX][0-9a-fA-F]+|[0-9]+)")
_ARITHMETIC = frozenset({"_+_", "_-_", "_*_", "_/_"})
_MEETING = _ARITHMETIC | {"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"}
_FOLDING = frozenset({"_+_", "_-_", "_*_", "-_"})
_RESULTS = {**WINDOW_TYPES, **PREVIOUS_TYPES, "double": "double", "int": "int", "size": "int"}


def promotions(root: Node, text: str) -> tuple[Edit, ...]:
    """Edits of ``text``, in order, that give the literals of the parsed tree their decimal point."""
    finder = _Finder()
    finder.visit(root)
    edits = {edit.at: edit for at in finder.found if (edit := _edit(text, at)) is not None}
    return tuple(edits[at] for at in sorted(edits))


def _edit(text: str, at: int) -> Edit | None:
    match = _LITERAL.match(text, at)
    if match is None:
        return None
    digits = match[1]
    value = int(digits, 0) if digits[:2] in {"0x", "0X"} else int(digits)
    if int(float(value)) != value:
        return None
    if digits[:2] in {"0x", "0X"}:
        return Edit(match.start(1), len(digits), f"{value}.0")
    return Edit(match.end(1), 0, ".0")


class _Finder:
    """Walks from the leaves up and knows of each node whether it is a double, which is all that matters here."""

    def __init__(self) -> None:
        self.found: set[int] = set()

    def visit(self, node: Node) -> str:
        """Type of the node as far as it can be told: ``double``, ``doubles`` (a list or a map of them), else anything."""
        kinds = [self.visit(child) for child in children(node)]
        match node:
            case Literal():
                return node.kind
            case Name():
                return FIELDS.get(node.name, "")
            case Select():
                return "double" if kinds[0] == "doubles" and not node.test_only else ""
            case ListOf():
                return self._container(node.elements, kinds)
            case MapOf():
                return self._container([value for _, value in node.entries], kinds[1::2])
            case Call():
                return self._call(node, kinds)
            case _:
                return ""

    def _call(self, node: Call, kinds: list[str]) -> str:
        function, args = node.function, node.args
        if function in _MEETING and len(args) == 2:
            kinds = self._meet(args, kinds)
            if function in _ARITHMETIC:
                return "double" if "double" in kinds else kinds[0]
            return "bool"
        if function == "_?_:_" and len(args) == 3:
            return self._meet(args[1:], kinds[1:])[0]
        if function == "-_":
            return kinds[0]
        if function == "_[_]":
            return "double" if kinds[0] == "doubles" else ""
        if function == "@in" and len(args) == 2:
            if kinds[0] == "double" and isinstance(args[1], ListOf):
                for element in args[1].elements:
                    self._promote(element)
            elif kinds[1] == "doubles":
                self._promote(args[0])
            return "bool"
        return _RESULTS.get(function, "")

    def _meet(self, args: Sequence[Node], kinds: list[str]) -> list[str]:
        """Where one is a double, make doubles of those that can become one; the types then."""
        if "double" not in kinds:
            return kinds
        return [
            "double" if kind == "double" or self._promote(arg) else kind for arg, kind in zip(args, kinds, strict=True)
        ]

    def _container(self, elements: Sequence[Node], kinds: list[str]) -> str:
        return "doubles" if "double" in self._meet(elements, kinds) else ""

    def _promote(self, node: Node) -> bool:
        """Mark the literals that the node is made of; False, and nothing marked, where it holds anything else."""
        literals = _whole_literals(node)
        if literals is None:
            return False
        self.found.update(literals)
        return True


def _whole_literals(node: Node) -> list[int] | None:
    if isinstance(node, Literal):
        return [node.at] if node.kind == "int" else None
    if isinstance(node, Call) and node.function in _FOLDING:
        parts = node.args
    elif isinstance(node, Call) and node.function == "_?_:_":
        parts = node.args[1:]
    elif isinstance(node, Call) and node.function == "_[_]" and isinstance(node.args[0], ListOf | MapOf):
        container = node.args[0]
        parts = container.elements if isinstance(container, ListOf) else tuple(value for _, value in container.entries)
    else:
        return None
    found: list[int] = []
    for part in parts:
        literals = _whole_literals(part)
        if literals is None:
            return None
        found += literals
    return found
