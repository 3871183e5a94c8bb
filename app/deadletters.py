"""Dead letters as operations: counted by reason, looked at, and replayed to where they came from.

How far a dead letter topic was replayed is on the compacted topic ``APP-dlq-replays``: key ``TOPIC/PARTITION``, value the next
offset to replay in decimal.  A replay appends first and remembers then, so a crash in between repeats and never loses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from app.reading import all_partitions, as_object, bounds, partitions_of, reading, until
from app.transport.client import BrokerClient, NewRecord
from models import deadletter
from models.errors import NotFound
from models.topics import DLQ_SUFFIX
from tables.log import Record, TopicPartition

#: Records of one append of a replay.
BATCH = 500
_OURS = {
    deadletter.TOPIC,
    deadletter.PARTITION,
    deadletter.OFFSET,
    deadletter.ERROR_CLASS,
    deadletter.ERROR_MESSAGE,
    deadletter.APP,
    deadletter.APP_VERSION,
    deadletter.OPERATOR,
    deadletter.ATTEMPT,
    deadletter.TIMER_DOMAIN,
    deadletter.TIMER_TIME,
}


class DeadLetterTopic(msgspec.Struct):
    """Totals of one dead letter topic; ``waiting`` are the records that no replay has passed yet."""

    topic: str
    records: int
    waiting: int
    reasons: dict[str, int]


class Replayed(msgspec.Struct):
    """What a replay did: records per origin topic; ``skipped`` are timers, or say no origin."""

    by_topic: dict[str, int]
    skipped: int


@dataclass(frozen=True, slots=True)
class Reason:
    """What the headers of a dead letter say; what they leave out is ``""``, ``-1`` and 0.

    ``timer``: of a timer's dead letter whose clock it followed (``event``, ``processing``), and ``timer_ms`` its time.
    """

    topic: str
    partition: int
    offset: int
    error_class: str
    message: str
    app: str
    app_version: str
    operator: str
    attempt: int
    timer: str
    timer_ms: int

    @classmethod
    def of(cls, record: Record) -> Reason:
        said = {name: value.decode(errors="backslashreplace") for name, value in record.headers or ()}
        return cls(
            topic=said.get(deadletter.TOPIC, ""),
            partition=_number(said.get(deadletter.PARTITION)),
            offset=_number(said.get(deadletter.OFFSET)),
            error_class=said.get(deadletter.ERROR_CLASS, "unknown"),
            message=said.get(deadletter.ERROR_MESSAGE, ""),
            app=said.get(deadletter.APP, ""),
            app_version=said.get(deadletter.APP_VERSION, ""),
            operator=said.get(deadletter.OPERATOR, ""),
            attempt=deadletter.attempt_of(record.headers),
            timer=said.get(deadletter.TIMER_DOMAIN, ""),
            timer_ms=_number(said.get(deadletter.TIMER_TIME)),
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter where it lies."""

    tp: TopicPartition
    record: Record
    reason: Reason

    def as_object(self) -> dict[str, object]:
        """As ``famulus read`` prints a record, with the reason in the place of its headers."""
        shown = as_object(self.tp, self.record)
        shown.pop("headers", None)
        reason = self.reason
        shown["origin"] = {"topic": reason.topic, "partition": reason.partition, "offset": reason.offset}
        if reason.timer:
            shown["timer"] = {"domain": reason.timer, "timestamp": reason.timer_ms}
        shown["error"] = {"class": reason.error_class, "message": reason.message}
        shown |= {"app": reason.app, "app_version": reason.app_version}
        shown |= {"operator": reason.operator, "attempt": reason.attempt}
        return shown


