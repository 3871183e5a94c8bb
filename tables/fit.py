"""Whether a value can be kept as its declared type.

Looked at when a value is given to a state, and from outside only: the record that brings a number instead of a text is refused, with words,
and does not end the next worker that reads the row.  What a collection holds is nobody's business here: looking would cost what it holds.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import Any, NamedTuple

import msgspec

from models.errors import BadRecord

_COLLECTIONS = (list, tuple, set, frozenset)
#: what is read back as the type though it is another one
_ALIKE: dict[type, tuple[type, ...]] = {
    int: (int,),
    float: (float, int),
    str: (str,),
    bool: (bool,),
    bytes: (bytes, bytearray, memoryview),
    dict: (dict,),
    **dict.fromkeys(_COLLECTIONS, _COLLECTIONS),
}


class Fit(NamedTuple):
    """What a state takes.  ``exact``: the type that nearly all values have; ``kinds``: all that will do, ``None`` for anything."""

    exact: type
    kinds: tuple[type, ...] | None
    #: the declared type, for people
    of: Any

    def check(self, value: object, state: str) -> None:
        """Raises :class:`models.errors.BadRecord`.  To be called where a value's type is not ``exact``."""
        kinds = self.kinds
        if kinds is None or (isinstance(value, kinds) and (type(value) is not bool or bool in kinds)):
            return
        name = getattr(self.of, "__name__", str(self.of))
        raise BadRecord(
            f"state {state!r} holds {name}, and {value!r:.100} is {type(value).__name__}: give it {name}, or declare what it holds"
        )


class _NoType:
    """The type of no value."""


def fit_of(of: Any) -> Fit:
    """What a state of this type takes."""
    kinds = _kinds(of)
    return Fit(kinds[0] if kinds else _NoType, kinds, of)


def _kinds(of: Any) -> tuple[type, ...] | None:
    origin = typing.get_origin(of)
    if origin is typing.Annotated:
        return _kinds(typing.get_args(of)[0])
    if origin in (typing.Union, types.UnionType):
        found: list[type] = []
        for member in typing.get_args(of):
            kinds = _kinds(member)
            if kinds is None:
                return None
            found += kinds
        return tuple(found)
    kind = origin if isinstance(origin, type) else of
    if not isinstance(kind, type):
        return None
    if kind in _ALIKE:
        return (kind, *_ALIKE[kind])
    if issubclass(kind, tuple):  # a NamedTuple
        return (kind, tuple, list)
    if kind is types.NoneType or issubclass(kind, (msgspec.Struct, enum.Enum)) or dataclasses.is_dataclass(kind):
        return (kind,)
    return None
