"""Time to live: how long a state's rows stay readable after they were last touched.

A row, a list element or a map entry of a state with a ``Ttl`` carries a *stamp*: the time (ms) of its last renewal.  It is expired once

    now >= stamp + duration

where ``now`` stands still within a batch for processing time and is the watermark for event time.  A stamp is the processing time of
the batch, or in event time the later of the record's time and the watermark, so that a late record's value lives as long as others.

Stamps travel within the rows of the changelog, which say by themselves whether they have one (see ``stamped`` for values and map
entries and ``tables.sequence`` for lists).  So a ``Ttl`` may be added to a state, changed or removed at any restart:

added     rows without a stamp get one when they are first read or swept: their life begins then
changed   stamps stay, the new duration counts from them
removed   stamps are ignored; what had expired but was not cleaned up yet is there again
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, ClassVar, Final, TypeAlias

from models.errors import StateError
from models.time import Millis, millis

#: First byte of a row with a stamp.  MessagePack never uses it, so no encoded value starts with it.
STAMP_MARK: Final = 0xC1
#: Bytes before the value: the mark and the stamp, a signed big-endian integer of 6 bytes.
STAMP_SIZE: Final = 7
_LIMIT: Final = (1 << 47) - 1

#: The stamp of a row that has none.
UNSTAMPED: Final = -(1 << 62)


class UpdateType(enum.Enum):
    """What renews a stamp."""

    ON_CREATE_AND_WRITE = "on-create-and-write"
    #: Reading renews, too.  The renewal is logged only once it is a tenth of the duration away from the logged stamp, so after a
    #: restart a row may expire by that much earlier than its last read says.
    ON_READ_AND_WRITE = "on-read-and-write"


class VisibilityType(enum.Enum):
    """Whether an expired row may still be read."""

    NEVER_RETURN_EXPIRED = "never-return-expired"
    RETURN_EXPIRED_IF_NOT_CLEANED_UP = "return-expired-if-not-cleaned-up"


class TimeDomain(enum.Enum):
    """Which clock counts."""

    PROCESSING = "processing"
    EVENT = "event"


@dataclass(frozen=True)
class CleanupType:
    """How expired rows that nobody reads leave memory, store and changelog.

    ``BACKGROUND``: the worker sweeps all keys within a tenth of the duration, in bounded steps between batches.
    ``incremental(n)``: each access of the state looks at ``n`` further keys.
    ``FULL_SNAPSHOT``: snapshots leave them out, nothing else is done; memory and changelog keep them until they are read.
    """

    mode: str = "background"
    keys_per_access: int = 0

    BACKGROUND: ClassVar[CleanupType]
    FULL_SNAPSHOT: ClassVar[CleanupType]

    @classmethod
    def incremental(cls, keys_per_access: int) -> CleanupType:
        if not isinstance(keys_per_access, int) or keys_per_access < 1:
            raise StateError(
                f"incremental({keys_per_access!r}): at least one key per access, or nothing is ever cleaned up"
            )
        return cls("incremental", keys_per_access)


CleanupType.BACKGROUND = CleanupType()
CleanupType.FULL_SNAPSHOT = CleanupType("full-snapshot")


class _Choices:
    """So that importing ``Ttl`` is enough to name its choices."""

    Update: TypeAlias = UpdateType
    Visibility: TypeAlias = VisibilityType
    Cleanup: TypeAlias = CleanupType
    Time: TypeAlias = TimeDomain


@dataclass(frozen=True)
class Ttl(_Choices):
    """Time to live of a state's rows, of each list element and of each map entry.

    ``ValueState(T, ttl=Ttl(timedelta(hours=2)))``.  Each choice may also be given as its text: ``update="on-read-and-write"``,
    ``visibility="return-expired-if-not-cleaned-up"``, ``cleanup="full-snapshot"``, ``time="event"``.  Raises
    :class:`models.errors.StateError` for any other, and for a duration under one millisecond.
    """

    duration: timedelta
    update: UpdateType = UpdateType.ON_CREATE_AND_WRITE
    visibility: VisibilityType = VisibilityType.NEVER_RETURN_EXPIRED
    cleanup: CleanupType = CleanupType.BACKGROUND
    time: TimeDomain = TimeDomain.PROCESSING

    def __post_init__(self) -> None:
        if millis(self.duration) < 1:
            raise StateError(f"Ttl({self.duration}): state needs to live for a millisecond at least")
        for name, kind in (("update", UpdateType), ("visibility", VisibilityType), ("time", TimeDomain)):
            object.__setattr__(self, name, _choice(kind, getattr(self, name), name))
        if not isinstance(self.cleanup, CleanupType):
            known = {each.mode: each for each in (CleanupType.BACKGROUND, CleanupType.FULL_SNAPSHOT)}
            if self.cleanup not in known:
                raise StateError(
                    f"cleanup={self.cleanup!r}: use {', '.join(map(repr, known))} or Ttl.Cleanup.incremental(keys_per_access)"
                )
            object.__setattr__(self, "cleanup", known[self.cleanup])

    @property
    def ms(self) -> Millis:
        """The duration in ms."""
        return millis(self.duration)


def _choice(kind: type[enum.Enum], given: Any, name: str) -> enum.Enum:
    """The choice that was given, itself or as its text; anything else would silently be none of them."""
    try:
        return kind(given)
    except ValueError:
        raise StateError(f"{name}={given!r}: use {', '.join(repr(each.value) for each in kind)}") from None


def stamped(stamp: Millis, value: bytes) -> bytes:
    """A row of a value or map entry with its stamp: C1, 6 bytes of stamp, MessagePack of the value."""
    return _head(stamp) + value


@lru_cache(256)  # the rows of a batch have few stamps
def _head(stamp: Millis) -> bytes:
    return b"\xc1" + min(max(stamp, -_LIMIT), _LIMIT).to_bytes(6, "big", signed=True)


def stamp_of(row: bytes) -> Millis:
    """The stamp of an encoded row, ``UNSTAMPED`` without one."""
    if row[0] != STAMP_MARK:
        return UNSTAMPED
    return int.from_bytes(row[1:STAMP_SIZE], "big", signed=True)
