"""``famulus topics``: what is in the log, and how far the workers are behind."""

from __future__ import annotations

import click
import msgspec

from app.cli.console import Command, broker, json_option, print_json, print_table, run, settings_of_environment
from app.reading import all_partitions, bounds, reading
from app.settings import Settings
from tables.log import TopicPartition


class TopicState(msgspec.Struct):
    """``records`` counts offsets, so on a compacted or transactional topic there may be fewer; ``lag`` is ``None`` for
    a topic that the workers have not committed anything of."""

    topic: str
    partitions: int
    records: int
    lag: int | None


@click.command(cls=Command)
@json_option
def topics(as_json: bool) -> None:
    """Show topics with their partitions, records and the workers' lag.

    \b
    Example: famulus topics

    Records counts offsets: on Kafka the marks of transactions are among them, and in a compacted topic what was removed.
    Lag is the number of records that the workers of FAMULUS_APP_ID have not yet committed; - for topics that they do not
    consume.
    """
    states = run(topic_states(settings_of_environment()))
    if as_json:
        print_json(states)
    elif states:
        rows = [(s.topic, s.partitions, s.records, "-" if s.lag is None else s.lag) for s in states]
        print_table(("TOPIC", "PARTITIONS", "RECORDS", "LAG"), rows)
    else:
        click.echo("no topics yet; a worker or famulus produce creates them")


async def topic_states(settings: Settings) -> list[TopicState]:
    """Every topic, by name."""
    async with broker(settings) as client, reading(client) as reader:
        found = await client.topics()
        committed = await client.committed(settings.app_id)
        states = []
        for topic, partitions in sorted(found.items()):
            of_topic = await bounds(reader, all_partitions(topic, partitions))
            records = sum(end - first for first, end in of_topic.values())
            states.append(TopicState(topic, partitions, records, _lag(of_topic, committed)))
        return states


def _lag(found: dict[TopicPartition, tuple[int, int]], committed: dict[TopicPartition, int]) -> int | None:
    if not any(tp in committed for tp in found):
        return None
    return sum(max(0, end - max(first, committed.get(tp, first))) for tp, (first, end) in found.items())
