"""What comes before the function: a record's value decoded, its key checked, key and time made current.

Two classes do the same: :class:`PlainReader` here, and ``Reader`` of ``agents/operator/_reading.pyx``, which is compiled when the application is
installed where there is a C compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from agents.operator.process import Context
from agents.operator.spec import Source, bad_record, refuse_key
from models.errors import BadRecord
from models.time import Millis
from tables.log import Record

_compiled: Any
try:
    import agents.operator._reading as _compiled
except ImportError:  # there was no compiler
    _compiled = None

# What reading a bad value raises: msgspec's errors and UnicodeDecodeError are ValueErrors, a null value is a TypeError, and where events are
# dicts a field that is missing is a KeyError.
BAD_VALUE = (ValueError, RecursionError, TypeError, LookupError, AttributeError, BadRecord)

#: Records in; their events in turn, while the context says of which record, key and time they are.
Reader = Callable[[Sequence[Record]], Iterable[Any]]
#: Is told of a record that could not be read, at its turn, and why.
Refuse = Callable[[Record, Exception], None]
#: Is told the keys of some records before their turn.
Ahead = Callable[[list[str]], None]


def read(source: Source, record: Record) -> tuple[Any, str, Millis]:
    """Event, key and time (ms) of a record; raises one of ``BAD_VALUE``."""
    if source.decode is None:
        event: Any = record
        key, timestamp = (record.key or b"").decode(), record.timestamp
    else:
        event = source.decode(record.value)  # type: ignore[arg-type]  # null: a TypeError
        key, timestamp = source.key(event), source.timestamp(event)
    raw = key.encode()
    if raw != record.key or not raw:
        raise refuse_key(source, record, key)
    return event, key, timestamp


def reason(exc: Exception, record: Record) -> BadRecord:
    """Why a record could not be read; an exception that says nothing about the record is raised."""
    if isinstance(exc, BAD_VALUE):
        return bad_record(exc, record)
    raise exc


class PlainReader:
    """Reads records one by one."""

    def __init__(self, source: Source, context: Context, refuse: Refuse) -> None:
        self._source = source
        self._context = context
        self._refuse = refuse

    def __call__(self, records: Sequence[Record]) -> Iterator[Any]:
        source, context = self._source, self._context
        for record in records:
            try:
                event, key, timestamp = read(source, record)
            except Exception as exc:
                self._refuse(record, exc)
                continue
            context.key = key
            context.timestamp_ms = timestamp
            context._record = record
            yield event


#: Whether readers are the compiled ones; tests say no.
COMPILED: bool = _compiled is not None


def reader(source: Source, context: Context, refuse: Refuse, ahead: Sequence[Ahead] = ()) -> Reader:
    """A reader of records for the function that has this context."""
    if COMPILED and _compiled is not None:
        made: Reader = _compiled.Reader(
            source, context, refuse, tuple(ahead), _field(source.key), _field(source.timestamp)
        )
        return made
    return PlainReader(source, context, refuse)


def _field(getter: Callable[[Any], Any]) -> str | None:
    """Name of the field that a function gets, if it is an ``attrgetter`` of one."""
    if type(getter) is not attrgetter:
        return None
    names: tuple[str, ...] = getter.__reduce__()[1]  # type: ignore[assignment]
    return names[0] if len(names) == 1 and "." not in names[0] else None
