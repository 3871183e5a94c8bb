"""From a row to the key and value of a record: columns chosen, types converted, the record checked."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

from app.load.source import WrongFile
from models.errors import BadRecord
from models.time import Millis
from models.topics import TopicNames, spec_of
from models.transactions import Transaction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the user says about the columns: record field -> column, columns that become attributes, the key's field."""

    mapping: Mapping[str, str] = field(default_factory=dict)
    attributes: Sequence[str] = ()
    key: str | None = None


class Converter(Protocol):
    """Makes records of one topic."""

    #: Columns that were seen and do not get into the record, in the order in which they came.
    dropped: dict[str, None]

    def __call__(self, row: Mapping[str, object]) -> tuple[bytes | None, bytes]:
        """Key and value; raises :class:`models.errors.BadRecord`."""


def converter(topic: str, header: Sequence[str], columns: Columns) -> Converter:
    """The converter of a topic for rows with these columns (none for JSONL, where each row has its own).

    Raises :class:`WrongFile` when a column that is named, or needed, is not there.
    """
    named = [*columns.mapping.values(), *columns.attributes]
    missing = [column for column in named if header and column not in header]
    if missing:
        close = difflib.get_close_matches(missing[0], header, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "correct --map or --attributes"
        raise WrongFile(f"there is no column {missing[0]!r}; there are {', '.join(header)}: {hint}")
    if topic == TopicNames.TRANSACTIONS:
        return _Transactions(header, columns)
    if columns.attributes:
        raise WrongFile(f"records of {topic} have no attributes; leave --attributes out")
    spec = spec_of(topic)
    key = columns.key or (spec.key_field if spec else None)
    if header and key is not None and columns.mapping.get(key, key) not in header:
        raise WrongFile(
            f"no column gives the key {key!r}; map one with --map {key}=COLUMN, or name it with --key COLUMN"
        )
    return _Anything(columns.mapping, key)


class _Wire(Transaction, frozen=True, gc=False, omit_defaults=True):
    """A transaction that leaves out what it does not say."""


class _Transactions:
    _FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Transaction)}
    _TEXTS = ("transaction_id", "user_id", "merchant", "country")

    def __init__(self, header: Sequence[str], columns: Columns) -> None:
        if columns.key not in (None, "user_id"):
            raise WrongFile(f"the key of {TopicNames.TRANSACTIONS} is user_id; leave --key out")
        unknown = [name for name in columns.mapping if name not in self._FIELDS]
        if unknown:
            raise WrongFile(f"a transaction has no field {unknown[0]!r}; it has {', '.join(self._FIELDS)}")
        #: record field -> column
        self._columns = {name: columns.mapping.get(name, name) for name in self._FIELDS}
        for name, about in self._FIELDS.items():
            if header and about.required and self._columns[name] not in header:
                raise WrongFile(
                    f"no column gives {name}; there are {', '.join(header)}: map one with --map {name}=COLUMN"
                )
        self._attributes = tuple(columns.attributes)
        self._known = {*self._columns.values(), *self._attributes}
        self.dropped: dict[str, None] = dict.fromkeys(column for column in header if column not in self._known)
        self._fixed = bool(header)
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, row: Mapping[str, object]) -> tuple[bytes | None, bytes]:
        said: dict[str, object] = {}
        for name, column in self._columns.items():
            value = row.get(column)
            # An empty cell says nothing.
            if value is not None and value != "":
                said[name] = value
        if not self._fixed:
            _note_dropped(self.dropped, row, self._known)
            for name in self._TEXTS:
                if type(said.get(name)) is int:
                    said[name] = str(said[name])
        if (time := said.get("timestamp")).__class__ is str:
            said["timestamp"] = _time(str(time))
        if self._attributes:
            said["attributes"] = self._with_attributes(said.get("attributes"), row)
        try:
            wire = msgspec.convert(said, _Wire, strict=False)
        except msgspec.ValidationError as error:
            raise BadRecord(_said(error)) from None
        if not math.isfinite(wire.amount):
            raise BadRecord("amount is not a finite number")
        try:
            return wire.user_id.encode(), self._encode(wire)
        except UnicodeEncodeError:
            raise BadRecord("a lone surrogate is no text") from None

    def _with_attributes(self, given: object, row: Mapping[str, object]) -> dict[str, object]:
        attributes = dict(given) if isinstance(given, dict) else {}
        for column in self._attributes:
            value = row.get(column)
            if value is not None and value != "":
                attributes[column] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return attributes


class _Anything:
    """Records of any other topic: every column, numbers and truths as such, identifiers as texts."""

    _NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,17})?")

    def __init__(self, mapping: Mapping[str, str], key: str | None) -> None:
        self.dropped: dict[str, None] = {}
        self._renamed = {column: name for name, column in mapping.items()}
        self._key = key

    def __call__(self, row: Mapping[str, object]) -> tuple[bytes | None, bytes]:
        record: dict[str, object] = {}
        for column, value in row.items():
            name = self._renamed.get(column, column)
            if value.__class__ is str:
                if value == "":
                    continue
                value = self._typed(name, str(value))
            record[name] = value
        try:
            return self._key_of(record), msgspec.json.encode(record)
        except UnicodeEncodeError:
            raise BadRecord("a lone surrogate is no text") from None

    def _key_of(self, record: Mapping[str, object]) -> bytes | None:
        if self._key is None:
            return None
        key = record.get(self._key)
        if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
            raise BadRecord(f"the key {self._key!r} is missing or no text")
        return str(key).encode()

    def _typed(self, name: str, text: str) -> object:
        if name == self._key or name.endswith("_id"):
            return text
        if name == "timestamp":
            return _time(text)
        if (match := self._NUMBER.fullmatch(text)) is not None:
            return float(text) if match[2] else int(text)
        return text == "true" if text in ("true", "false") else text


def _note_dropped(dropped: dict[str, None], row: Mapping[str, object], known: set[str]) -> None:
    if len(dropped) < 20:
        dropped.update(dict.fromkeys(column for column in row if column not in known))


def _time(text: str) -> Millis:
    """Milliseconds, from their digits or from an ISO 8601 time (UTC where it names no zone)."""
    if text.isascii() and text.isdigit() and len(text) < 18:
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BadRecord(f"timestamp {text[:40]!r} is neither milliseconds nor an ISO 8601 time") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return (when - _EPOCH) // timedelta(milliseconds=1)


def _said(error: msgspec.ValidationError) -> str:
    """msgspec's message with the field instead of its path."""
    text, _, path = str(error).partition(" - at `$.")
    return f"{path.rstrip('`')}: {text}" if path else text
