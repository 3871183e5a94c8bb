"""Reading topics from a terminal: from where, until where, and a record as one line of JSON."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from app.transport.client import BrokerClient
from models.errors import UnknownTopic
from models.topics import spec_of
from tables.log import LogReader, Record, Slice, TopicPartition

Positions = Mapping[TopicPartition, int]

#: Seconds that a poll waits for the next record.
_POLL = 0.5


@asynccontextmanager
async def reading(client: BrokerClient) -> AsyncIterator[LogReader]:
    """A started reader."""
    reader = client.reader()
    await reader.start()
    try:
        yield reader
    finally:
        await reader.stop()


async def partitions_of(client: BrokerClient, topic: str) -> int:
    """Number of partitions; 0 for one of our topics that nobody has created yet.

    Raises :class:`models.errors.UnknownTopic` for any other topic that does not exist.
    """
    partitions = (await client.topics()).get(topic, 0)
    if not partitions and spec_of(topic) is None:
        raise UnknownTopic(f"there is no topic {topic!r}; famulus topics shows those there are")
    return partitions


async def wait_for_topic(client: BrokerClient, topic: str) -> int:
    """Number of partitions, once the topic exists."""
    while not (partitions := await partitions_of(client, topic)):  # noqa: ASYNC110  (no client announces new topics)
        await asyncio.sleep(_POLL)
    return partitions


def all_partitions(topic: str, partitions: int) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for partition in range(partitions)]


async def bounds(reader: LogReader, tps: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
    """First offset and end offset per partition, as they are now."""
    starts = await reader.start_offsets(tps)
    ends = await reader.end_offsets(tps)
    return {tp: (starts[tp], ends[tp]) for tp in tps}


async def follow(reader: LogReader, start: Positions) -> AsyncIterator[Slice]:
    """Slices from the positions on, for ever."""
    reader.assign(start)
    while True:
        for part in await reader.poll(_POLL):
            yield part


async def until(reader: LogReader, start: Positions, end: Positions) -> AsyncIterator[Slice]:
    """Slices from the positions up to the end positions, cut there."""
    left = {tp: end[tp] for tp, offset in start.items() if offset < end[tp]}
    reader.assign({tp: start[tp] for tp in left})
    while left:
        for part in await reader.poll(_POLL):
            if part.tp not in left:
                continue
            stop = left[part.tp]
            if part.next_offset >= stop:
                del left[part.tp]
                part = part._replace(records=[record for record in part.records if record.offset < stop])
            if part.records:
                yield part
    reader.assign({})


def as_lines(tp: TopicPartition, records: Iterable[Record]) -> bytes:
    """The records as lines of JSON."""
    return b"".join(_encoder.encode(as_object(tp, record)) + b"\n" for record in records)


def as_object(tp: TopicPartition, record: Record) -> dict[str, object]:
    """A record for people and programs.

    The value is what its JSON says, or its text where it is not JSON; bytes that are no text either are in
    ``value_base64`` (``key_base64``), with ``null`` as the value (key).
    """
    line: dict[str, object] = {
        "topic": tp.topic,
        "partition": tp.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
    }
    _put_text(line, "key", record.key)
    _put_value(line, record.value)
    if record.headers:
        line["headers"] = {name: value.decode(errors="backslashreplace") for name, value in record.headers}
    return line


def _put_value(line: dict[str, object], value: bytes | None) -> None:
    if value is not None:
        try:
            line["value"] = _decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _put_text(line, "value", value)
    else:
        line["value"] = None


def _put_text(line: dict[str, object], name: str, data: bytes | None) -> None:
    try:
        line[name] = None if data is None else data.decode()
    except UnicodeDecodeError:
        line[name] = None
        line[f"{name}_base64"] = b64encode(data or b"").decode()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()
