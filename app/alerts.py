"""The most recent alerts, for the console and ``GET /v1/alerts``: bounded memory, filled from the topic's tail."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

import msgspec

from models.alerts import Alert
from models.errors import FamulusError, UnknownTopic
from tables.log import LogReader, TopicPartition

logger = logging.getLogger(__name__)

MAX_ALERTS = 10_000
#: An explanation quotes the transaction, so a hostile producer chooses an alert's size: bytes are bounded, too.
MAX_BYTES = 64 << 20
#: Records read back at start, over all partitions.
TAIL = 1_000


class BadCursor(FamulusError):
    """A cursor that this worker did not give out, or gave out before it was restarted.  Ask again without it."""


@dataclass(frozen=True, slots=True)
class AlertPage:
    """Alerts, newest first; ``cursor`` asks for older ones and is ``None`` where there are none."""

    alerts: Sequence[Alert]
    cursor: str | None


class AlertFeed:
    """A ring of encoded alerts.  They are decoded when somebody looks, never when they are made.

    Every alert has a number that only grows, so a cursor ("older than number N") stays right while new ones arrive and
    old ones fall out of the ring.
    """

    def __init__(self, max_alerts: int = MAX_ALERTS, max_bytes: int = MAX_BYTES) -> None:
        self._ring: deque[bytes] = deque()
        self._max_alerts = max_alerts
        self._max_bytes = max_bytes
        self._bytes = 0
        #: Number that the next alert gets.
        self._next = 0
        # Numbers start again with the process; cursors of another one must not be mistaken for ours.
        self._run = secrets.token_hex(4)

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def version(self) -> str:
        """Changes whenever the feed does."""
        return f"{self._run}.{self._next}"

    def feed(self, values: Sequence[bytes]) -> None:
        """Append encoded alerts, oldest first.  Called by the lane, on the event loop, when they are durable."""
        self._ring.extend(values)
        self._next += len(values)
        self._bytes += sum(map(len, values))
        while len(self._ring) > self._max_alerts or self._bytes > self._max_bytes:
            self._bytes -= len(self._ring.popleft())

    def feed_missing(self, values: Sequence[bytes]) -> None:
        """Append those that are not there yet."""
        known = set(self._ring)
        self.feed([value for value in values if value not in known])

    def recent(
        self, user_id: str | None = None, rule_id: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> AlertPage:
        """Newest first, only those of the user and the rule where given.

        Raises :class:`BadCursor` for a cursor that is not of this run.
        """
        alerts: list[Alert] = []
        for number, value in self._older_than(self._next if cursor is None else self._number(cursor)):
            if (alert := _decode(value, user_id, rule_id)) is None:
                continue
            if len(alerts) == limit:
                # One more exists, so the cursor of the page leads somewhere.
                return AlertPage(alerts, f"{self._run}.{number + 1}")
            alerts.append(alert)
        return AlertPage(alerts, None)

    async def fill(
        self, reader: LogReader, topic: str, *, tail: int = TAIL, timeout: timedelta = timedelta(seconds=10)
    ) -> None:
        """Begin with the newest records of the topic, about ``tail`` of them, ordered by the time of their append.

        The reader must be started.  A topic that does not exist yet is an empty one.  Alerts fed meanwhile come after
        the ones read, once each.  On ``timeout`` the feed keeps what was read and says so in the log: it is a view, and
        no reason to stay down.
        """
        try:
            partitions = await reader.partitions(topic)
        except UnknownTopic:
            return
        tps = [TopicPartition(topic, partition) for partition in range(partitions)]
        ends = await reader.end_offsets(tps)
        starts = await reader.start_offsets(tps)
        each = -(-tail // partitions)
        left = {tp: max(starts[tp], ends[tp] - each) for tp in tps if starts[tp] < ends[tp]}
        read: list[tuple[int, bytes]] = []
        reader.assign(left)
        deadline = time.monotonic() + timeout.total_seconds()
        while left and (seconds := deadline - time.monotonic()) > 0:
            for part in await reader.poll(min(seconds, 0.5)):
                if part.tp not in left:
                    continue
                end = ends[part.tp]
                read += [(r.timestamp, r.value) for r in part.records if r.value is not None and r.offset < end]
                left[part.tp] = part.next_offset
                if part.next_offset >= end:
                    del left[part.tp]
        reader.assign({})
        if left:
            logger.warning("Recent alerts: %s was read only in part within %s", topic, timeout)
        read.sort(key=lambda pair: pair[0])
        values = [value for _, value in read]
        known = set(values)
        values += [value for value in self._ring if value not in known]
        self._ring.clear()
        self._bytes = 0
        self.feed(values)

    def _older_than(self, number: int) -> Iterator[tuple[int, bytes]]:
        """(number, alert), newest first, below ``number``."""
        skip = max(0, self._next - number)
        newest = self._next - 1 - skip
        for age, value in enumerate(islice(reversed(self._ring), skip, None)):
            yield newest - age, value

    def _number(self, cursor: str) -> int:
        run, _, number = cursor.partition(".")
        if run != self._run or not number.isascii() or not number.isdigit() or len(number) > 18:
            raise BadCursor("The cursor is not one of this worker's present run; ask again without it.")
        return int(number)


class _Who(msgspec.Struct, gc=False):
    """What a filter looks at, decoded alone: msgspec skips the rest of the text in C."""

    user_id: str
    rule_id: str


_who = msgspec.json.Decoder(_Who)
_alert = msgspec.json.Decoder(Alert)


def _decode(value: bytes, user_id: str | None, rule_id: str | None) -> Alert | None:
    """The alert, or ``None`` where the filter leaves it out or the record, from somebody else, is not an alert."""
    try:
        if user_id is not None or rule_id is not None:
            who = _who.decode(value)
            if (user_id is not None and who.user_id != user_id) or (rule_id is not None and who.rule_id != rule_id):
                return None
        return _alert.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
