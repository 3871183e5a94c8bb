"""Event time of an operator's inputs on one partition.

An input's watermark is its newest event time less the bound on disorder; the operator's is the smallest of its inputs'.  Neither ever
goes back, and each input's travels in its marker row.

An input is *idle* when nothing was waiting in its partition for ``idle_after`` of processing time.  Then its watermark is lifted

- to that of the operator's other input, while that one is not idle,
- to the furthest of the same operator's other partitions on this worker, as ``lift`` is told,
- and, when all inputs are idle, on with the clock: to the newest event time plus the time since it became idle.

So a quiet topic or partition holds nothing back, and a last window closes after its own length and ``idle_after``, though nothing more
arrives.  A producer of current events is not hurt by that: what it sends later is later by the clock, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agents.operator.spec import Source
from agents.operator.timers import FAR
from models.time import NO_TIME, Millis, millis
from tables.changelog import Marker
from tables.log import Record


class Input:
    """Where one source partition stands."""

    __slots__ = (
        "base_ms",
        "bound_ms",
        "idle_after_ms",
        "lateness_ms",
        "next_offset",
        "process",
        "read",
        "seen_ms",
        "source",
        "watermark_ms",
    )

    def __init__(self, source: Source, marker: Marker, process: Callable[..., Any]) -> None:
        self.source = source
        self.process = process
        #: set by who drives a function with it: records in, their events in turn
        self.read: Callable[[Sequence[Record]], Iterable[Any]]
        self.next_offset = marker.next_offset
        self.watermark_ms = marker.watermark_ms
        #: bound on disorder, ``None``: the watermark moves only from outside
        self.bound_ms = None if source.out_of_orderness is None else millis(source.out_of_orderness)
        self.lateness_ms = FAR if source.allowed_lateness is None else millis(source.allowed_lateness)
        self.idle_after_ms = FAR if source.idle_after is None else millis(source.idle_after)
        #: newest event time that moved the watermark
        self.seen_ms = NO_TIME if marker.watermark_ms == NO_TIME else marker.watermark_ms + (self.bound_ms or 0)
        #: where the clock takes over when the input falls silent
        self.base_ms = self.seen_ms

    def settle(self, newest_ms: Millis) -> None:
        """A batch is over; ``newest_ms`` is the time of its last record, which may be early enough not to move the watermark."""
        self.base_ms = max(self.seen_ms, self.watermark_ms, newest_ms)


def lift(inputs: Sequence[Input], quiet_ms: Sequence[Millis], others_ms: Millis) -> None:
    """Lift the watermarks of idle inputs.

    ``quiet_ms``: for how long nothing has been waiting, per input.  ``others_ms``: watermark of the furthest other partition.
    """
    idle = [
        (feed, quiet - feed.idle_after_ms)
        for feed, quiet in zip(inputs, quiet_ms, strict=True)
        if feed.bound_ms is not None and quiet >= feed.idle_after_ms
    ]
    if not idle:
        return
    target = others_ms
    if len(idle) < len(inputs):
        waiting = [feed for feed, _ in idle]
        target = max(target, *(feed.watermark_ms for feed in inputs if feed not in waiting))
    else:
        for feed, since in idle:
            if feed.base_ms != NO_TIME:
                target = max(target, feed.base_ms + since)
    for feed, _ in idle:
        feed.watermark_ms = max(feed.watermark_ms, target)
