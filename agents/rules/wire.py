"""Reads the parser's serialized answer: ``cel.expr.CheckedExpr`` (or ``ParsedExpr``) inside a ``google.protobuf.Any``.

Only the fields that rules need are read, straight from protobuf's wire format, which spares the whole protobuf runtime:

    Any          1 type url             2 message
    CheckedExpr  3 types {1 id, 2 Type}   4 Expr   5 SourceInfo
    ParsedExpr   2 Expr                   3 SourceInfo
    SourceInfo   4 positions {1 id, 2 code point}
    Expr         2 id  3 constant  4 ident  5 select  6 call  7 list  8 struct or map  9 comprehension
    Type         1 dyn  2 null  3 primitive  4 wrapper  5 well known  6 list  7 map  8 function  9 message
                 10 parameter  11 type  12 error  14 abstract

Source: cel-spec, ``proto/cel/expr/syntax.proto`` and ``checked.proto``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from agents.rules.tree import Call, Foreign, ListOf, Literal, MapOf, Name, Node, Select

_CHECKED = b"type.googleapis.com/cel.expr.CheckedExpr"
_PARSED = b"type.googleapis.com/cel.expr.ParsedExpr"
_PRIMITIVES = {1: "bool", 2: "int", 3: "uint", 4: "double", 5: "string", 6: "bytes"}
_WELL_KNOWN = {1: "any", 2: "timestamp", 3: "duration"}
_SINGLE_TYPES = {1: "dyn", 2: "null", 4: "wrapper", 8: "function", 9: "message", 10: "dyn", 11: "type", 12: "error"}

_Value = int | bytes
_Fields = list[tuple[int, _Value]]


class WireError(ValueError):
    """The bytes are not what this release of the parser is known to answer."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> _Fields:
    """(field number, value) in order: ints for varints, bytes for everything else.

    Tags, sizes and most numbers are one byte, so that case is written out: a rule has hundreds of fields.
    """
    found: _Fields = []
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, at - 1)
        kind = tag & 7
        if kind == 2 or kind == 0:
            number = data[at]
            at += 1
            if number >= 0x80:
                number, at = _varint(data, at - 1)
            if kind == 0:
                found.append((tag >> 3, number))
                continue
        elif kind == 1:
            number = 8
        elif kind == 5:
            number = 4
        else:
            raise WireError(f"wire type {kind}")
        found.append((tag >> 3, data[at : at + number]))
        at += number
    if at > end:
        raise WireError("the message ends too early")
    return found


def _signed(value: _Value) -> int:
    number = _int(value)
    return number - (1 << 64) if number >= 1 << 63 else number


def _int(value: _Value) -> int:
    if not isinstance(value, int):
        raise WireError("a number was expected")
    return value


def _bytes(value: _Value) -> bytes:
    if not isinstance(value, bytes):
        raise WireError("bytes were expected")
    return value


def _message(value: _Value) -> dict[int, _Value]:
    """Fields of a message without repeated ones; the last wins, as protobuf says."""
    return dict(_fields(_bytes(value)))


def _type(data: bytes) -> str:
    for number, value in _fields(data):
        if number == 3:
            return _PRIMITIVES.get(_int(value), "dyn")
        if number == 5:
            return _WELL_KNOWN.get(_int(value), "any")
        if number == 6:
            return f"list({_type(_bytes(_message(value).get(1, b'')))})"
        if number == 7:
            parts = _message(value)
            return f"map({_type(_bytes(parts.get(1, b'')))}, {_type(_bytes(parts.get(2, b'')))})"
        return _SINGLE_TYPES.get(number, "other")
    return "dyn"


class Answer(NamedTuple):
    """A decoded tree; ``checked`` says whether its nodes have types."""

    root: Node
    checked: bool


def decode(serialized: bytes) -> Answer:
    """Decode what ``Expression.serialize()`` gave; raises :class:`WireError` for anything else."""
    try:
        envelope = _message(serialized)
        url, message = envelope.get(1), _fields(_bytes(envelope.get(2, b"")))
        if url == _CHECKED:
            expr_field, info_field, checked = 4, 5, True
        elif url == _PARSED:
            expr_field, info_field, checked = 2, 3, False
        else:
            raise WireError(f"unknown message {url!r}")
        positions: dict[int, int] = {}
        types: dict[int, str] = {}
        root = b""
        for number, value in message:
            if number == expr_field:
                root = _bytes(value)
            elif number == info_field:
                _positions(_bytes(value), positions)
            elif checked and number == 3:
                entry = _message(value)
                types[_int(entry.get(1, 0))] = _type(_bytes(entry.get(2, b"")))
        return Answer(_Decoder(types, positions).node(root), checked)
    except (IndexError, UnicodeDecodeError, struct.error) as error:
        raise WireError(f"broken message: {error}") from error


def _positions(data: bytes, positions: dict[int, int]) -> None:
    for number, value in _fields(data):
        if number == 4:
            entry = _message(value)
            positions[_int(entry.get(1, 0))] = _int(entry.get(2, 0))


class _Decoder:
    def __init__(self, types: dict[int, str], positions: dict[int, int]) -> None:
        self._types = types
        self._positions = positions

    def node(self, data: _Value) -> Node:
        number, kind, body = 0, 0, b""
        for field, value in _fields(_bytes(data)):
            if field == 2:
                number = _int(value)
            else:
                kind, body = field, _bytes(value)
        at, type_ = self._positions.get(number, 0), self._types.get(number, "")
        if kind == 3:
            return _literal(at, type_, body)
        if kind == 4:
            return Name(at, type_, _bytes(_message(body).get(1, b"")).decode())
        if kind == 5:
            parts = _message(body)
            field_name = _bytes(parts.get(2, b"")).decode()
            return Select(at, type_, self.node(parts.get(1, b"")), field_name, bool(parts.get(3, 0)))
        if kind == 6:
            return self._call(at, type_, body)
        if kind == 7:
            return ListOf(at, type_, tuple(self.node(value) for field, value in _fields(body) if field == 1))
        if kind == 8:
            return self._map(at, type_, body)
        if kind == 9:
            return Foreign(at, type_, "comprehension")
        raise WireError(f"unknown kind of expression {kind}")

    def _call(self, at: int, type_: str, body: bytes) -> Call:
        target: list[Node] = []
        args: list[Node] = []
        function = ""
        for field, value in _fields(body):
            if field == 1:
                target.append(self.node(value))
            elif field == 2:
                function = _bytes(value).decode()
            elif field == 3:
                args.append(self.node(value))
        return Call(at, type_, function, (*target, *args))

    def _map(self, at: int, type_: str, body: bytes) -> Node:
        entries: list[tuple[Node, Node]] = []
        for field, value in _fields(body):
            if field == 1:
                return Foreign(at, type_, f"message {_bytes(value).decode()}")
            parts = _message(value)
            entries.append((self.node(parts.get(3, b"")), self.node(parts.get(4, b""))))
        return MapOf(at, type_, tuple(entries))


def _literal(at: int, type_: str, body: bytes) -> Literal:
    for field, value in _fields(body):
        if field == 2:
            return Literal(at, type_, "bool", bool(value))
        if field == 3:
            return Literal(at, type_, "int", _signed(value))
        if field == 4:
            return Literal(at, type_, "uint", _int(value))
        if field == 5:
            return Literal(at, type_, "double", struct.unpack("<d", _bytes(value))[0])
        if field == 6:
            return Literal(at, type_, "string", _bytes(value).decode())
        if field == 7:
            return Literal(at, type_, "bytes", _bytes(value))
    return Literal(at, type_, "null", None)
