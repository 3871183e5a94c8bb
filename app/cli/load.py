"""``famulus load``: a file of the user's own into a topic."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import click

from app.cli.console import (
    Command,
    Failure,
    Misuse,
    broker,
    json_option,
    note,
    print_json,
    run,
    settings_of_environment,
)
from app.load import BadLine, Columns, Converter, Source, WrongFile, converter
from app.producing import Tally, append_all, ensure_topic
from app.settings import Settings
from app.transport.client import BrokerClient, NewRecord
from models.errors import BadRecord

BATCH = 4_000
#: Seconds between two lines of progress where there is no terminal to draw a bar on.
PLAIN_EVERY = 5.0


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--topic", required=True, help="Topic to produce to.")
@click.option("--map", "pairs", multiple=True, metavar="FIELD=COLUMN", help="Which column a field of the record is in.")
@click.option("--attributes", metavar="COLUMN,...", help="Columns that become attributes of a transaction.")
@click.option("--key", metavar="FIELD", help="Field that is the key, for a topic that is not one of ours.")
@click.option("--partitions", type=click.IntRange(1, 1024), help="Partitions of a topic that does not exist yet.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Records per second (default: all it can).")
@json_option
def load(
    file: Path,
    topic: str,
    pairs: tuple[str, ...],
    attributes: str | None,
    key: str | None,
    partitions: int | None,
    rate: float | None,
    as_json: bool,
) -> None:
    """Load records from FILE: .csv or .tsv with a header, .jsonl, also .gz.

    \b
    Example: famulus load payments.csv.gz --topic user-transactions \\
               --map user_id=customer_id --map merchant=terminal_id

    A column that is called as a field of the record needs no --map.  For user-transactions each record is checked; columns that it
    has no field for are dropped, unless --attributes keeps them.  Times are milliseconds or ISO 8601 (UTC where no zone is
    given).  For other topics a record has every column.  Bad lines are named, counted and skipped; the exit code is 1 only if no line
    could be loaded.
    """
    columns = Columns(_mapping(pairs), tuple(filter(None, (attributes or "").split(","))), key)
    settings = settings_of_environment()
    with Source(file) as source:
        tally = Tally(note)
        try:
            convert = converter(topic, source.header, columns)
        except WrongFile as error:
            raise Misuse(f"{file}: {error}") from None
        loading = _Loading(source, topic, convert, tally, rate)
        started = time.monotonic()
        try:
            run(loading.run(settings, partitions))
        except BaseException:
            if tally.produced:
                _report(topic, tally, convert, time.monotonic() - started, as_json)
            raise
    _report(topic, tally, convert, time.monotonic() - started, as_json)
    if tally.bad and not tally.produced:
        raise Failure(f"{file}: no line could be loaded; see --map in famulus load --help")


def _mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        name, separator, column = pair.partition("=")
        if not separator or not name or not column:
            raise Misuse(f"--map {pair}: write FIELD=COLUMN, such as user_id=customer_id")
        mapping[name] = column
    return mapping


def _report(topic: str, tally: Tally, convert: Converter, seconds: float, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "topic": topic,
                "produced": tally.produced,
                "bad": tally.bad,
                "bad_lines": tally.named,
                "dropped_columns": list(convert.dropped),
                "seconds": round(seconds, 3),
            }
        )
        return
    skipped = f", {tally.bad:,} bad lines skipped" if tally.bad else ""
    click.echo(f"{tally.produced:,} records loaded into {topic} in {seconds:.1f} s{skipped}")
    if convert.dropped:
        click.echo(f"columns without a field, dropped: {', '.join(convert.dropped)} (--attributes keeps some)")


class _Loading:
    """One file on its way into the log: the next batch is converted while the last one is written."""

    def __init__(self, source: Source, topic: str, convert: Converter, tally: Tally, rate: float | None) -> None:
        self._source, self._topic, self._convert, self._tally = source, topic, convert, tally
        self._rate = rate
        self._batch = BATCH if rate is None else max(1, min(BATCH, round(rate / 10)))
        self._sent = 0
        self._started = time.monotonic()

    async def run(self, settings: Settings, partitions: int | None) -> None:
        async with broker(settings) as client:
            _, made = await ensure_topic(client, self._topic, partitions)
            if made:
                note(f"created topic {self._topic}")
            with _Progress(self._source) as progress:
                await self._copy(client, progress)

    async def _copy(self, client: BrokerClient, progress: _Progress) -> None:
        records: list[NewRecord] = []
        numbers: list[int] = []
        writing: asyncio.Task[None] | None = None
        try:
            for line in self._source:
                if isinstance(line, BadLine):
                    self._tally.bad_line(line.number, line.reason)
                    continue
                try:
                    key, value = self._convert(line.fields)
                except BadRecord as error:
                    self._tally.bad_line(line.number, str(error))
                    continue
                records.append(NewRecord(key, value))
                numbers.append(line.number)
                if len(records) == self._batch:
                    writing = await self._write(client, records, numbers, writing)
                    records, numbers = [], []
                    progress.show(self._tally.produced)
        finally:
            # Also what stands before a damaged end of the file.
            writing = await self._write(client, records, numbers, writing)
            await writing
            progress.show(self._tally.produced)

    async def _write(
        self, client: BrokerClient, records: list[NewRecord], numbers: list[int], before: asyncio.Task[None] | None
    ) -> asyncio.Task[None]:
        """Begin to write a batch once the one before it is durable."""
        if before is not None:
            await before
        if self._rate is not None:
            self._sent += len(records)
            await asyncio.sleep(max(0.0, self._started + self._sent / self._rate - time.monotonic()))
        task = asyncio.create_task(append_all(client, self._topic, records, numbers, self._tally))
        await asyncio.sleep(0)  # lets it begin; the rows that follow are converted meanwhile
        return task


class _Progress:
    """How much of the file is read: a bar on a terminal, else a line now and then."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stack = ExitStack()
        self._bar = None
        self._shown = 0
        self._next = time.monotonic() + PLAIN_EVERY
        if source.size and sys.stderr.isatty():
            self._bar = click.progressbar(length=source.size, label=source.path.name, file=sys.stderr)

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._stack.enter_context(self._bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def show(self, produced: int) -> None:
        position = self._source.position
        if self._bar is not None:
            self._bar.update(position - self._shown)
            self._shown = position
        elif time.monotonic() >= self._next:
            share = f" ({100 * position // self._source.size} %)" if self._source.size else ""
            note(f"{produced:,} records loaded{share}")
            self._next = time.monotonic() + PLAIN_EVERY
