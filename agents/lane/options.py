"""What an application decides for its lanes, and what they count."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from models.time import Clock, SystemClock


@dataclass(frozen=True, kw_only=True)
class LaneOptions:
    """What an application decides for all its lanes."""

    app_id: str
    app_version: str
    commit_interval: timedelta
    max_drift: timedelta
    clock: Clock = field(default_factory=SystemClock)
    #: records collected in one part before the source has to wait
    max_part_records: int = 32_768
    #: how often time is looked at without records, for operators with timers; ``None``: only when ``Lane.tick`` is called
    tick: timedelta | None = timedelta(milliseconds=100)
    #: how long timers may fire before the event loop gets its turn
    timer_slice: timedelta = timedelta(milliseconds=20)


@dataclass
class Totals:
    """Counted since the worker started, over all partitions that it ever had."""

    processed: int = 0
    emitted: int = 0
    dead_letters: int = 0
