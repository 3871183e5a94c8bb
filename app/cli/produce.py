"""``famulus produce``: records from standard input."""

from __future__ import annotations

import itertools
from base64 import b64decode
from typing import Annotated

import click
import msgspec

from app.cli.console import Command, broker, json_option, note, print_json, run, settings_of_environment
from app.cli.lines import MAX_LINE, lines_of
from app.producing import Tally, append_all, ensure_topic
from app.settings import Settings
from app.transport.client import BrokerClient, NewRecord
from models.errors import BadRecord

#: Bounds of one append.
BATCH_RECORDS = 2_000
BATCH_BYTES = 4 << 20


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """What a line of the input may say."""

    key: str | None = None
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    value_base64: str | None = None
    headers: dict[str, str] | None = None
    timestamp: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | None = None
    partition: Annotated[int, msgspec.Meta(ge=0)] | None = None


@click.command(cls=Command)
@click.argument("topic")
@click.option("--raw", is_flag=True, help="The value is a text, produced as it is (to try bad records).")
@click.option("--partitions", type=click.IntRange(1, 1024), help="Partitions of a topic that does not exist yet.")
@json_option
def produce(topic: str, raw: bool, partitions: int | None, as_json: bool) -> None:
    """Produce one record a line from standard input.

    \b
    Example: echo '{"key":"u1","value":{"amount":3.5}}' | famulus produce clicks
             echo '{"key":"u1","value":"not json"}' | famulus produce --raw user-transactions

    A line is {"key","value"} and, if wanted, "headers" (names and texts), "timestamp" (ms), "partition" (else the key
    decides), or "value_base64" in the place of "value".  A null value deletes in a compacted topic.  Bad lines are named and
    skipped, and the exit code is 1 then.  All that was counted is durable when the command ends.

    A topic of Famulus gets the partitions it must have; another one that does not exist yet is created with 4.
    """
    settings = settings_of_environment()
    tally = Tally(note)
    try:
        run(_produce(settings, topic, raw, partitions, tally))
    except BaseException:
        if tally.produced:
            _report(topic, tally, as_json)
        raise
    _report(topic, tally, as_json)
    if tally.bad:
        raise click.exceptions.Exit(1)


def _report(topic: str, tally: Tally, as_json: bool) -> None:
    if as_json:
        print_json({"topic": topic, "produced": tally.produced, "bad": tally.bad, "bad_lines": tally.named})
    else:
        skipped = f", {tally.bad} bad lines skipped" if tally.bad else ""
        click.echo(f"{tally.produced} records produced to {topic}{skipped}")


async def _produce(settings: Settings, topic: str, raw: bool, wanted: int | None, tally: Tally) -> None:
    async with broker(settings) as client:
        partitions, made = await ensure_topic(client, topic, wanted)
        if made:
            note(f"created topic {topic} with {partitions} partitions")
        batch = _Batch(client, topic, tally)
        numbers = itertools.count(1)
        async for lines in lines_of(click.get_binary_stream("stdin")):
            for line, number in zip(lines, numbers, strict=False):
                if line is not None and not line.strip():
                    continue
                try:
                    record = _record(line, raw, partitions)
                except BadRecord as error:
                    tally.bad_line(number, str(error))
                else:
                    await batch.add(record, number)
            # What came together is appended together; a slow input is not kept waiting.
            await batch.flush()


class _Batch:
    """Records on their way into one append."""

    def __init__(self, client: BrokerClient, topic: str, tally: Tally) -> None:
        self._client, self._topic, self._tally = client, topic, tally
        self._records: list[NewRecord] = []
        self._numbers: list[int] = []
        self._size = 0

    async def add(self, record: NewRecord, number: int) -> None:
        self._records.append(record)
        self._numbers.append(number)
        self._size += len(record.value or b"")
        if len(self._records) >= BATCH_RECORDS or self._size >= BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        records, numbers = self._records, self._numbers
        self._records, self._numbers, self._size = [], [], 0
        await append_all(self._client, self._topic, records, numbers, self._tally)


def _record(line: bytes | None, raw: bool, partitions: int) -> NewRecord:
    """The record of a line; raises :class:`models.errors.BadRecord`."""
    if line is None:
        raise BadRecord(f"longer than {MAX_LINE} bytes")
    try:
        said = _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise BadRecord(f"{error}; a line is {SHAPE}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(f"not JSON ({error}); a line is {SHAPE}") from None
    if said.partition is not None and said.partition >= partitions:
        raise BadRecord(f"partition {said.partition} is not among the topic's {partitions}, counted from 0")
    try:
        return NewRecord(
            key=None if said.key is None else said.key.encode(),
            value=_value(said, raw),
            headers=[(name, text.encode()) for name, text in (said.headers or {}).items()],
            timestamp_ms=said.timestamp,
            partition=said.partition,
        )
    except UnicodeEncodeError:
        raise BadRecord("a lone surrogate is no text") from None


def _value(said: _Line, raw: bool) -> bytes | None:
    if said.value_base64 is not None:
        if isinstance(said.value, msgspec.Raw) and bytes(said.value).strip() != b"null":
            raise BadRecord("value and value_base64 are both given")
        try:
            return b64decode(said.value_base64, validate=True)
        except ValueError:
            raise BadRecord("value_base64 is not base64") from None
    if not isinstance(said.value, msgspec.Raw):
        raise BadRecord(f"the value is missing; a line is {SHAPE}")
    value = bytes(said.value).strip()
    if value == b"null":
        return None
    if not raw:
        return value
    try:
        return _text.decode(value).encode()
    except msgspec.DecodeError:
        raise BadRecord("with --raw the value is a text in quotes") from None


SHAPE = '{"key":"u1","value":{...}}'
_decoder = msgspec.json.Decoder(_Line)
_text = msgspec.json.Decoder(str)
