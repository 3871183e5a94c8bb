"""Lane topics on a Faust consumer: whole slices of a partition travel as one message.

Neutral to the transport: a driver's consumer mixes :class:`LaneConsumerMixin` in before its Faust base class and returns
:class:`FetchedSlice` objects from ``_getmany`` for the topics in :meth:`LaneConsumerMixin.lane_topics`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import faust
from faust.types import TP, ConsumerMessage, EventT
from faust.types.tuples import Message

from agents.transport import Batch
from tables.log import Record, TopicPartition

#: Bounds of one batch; a single record may be larger.
BATCH_RECORDS = 8192
BATCH_BYTES = 4 << 20
#: Batches that wait between the fetcher and an agent before the partition is left alone for a while.
QUEUED_BATCHES = 16


class LaneTopic(faust.Topic):
    """A topic whose agent receives :class:`agents.transport.Batch` values.

    Faust neither acknowledges nor commits what it delivers here: the lane does, by its marker.  (Faust acknowledges events
    that it skipped, and commits past records in flight.)
    """

    def __init__(self, app: faust.App, **options: Any) -> None:
        options["acks"] = False
        options["maxsize"] = options.get("maxsize") or QUEUED_BATCHES
        super().__init__(app, **options)

    def _compile_decode(self) -> None:
        # The one thing that the conductor calls per message.
        self.decode = self._decode_batch  # type: ignore[method-assign]

    def get_topic_name(self) -> str:
        """Faust's commands name a topic by this; an operator may read two."""
        return ", ".join(self.topics)

    async def _decode_batch(self, message: Message, *, propagate: bool = False) -> EventT[Any]:
        return self.app.create_event(None, message.value, headers=message.headers, message=message)


class FetchedSlice(NamedTuple):
    """What a driver fetched from a lane partition.

    ``size`` is about the bytes of the records, ``epoch`` the consumer's ``seek_epoch`` when they were taken from the
    partition, and ``next_offset`` where the partition goes on (it counts what is never delivered).
    """

    records: Sequence[Record]
    next_offset: int
    size: int
    epoch: int


