"""What all kinds with a time to live share: the clock, renewal by reading, and the sweep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.time import Millis
from tables.state import KeyedState
from tables.ttl import UNSTAMPED, TimeDomain, Ttl, stamp_of

#: A sweep visits every key within this part of the time to live; a read is logged once it renews by as much.
PRECISION = 10


class Expiring(KeyedState):
    """Base of the classes that ``bind`` puts in front of a kind."""

    ttl: Ttl

    def _open(self) -> None:
        super()._open()
        ttl = self.ttl
        self._ttl_ms = ttl.ms
        self._step_ms = max(1, ttl.ms // PRECISION)
        self._event_time = ttl.time is TimeDomain.EVENT
        self._touching = ttl.update is Ttl.Update.ON_READ_AND_WRITE
        self._visible = ttl.visibility is Ttl.Visibility.RETURN_EXPIRED_IF_NOT_CLEANED_UP
        self._per_access = ttl.cleanup.keys_per_access
        self._background = ttl.cleanup == Ttl.Cleanup.BACKGROUND
        self._round: Iterator[str] | None = None
        self._round_start: Millis = 0
        self._round_keys = 0
        self._round_done = 0

    # -- the clock

    def _now(self) -> Millis:
        """The stamp of what is written now."""
        context = self._context
        if self._event_time:
            return max(context.timestamp_ms, context.watermark_ms)
        return context.processing_time_ms

    def _clock(self) -> Millis:
        """The time by which things expire."""
        context = self._context
        return context.watermark_ms if self._event_time else context.processing_time_ms

    def _expired(self, stamp: Millis) -> bool:
        return self._clock() >= stamp + self._ttl_ms

    def _touch(self, row: Any) -> bool:
        """Renew a row that is being read.  ``True``: the renewal must be logged."""
        now = self._now()
        if now > row.stamp:
            row.stamp = now
        return bool(row.stamp - row.logged >= self._step_ms)

    def _expired_row(self, row: bytes | None) -> bool:
        """Whether an encoded row with a stamp of its own has expired."""
        if row is None:
            return False
        stamp = stamp_of(row)
        return stamp != UNSTAMPED and self._expired(stamp)

    # -- clean-up

    def _check(self, key: str) -> None:
        """Remove what has expired of a key; give a stamp to what has none."""
        raise NotImplementedError

    def _visit(self, count: int) -> int:
        """Check the next ``count`` keys, beginning anew at the end; how many there were."""
        if self._round is None:
            self._round = self._all_keys()
        done = 0
        for key in self._round:
            self._check(key)
            done += 1
            if done >= count:
                return done
        self._round = None
        return done

    def _all_keys(self) -> Iterator[str]:
        rows = self._rows
        yield from list(rows)
        if self._cold:
            for raw in self._cold.all_keys():
                key = raw.decode()
                if key not in rows:
                    yield key

    def sweep(self, now_ms: Millis, budget: int) -> bool:
        if not self._background:
            return False
        now = self._clock() if self._event_time else now_ms
        if not self._event_time:
            self._context.processing_time_ms = max(self._context.processing_time_ms, now_ms)
        if self._round is None:
            if not self._round_start:
                self._round_start = now
            elif now < self._round_start + self._step_ms:
                return False
            else:
                # After a long silence the round is late already: all of it is due.
                self._round_start = max(self._round_start + self._step_ms, now - self._step_ms)
            self._round_done = 0
            self._round_keys = len(self._rows) + len(self._cold)
        # As many as are due by now, so that a round is spread over its whole time.
        due = -(-self._round_keys * max(1, now - self._round_start) // self._step_ms) - self._round_done
        wanted = min(budget, max(due, 1))
        self._round_done += self._visit(wanted)
        return self._round is not None and due > wanted
