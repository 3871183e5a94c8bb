"""``famulus read``: the committed records of a topic, one a line."""

from __future__ import annotations

import sys

import click

from app.cli.console import Command, broker, json_option, run, settings_of_environment
from app.reading import all_partitions, as_lines, bounds, follow, partitions_of, reading, until, wait_for_topic
from app.settings import Settings
from tables.log import Slice


@click.command(cls=Command)
@click.argument("topic")
@click.option("--from-beginning", is_flag=True, help="Start at the first record that is there, not at the end.")
@click.option("--until-end", is_flag=True, help="Stop at what was the end when the command started.")
@json_option
def read(topic: str, from_beginning: bool, until_end: bool, as_json: bool) -> None:
    """Print a topic's committed records, one JSON object a line (also without --json).

    \b
    Example: famulus read fraud-alerts --from-beginning
      {"topic":..., "partition":..., "offset":..., "timestamp":..., "key":..., "value":...}

    A value that is not JSON is printed as text, and one that is no text either under "value_base64"; headers, where there
    are any, under "headers".  Goes on with new records until Ctrl-C, or to the end with --until-end.  One of our topics
    that nobody has written to yet counts as empty.
    """
    del as_json  # a line is always JSON
    settings = settings_of_environment()
    try:
        run(_read(settings, topic, from_beginning, until_end))
    except KeyboardInterrupt:
        if until_end:
            raise


async def _read(settings: Settings, topic: str, from_beginning: bool, until_end: bool) -> None:
    async with broker(settings) as client, reading(client) as reader:
        partitions = await partitions_of(client, topic)
        if not partitions:
            if until_end:
                return
            partitions = await wait_for_topic(client, topic)
            from_beginning = True  # all of it came after the command started
        found = await bounds(reader, all_partitions(topic, partitions))
        start = {tp: first if from_beginning else end for tp, (first, end) in found.items()}
        ends = {tp: end for tp, (_, end) in found.items()}
        async for part in until(reader, start, ends) if until_end else follow(reader, start):
            _print(part)


def _print(part: Slice) -> None:
    out = sys.stdout.buffer
    for first in range(0, len(part.records), 500):
        out.write(as_lines(part.tp, part.records[first : first + 500]))
    out.flush()