class LaneConsumerMixin:
    """Delivers lane partitions as batches, and plain ones as Faust does.

    What a driver provides: ``_getmany`` as described above, ``wake_fetch``, and for plain topics Faust's ``_to_message``.

    *Seek epoch.*  ``perform_seek`` starts an epoch before and after it seeks: Faust resumes sources before it seeks them, so
    what was fetched in between is a repeat, or lies ahead of a hole.  Batches of another epoch are dropped here until they
    are queued, and by the lane after that.

    *Nothing that is taken after the seek may be dropped.*  So a driver takes only partitions that are active at that moment, not those that
    were when it began to wait: they may be held meanwhile.
    """

    app: Any
    #: changes with every seek
    seek_epoch: int = 0
    _held: Set[TP] = frozenset()

    def lane_topics(self) -> set[str]:
        return {name for topic in self.app.topics if isinstance(topic, LaneTopic) for name in topic.topics}

    def lane_positions(self) -> Mapping[TP, int]:
        """Next source offset of each lane partition whose state says so; the app knows from the restored markers."""
        offsets = getattr(self.app, "lane_offsets", None)
        return offsets() if offsets is not None else {}

    def wake_fetch(self) -> None:
        """The set of partitions to fetch from has grown: look at what is there already.

        Without it a partition stands still until the fetch under way times out, because no new data needs to come.
        """
        raise NotImplementedError

    def delivering(self, tp: TP, offset: int) -> None:
        """A plain record is about to be handed to the agents."""

    # -- seeking

    async def perform_seek(self) -> None:
        """Seek sources to their committed offsets, lanes to where their state says.

        Recovery resumes the sources before this, and empties the agents' queues after it, when it resumes the flow: what
        was delivered in between would be lost.  So sources are held from here until ``resume_flow``.
        """
        assigned = self.assignment()  # type: ignore[attr-defined]
        held = {tp for tp in assigned if not self._is_changelog_tp(tp)}  # type: ignore[attr-defined]
        self.pause_partitions(held)  # type: ignore[attr-defined]
        self._held = held
        self.seek_epoch += 1
        await super().perform_seek()  # type: ignore[misc]
        await self.seek_lanes({tp: offset for tp, offset in self.lane_positions().items() if tp in assigned})

    async def seek_lanes(self, positions: Mapping[TP, int]) -> None:
        """Seek lane partitions and start an epoch.

        To whoever takes records this must be one step: what is taken after a seek and in the epoch before it would be dropped, and nobody
        would fetch it again.
        """
        for tp, offset in positions.items():
            await self.seek(tp, offset)  # type: ignore[attr-defined]
        self.seek_epoch += 1

    # -- which partitions are fetched

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        super().resume_partitions(tps)  # type: ignore[misc]
        self._more_to_fetch()

    def resume_flow(self) -> None:
        held, self._held = self._held, frozenset()
        super().resume_partitions(held)  # type: ignore[misc]
        super().resume_flow()  # type: ignore[misc]
        self._more_to_fetch()

    def on_buffer_drop(self, tp: TP) -> None:
        was_full = tp in self._buffered_partitions  # type: ignore[attr-defined]
        super().on_buffer_drop(tp)  # type: ignore[misc]
        if was_full:
            self._more_to_fetch()

    def _more_to_fetch(self) -> None:
        self._fetch_more().set()
        self.wake_fetch()

    def _fetch_more(self) -> asyncio.Event:
        event: asyncio.Event | None = self.__dict__.get("_fetch_more_event")
        if event is None:
            event = self.__dict__["_fetch_more_event"] = asyncio.Event()
        return event

    async def _wait_next_records(self, timeout: float) -> tuple[Mapping[TP, Any] | None, set[TP] | None]:
        # Faust sleeps a second when there is no partition to fetch from.
        if self.flow_active and not self.app.client_only and not self._get_active_partitions():  # type: ignore[attr-defined]
            more = self._fetch_more()
            more.clear()
            await self.wait(more, timeout=timeout)  # type: ignore[attr-defined]
            return {}, set()
        records, active = await super()._wait_next_records(timeout)  # type: ignore[misc]
        return records, active

    # -- delivery

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Messages fetched within ``timeout`` seconds.

        Faust seeks back to the committed offsets when it is called while the flow is stopped.  That races with recovery's
        own seeks, and ``perform_seek`` always comes before the flow is resumed for sources, so it is left out here.
        """
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop or not self.flow_active:  # type: ignore[attr-defined]
            return
        generation = self.app.consumer_generation_id
        plain: dict[TP, Any] = {}
        slices: list[tuple[TP, FetchedSlice]] = []
        for tp, fetched in records.items():
            if isinstance(fetched, FetchedSlice):
                slices.append((tp, fetched))
            else:
                plain[tp] = fetched

        def wanted(tp: TP) -> bool:
            return (
                self.flow_active  # type: ignore[attr-defined]
                and generation == self.app.consumer_generation_id
                and (active is None or tp in active or tp in self._buffered_partitions)  # type: ignore[attr-defined]
            )

        for tp, record in self.scheduler.iterate(plain):  # type: ignore[attr-defined]
            if wanted(tp):
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))  # type: ignore[attr-defined]
                message = self._to_message(tp, record)  # type: ignore[attr-defined]
                self.delivering(tp, message.offset)
                yield tp, message
        for tp, fetched in slices:
            for batch in batches(tp, fetched):
                if not wanted(tp) or fetched.epoch != self.seek_epoch:
                    break
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))  # type: ignore[attr-defined]
                last = batch.next_offset - 1
                # Faust looks for gaps between messages; batches have none.
                self._read_offset[tp] = last  # type: ignore[attr-defined]
                yield (
                    tp,
                    ConsumerMessage(
                        tp.topic,
                        tp.partition,
                        last,
                        batch.records[-1].timestamp / 1000.0 if batch.records else 0.0,
                        0,
                        [],
                        None,
                        batch,  # type: ignore[arg-type]
                        None,
                        None,
                        None,
                        tp,
                        generation_id=generation,
                    ),
                )


def batches(tp: TP, fetched: FetchedSlice) -> list[Batch]:
    """Cut a slice into batches within the bounds.

    A slice without records (aborted ones, the end of a transaction) gives a batch without records: who stands still in front of what is
    never delivered would look late for ever.
    """
    records, size = fetched.records, fetched.size
    source = TopicPartition(tp.topic, tp.partition)
    if len(records) <= BATCH_RECORDS and size <= BATCH_BYTES:
        return [Batch(source, records, fetched.next_offset, fetched.epoch)]
    cuts: list[int] = []
    count = weight = 0
    for index, record in enumerate(records):
        weight += len(record.key or b"") + len(record.value or b"")
        if count and (count == BATCH_RECORDS or weight > BATCH_BYTES):
            cuts.append(index)
            count, weight = 0, len(record.key or b"") + len(record.value or b"")
        count += 1
    out = []
    for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        part = records[start:end]
        following = fetched.next_offset if end == len(records) else part[-1].offset + 1
        out.append(Batch(source, part, following, fetched.epoch))
    return out
