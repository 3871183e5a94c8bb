"""What all partitions of a lane share: what the application decided, where outputs go, what is counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from agents.operator.spec import OperatorSpec
from agents.transport import PartSink, SealedPart
from models.errors import StateError
from models.time import Clock, SystemClock
from tables.log import TopicPartition

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LaneOptions:
    """What an application decides for all its lanes."""

    app_id: str
    app_version: str
    commit_interval: timedelta
    max_drift: timedelta
    #: the interval of a partition that is far behind (see agents.lane.partition)
    backlog_interval: timedelta = timedelta(milliseconds=400)
    clock: Clock = field(default_factory=SystemClock)
    #: records collected in one part before the source has to wait
    max_part_records: int = 65_536
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


class LaneContext:
    """One operator of the topology on this worker, as its partitions see it.

    ``waiting(tp, next_offset)``: whether the log is known to have records from this offset on.  ``fatal(error, where)``: the process has to
    end.  ``listeners`` are called with each part once it is durable.
    """

    def __init__(
        self,
        spec: OperatorSpec,
        options: LaneOptions,
        sink: Callable[[], PartSink],
        *,
        fatal: Callable[[BaseException, str], None],
        waiting: Callable[[TopicPartition, int], bool],
    ) -> None:
        self.spec = spec
        self.options = options
        self.fatal = fatal
        self.waiting = waiting
        self.totals = Totals()
        self.listeners: list[Callable[[SealedPart], None]] = []
        self.changelog = f"{options.app_id}-{spec.uid}-changelog"
        self._sink_of = sink
        self._warned = False
        self._side_topics: dict[str, str] = dict(spec.side_outputs)

    @property
    def sink(self) -> PartSink:
        return self._sink_of()

    def warn_of_no_output(self) -> None:
        """Say once that what the operator emits goes nowhere."""
        if not self._warned:
            self._warned = True
            log.warning("operator %s emits and has no output=, so what it emits is dropped", self.spec.uid)

    def side_topic(self, tag: str) -> str:
        """Raises :class:`models.errors.StateError` for a side output without a topic."""
        try:
            return self._side_topics[tag]
        except KeyError:
            raise StateError(
                f"operator {self.spec.uid!r} emits to the side output {tag!r}, which has no topic: "
                "add it to the operator's side_outputs"
            ) from None
