"""The topics of an application: made at start where they are missing, and checked where they are not.

A source may have been made by somebody else with another number of partitions than the catalogue's: its changelogs and its dead letter
topic follow it.  What cannot work ends the worker before it reads anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

from agents.operator.spec import OperatorSpec
from app.transport.client import BrokerClient
from models.errors import StateError, UnknownTopic
from models.topics import dlq_topic, spec_of

#: All brokers of a cluster know a topic that was just created within so long.
SETTLE_SECONDS = 20.0


class Mismatch(NamedTuple):
    """A topic whose number of partitions cannot work: what is wrong with it, and the way out."""

    topic: str
    finding: str
    fix: str


def changelog_topic(app_id: str, uid: str) -> str:
    """Name of the topic that holds an operator's state."""
    return f"{app_id}-{uid}-changelog"


async def make_topics(client: BrokerClient, app_id: str, operators: Sequence[OperatorSpec]) -> dict[str, int]:
    """Create what is missing; every topic with its number of partitions.

    Raises :class:`models.errors.StateError` where the operators cannot work on what is there.
    """
    counts = await client.topics()
    wanted: dict[str, tuple[int, Mapping[str, str]]] = {}
    for spec in operators:
        read = [source.topic for source in spec.sources] + ([spec.broadcast] if spec.broadcast else [])
        written = ([spec.output] if spec.output else []) + list(spec.side_outputs.values())
        for topic in (*read, *written):
            catalogued = spec_of(topic)
            if catalogued is not None:
                wanted[topic] = catalogued.partitions, catalogued.config
    counts = await _make(client, counts, wanted)
    wanted = {}
    for spec in operators:
        for source in spec.sources:
            dead = spec_of(dlq_topic(source.topic))
            if dead is not None:
                wanted[dead.name] = counts[source.topic], dead.config
        wanted[changelog_topic(app_id, spec.uid)] = counts[spec.source.topic], {"cleanup.policy": "compact"}
    counts = await _make(client, counts, wanted)
    for topic, finding, fix in mismatches(counts, app_id, operators):
        raise StateError(f"topic {topic} {finding}; {fix}")
    return counts


async def _make(
    client: BrokerClient, counts: Mapping[str, int], wanted: Mapping[str, tuple[int, Mapping[str, str]]]
) -> dict[str, int]:
    """Create what is missing side by side: one after the other, the thirty topics of a first start take a broker many seconds.

    Returns what there is then: somebody else may have been faster, with other numbers.
    """
    missing = {topic: how for topic, how in wanted.items() if topic not in counts}
    making = (client.create_topic(topic, partitions, config) for topic, (partitions, config) in missing.items())
    failures = [made for made in await asyncio.gather(*making, return_exceptions=True) if not isinstance(made, bool)]
    if failures:
        raise failures[0]
    found = await client.topics()
    deadline = monotonic() + SETTLE_SECONDS
    while (unseen := missing.keys() - found.keys()) and monotonic() < deadline:
        await asyncio.sleep(0.05)  # another broker answered, which has not heard of them yet
        found = await client.topics()
    if unseen:
        raise UnknownTopic(
            f"{', '.join(sorted(unseen))}: created, and not there; look at the broker's log, then start again"
        )
    return found


def mismatches(counts: Mapping[str, int], app_id: str, operators: Sequence[OperatorSpec]) -> Iterator[Mismatch]:
    """What cannot work, of the topics that there are."""
    for topic in dict.fromkeys(spec.broadcast for spec in operators if spec.broadcast):
        catalogued = spec_of(topic)
        if catalogued is not None and counts.get(topic, catalogued.partitions) != catalogued.partitions:
            yield Mismatch(
                topic,
                f"has {counts[topic]} partitions and must have {catalogued.partitions}, so that its records have one order",
                "copy its records into a topic of that name with the right number (famulus read, famulus produce)",
            )
    for spec in operators:
        first, changelog = counts.get(spec.source.topic), changelog_topic(app_id, spec.uid)
        if first is None:
            continue
        if spec.source2 is not None and counts.get(spec.source2.topic, first) != first:
            yield Mismatch(
                spec.source2.topic,
                f"has {counts[spec.source2.topic]} partitions and {spec.source.topic}, which it is joined with, has {first}",
                "copy one of them into a topic with as many as the other",
            )
        if counts.get(changelog, first) != first:
            yield Mismatch(
                changelog,
                f"has {counts[changelog]} partitions and its source {spec.source.topic} has {first}",
                "start under a new FAMULUS_APP_ID, which builds the state anew from the source",
            )
