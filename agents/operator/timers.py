"""Timers: per key and time, durable as rows of the changelog, taken out in the order of time.

A timer is one row of the reserved state ``timers/event`` or ``timers/processing`` (user states cannot have a slash in their name): the
key of the record that set it, the time as the row's part (8 bytes, big endian), and the value 01.

In memory they are keys by time with a heap of the distinct times, in two halves: *fresh* ones are in no row yet, *kept* ones are.  A timer
that is set and fires, or is deleted, between two freezes never reaches the changelog.  A time with a single key holds the bare key,
which is a third of the memory.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from struct import Struct
from typing import Any

from models.errors import BadRecord, StateError
from models.time import Millis
from tables.changelog import Row, row_prefix
from tables.state import KeyContext
from tables.store import StoredRows

#: Later than every time.
FAR: Millis = 1 << 62

_SET = b"\x01"
#: what ``tables.changelog.part_suffix`` gives for a time: 8 bytes and their number
_row_end = Struct(">qH").pack
_TIME_SIZE = 8

#: the keys that have a timer at one time
Keys = str | dict[str, None]
#: Times whose timers were all deleted wait in the heap until there are so many more of them than of the others.
_STALE = 1024


class TimeDomain(enum.StrEnum):
    """Which clock a timer follows."""

    EVENT = "event"
    PROCESSING = "processing"


class TimerQueue:
    """Timers of one domain on one partition.  ``due`` is the earliest time that may have a timer, ``FAR`` without any."""

    __slots__ = ("_by_key", "_context", "_dead", "_fresh", "_heap", "_kept", "_prefix", "domain", "due")

    def __init__(self, domain: TimeDomain, context: KeyContext, stored: StoredRows) -> None:
        self.domain = domain
        self.due: Millis = FAR
        self._context = context
        self._prefix = row_prefix(f"timers/{domain}")
        self._fresh: dict[Millis, Keys] = {}
        self._kept: dict[Millis, Keys] = {}
        self._heap: list[Millis] = []
        #: rows to delete
        self._dead: list[tuple[Millis, list[str]]] = []
        #: while a snapshot is being written: times by key, as of its start
        self._by_key: dict[str, list[Millis]] = {}
        self._restore(stored)
        stored.attach(self)

    def _restore(self, stored: StoredRows) -> None:
        kept = self._kept
        for raw in list(stored.all_keys()):
            key = raw.decode()
            for part in stored.take(raw)[1] or ():
                _add(kept, int.from_bytes(part, "big", signed=True), key)
        self._heap = list(kept)
        heapify(self._heap)
        self._settle()

    def register(self, timestamp_ms: Millis) -> None:
        """Set a timer of the current key.  Setting it twice is setting it once."""
        key = self._context.key
        fresh, kept = self._fresh, self._kept
        if timestamp_ms in kept:
            if not _has(kept, timestamp_ms, key):
                if type(timestamp_ms) is not int:  # 1.0 is there where 1 is
                    _refuse(timestamp_ms)
                _add(fresh, timestamp_ms, key)
        elif timestamp_ms in fresh:
            _add(fresh, timestamp_ms, key)
        else:
            if type(timestamp_ms) is not int or not -FAR < timestamp_ms < FAR:
                _refuse(timestamp_ms)
            hash(key)  # raises where no key is current
            fresh[timestamp_ms] = key
            heappush(self._heap, timestamp_ms)
            if timestamp_ms < self.due:
                self.due = timestamp_ms

    def delete(self, timestamp_ms: Millis) -> None:
        """Take back a timer of the current key; nothing happens without it."""
        key = self._context.key
        if _has(self._fresh, timestamp_ms, key):
            _drop(self._fresh, timestamp_ms, key)
        elif _has(self._kept, timestamp_ms, key):
            _drop(self._kept, timestamp_ms, key)
            self._dead.append((timestamp_ms, [key]))
        else:
            return
        if len(self._heap) > 2 * (len(self._fresh) + len(self._kept)) + _STALE:
            self._heap = list(self._fresh.keys() | self._kept.keys())
            heapify(self._heap)
        self._settle()

    def take(self, most: int) -> tuple[Millis, list[str]]:
        """At most ``most`` keys of the earliest time, which are no timers any more.  Only while ``due`` is not ``FAR``."""
        timestamp_ms = self._heap[0]
        if timestamp_ms in self._kept:
            keys = _take(self._kept, timestamp_ms, most)
            self._dead.append((timestamp_ms, keys))
        else:
            keys = _take(self._fresh, timestamp_ms, most)
        self._settle()
        return timestamp_ms, keys

    def freeze(self, rows: list[Row]) -> None:
        """Append the rows of what changed since the last call, tombstones first."""
        prefix, kept, append = self._prefix, self._kept, rows.append
        for timestamp_ms, gone in self._dead:
            end = _row_end(timestamp_ms, _TIME_SIZE)
            for key in gone:
                append((prefix + key.encode() + end, None))
        self._dead.clear()
        for timestamp_ms, keys in self._fresh.items():
            end = _row_end(timestamp_ms, _TIME_SIZE)
            known = timestamp_ms in kept
            if not known:
                kept[timestamp_ms] = keys
            for key in (keys,) if type(keys) is str else keys:
                append((prefix + key.encode() + end, _SET))
                if known:
                    _add(kept, timestamp_ms, key)
        self._fresh.clear()

    def of(self, key: str) -> list[Millis]:
        """Times of a key's timers, in order.  Looks at all of them: for tests and queries."""
        return sorted(
            {timestamp_ms for of in (self._fresh, self._kept) for timestamp_ms in of if _has(of, timestamp_ms, key)}
        )

    # What a snapshot asks (tables.store.LiveRows).  It is written piece by piece; what changes meanwhile is in the changelog after it.

    def is_clean(self) -> bool:
        """Whether nothing has changed since the last freeze."""
        return not self._fresh and not self._dead

    def live_keys(self) -> list[str]:
        """Keys that have timers."""
        by_key: dict[str, list[Millis]] = {}
        for of in (self._kept, self._fresh):
            for timestamp_ms, keys in of.items():
                for key in (keys,) if isinstance(keys, str) else keys:
                    by_key.setdefault(key, []).append(timestamp_ms)
        self._by_key = by_key
        return list(by_key)

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        """Rows of the timers that these keys had when ``live_keys`` was called; each key once."""
        take, prefix = self._by_key.pop, self._prefix
        return [
            (prefix + key.encode() + _row_end(timestamp_ms, _TIME_SIZE), _SET)
            for key in keys
            for timestamp_ms in take(key, ())
        ]

    def trim(self, most: int) -> None:
        """Timers stay in memory, whatever the store."""

    def __len__(self) -> int:
        return sum(
            1 if isinstance(keys, str) else len(keys) for of in (self._fresh, self._kept) for keys in of.values()
        )

    def _settle(self) -> None:
        heap, fresh, kept = self._heap, self._fresh, self._kept
        while heap and heap[0] not in kept and heap[0] not in fresh:
            heappop(heap)
        self.due = heap[0] if heap else FAR


