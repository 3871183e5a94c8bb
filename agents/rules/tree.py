"""The checked tree of a condition: what the parser and type checker of CEL hand to the bounds and to the translation.

``at`` is the offset of a node in code points of the text that was parsed.  ``type`` is the checker's verdict as text:
``bool``, ``int``, ``double``, ``string``, ``timestamp``, ``duration``, ``list(double)``, ``map(string, string)``, ...;
empty in a tree that was only parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    at: int
    type: str
    #: bytes, unsigned and null literals are told apart by ``kind``
    kind: str
    value: bool | int | float | str | bytes | None


@dataclass(frozen=True, slots=True)
class Name:
    at: int
    type: str
    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """``operand.field``; with ``test_only`` it is ``has(operand.field)``."""

    at: int
    type: str
    operand: Node
    field: str
    test_only: bool


@dataclass(frozen=True, slots=True)
class Call:
    """An operator (``_&&_``, ``@in``, ...) or a function; the target of a member call is its first argument."""

    at: int
    type: str
    function: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ListOf:
    at: int
    type: str
    elements: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapOf:
    at: int
    type: str
    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Foreign:
    """What CEL knows and rules do not take: a ``comprehension`` (of a macro) or a message."""

    at: int
    type: str
    what: str


Node = Literal | Name | Select | Call | ListOf | MapOf | Foreign


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below, in order of evaluation."""
    match node:
        case Select():
            return (node.operand,)
        case Call():
            return node.args
        case ListOf():
            return node.elements
        case MapOf():
            return tuple(part for entry in node.entries for part in entry)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, parents first."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))