class DeadLetters:
    """The dead letters of one broker; ``app_id`` owns the memory of what was replayed."""

    def __init__(self, client: BrokerClient, app_id: str) -> None:
        self._client = client
        self._replays = f"{app_id}-dlq-replays"

    async def topics(self) -> list[DeadLetterTopic]:
        """Every dead letter topic that holds records, by name; reads them all."""
        replayed = await self._replayed()
        found = []
        for topic in sorted(await self._client.topics()):
            if not topic.endswith(DLQ_SUFFIX):
                continue
            totals = DeadLetterTopic(topic, 0, 0, {})
            reasons: Counter[str] = Counter()
            async for letter in self.letters(topic):
                totals.records += 1
                totals.waiting += letter.record.offset >= replayed.get(letter.tp, 0)
                reasons[letter.reason.error_class] += 1
            totals.reasons = dict(reasons)
            if totals.records:
                found.append(totals)
        return found

    async def letters(
        self, topic: str, partition: int | None = None, offset: int | None = None
    ) -> AsyncIterator[DeadLetter]:
        """The letters of a topic, in order per partition, from the oldest there is up to now."""
        async for part in self._read(topic, partition, offset):
            for letter in part:
                yield letter

    async def replay(
        self, topic: str, *, partition: int | None = None, offset: int | None = None, everything: bool = False
    ) -> Replayed:
        """Append the letters to their origin topics, with ``attempt`` counted up; those of timers stay where they are.

        Without ``everything`` and ``offset``: those that were not replayed before, and remember so.  A record that several jobs refused has
        as many letters and is appended once: it comes to all of them.
        """
        remember = offset is None and not everything
        replayed = await self._replayed() if remember else {}
        topics = await self._client.topics()
        done, skipped = Counter[str](), 0
        seen: set[int] = set()
        # From the first letter on, also below what was replayed: another job's letter of the same record may follow later.
        async for part in self._read(topic, partition, offset):
            back: dict[str, list[NewRecord]] = {}
            before = replayed.get(part[0].tp, 0)
            for letter in part:
                reason = letter.reason
                # With its bytes, so that a topic that was made anew, whose offsets come again, has other records.
                which = hash((reason.topic, reason.partition, reason.offset, letter.record.key, letter.record.value))
                first = reason.offset < 0 or which not in seen
                seen.add(which)
                if letter.record.offset < before:
                    continue
                if reason.topic not in topics or reason.timer:
                    skipped += 1
                elif first:
                    back.setdefault(reason.topic, []).append(_again(letter))
            for origin, records in back.items():
                await self._client.append(origin, records)
                done[origin] += len(records)
            if remember and part[-1].record.offset >= before:
                await self._remember(part[-1].tp, part[-1].record.offset + 1)
        return Replayed(dict(done), skipped)

    async def _read(self, topic: str, partition: int | None, offset: int | None) -> AsyncIterator[Sequence[DeadLetter]]:
        """Letters of one partition at a time, at most ``BATCH``, from the first."""
        partitions = await partitions_of(self._client, topic)
        tps = [tp for tp in all_partitions(topic, partitions) if partition in (None, tp.partition)]
        if partition is not None and partitions and not tps:
            raise NotFound(f"{topic} has no partition {partition}; it has {partitions}, counted from 0")
        if not tps:
            return
        async with reading(self._client) as reader:
            found = await bounds(reader, tps)
            first = {tp: begin for tp, (begin, _) in found.items()}
            end = {tp: stop for tp, (_, stop) in found.items()}
            if offset is not None:
                first = {tp: max(begin, offset) for tp, begin in first.items()}
                end = {tp: min(stop, offset + 1) for tp, stop in end.items()}
            async for part in until(reader, first, end):
                letters = [DeadLetter(part.tp, record, Reason.of(record)) for record in part.records]
                for at in range(0, len(letters), BATCH):
                    yield letters[at : at + BATCH]

    async def _replayed(self) -> dict[TopicPartition, int]:
        if self._replays not in await self._client.topics():
            return {}
        replayed = {}
        async with reading(self._client) as reader:
            found = await bounds(reader, all_partitions(self._replays, 1))
            start = {tp: begin for tp, (begin, _) in found.items()}
            end = {tp: stop for tp, (_, stop) in found.items()}
            async for part in until(reader, start, end):
                for record in part.records:
                    topic, _, partition = (record.key or b"").decode().rpartition("/")
                    replayed[TopicPartition(topic, int(partition))] = int(record.value or b"0")
        return replayed

    async def _remember(self, tp: TopicPartition, next_offset: int) -> None:
        await self._client.create_topic(self._replays, 1, {"cleanup.policy": "compact"})
        record = NewRecord(key=f"{tp.topic}/{tp.partition}".encode(), value=b"%d" % next_offset)
        await self._client.append(self._replays, [record])


def _again(letter: DeadLetter) -> NewRecord:
    record, reason = letter.record, letter.reason
    headers = [(name, value) for name, value in record.headers or () if name not in _OURS]
    # The worker counts on from here if the record is still bad.
    headers.append((deadletter.ATTEMPT, b"%d" % reason.attempt))
    # Without a key only the partition keeps the order that the records had.
    partition = reason.partition if record.key is None and reason.partition >= 0 else None
    return NewRecord(key=record.key, value=record.value, headers=headers, partition=partition)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else -1