class Timers:
    """What a function may do about timers: those of the current key, in both domains.

    ``register_event_time(ms)``, ``delete_event_time(ms)``, ``register_processing_time(ms)``, ``delete_processing_time(ms)``: times are ms since
    1970.  A timer set twice fires once; deleting one that is not there does nothing.  Registering raises :class:`models.errors.BadRecord` for
    what cannot be a time (a ``float``, say), and all raise :class:`models.errors.StateError` in a function without ``on_timer``.
    """

    __slots__ = (
        "delete_event_time",
        "delete_processing_time",
        "event",
        "processing",
        "register_event_time",
        "register_processing_time",
    )

    def __init__(self, event: TimerQueue, processing: TimerQueue) -> None:
        self.event = event
        self.processing = processing
        # The queues' own methods: a timer per record is common, and a call through costs as much as the work.
        self.register_event_time = event.register
        self.delete_event_time = event.delete
        self.register_processing_time = processing.register
        self.delete_processing_time = processing.delete


class NoTimers(Timers):
    """The timers of a function without ``on_timer``: setting one is a mistake that would otherwise stay silent."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name
        self.register_event_time = self.register_processing_time = self._refuse
        self.delete_event_time = self.delete_processing_time = self._refuse

    def _refuse(self, timestamp_ms: Millis) -> None:
        raise StateError(f"{self._name} uses timers but has no on_timer: define on_timer(self, timestamp_ms, ctx)")


def _add(of: dict[Millis, Keys], timestamp_ms: Millis, key: str) -> None:
    known = of.get(timestamp_ms)
    if known is None:
        of[timestamp_ms] = key
    elif isinstance(known, dict):
        known[key] = None
    elif known != key:
        of[timestamp_ms] = {known: None, key: None}


def _has(of: dict[Millis, Keys], timestamp_ms: Millis, key: str) -> bool:
    known = of.get(timestamp_ms)
    if known is None:
        return False
    return known == key if isinstance(known, str) else key in known


def _drop(of: dict[Millis, Keys], timestamp_ms: Millis, key: str) -> None:
    known = of[timestamp_ms]
    if isinstance(known, dict) and len(known) > 1:
        del known[key]
    else:
        del of[timestamp_ms]


def _take(of: dict[Millis, Keys], timestamp_ms: Millis, most: int) -> list[str]:
    known = of[timestamp_ms]
    if isinstance(known, str):
        del of[timestamp_ms]
        return [known]
    if len(known) <= most:
        del of[timestamp_ms]
        return list(known)
    pop = known.popitem
    return [pop()[0] for _ in range(most)]


def _refuse(timestamp_ms: Any) -> None:
    # Times come from records: a bad one must cost its record, and not the worker when the row is encoded.
    raise BadRecord(
        f"a timer at {str(timestamp_ms)[:50]} ({type(timestamp_ms).__name__}): a time is a whole number of milliseconds since 1970"
    )
