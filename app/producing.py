"""Appending many records from outside: the topic made if it is ours, batches, and single bad records told apart."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.transport.client import BrokerClient, NewRecord
from models.errors import LogError, RecordTooLarge, UnknownTopic
from models.topics import CATALOGUE, DEFAULT_PARTITIONS, spec_of

#: How many bad lines are named; the others are only counted.
NAMED = 20


@dataclass
class Tally:
    """What became of the lines of an input.  ``complain`` is told of the first bad ones."""

    complain: Callable[[str], None]
    produced: int = 0
    bad: int = 0
    named: list[dict[str, object]] = field(default_factory=list)

    def bad_line(self, number: int, reason: str) -> None:
        """Count a bad line and name it, unless enough have been named."""
        self.bad += 1
        if self.bad <= NAMED:
            self.named.append({"line": number, "reason": reason})
            self.complain(f"line {number}: {reason}; skipped")
        elif self.bad == NAMED + 1:
            self.complain("more bad lines follow; they are skipped and counted, but not named")


async def ensure_topic(client: BrokerClient, topic: str, partitions: int | None = None) -> tuple[int, bool]:
    """Number of partitions, and whether the topic was created now.

    A topic of the catalogue gets the catalogue's partitions; another one ``partitions``, or 4 if its name is not so close
    to one of ours that it is probably misspelt (:class:`models.errors.UnknownTopic`).
    """
    topics = await client.topics()
    if topic in topics:
        return topics[topic], False
    spec = spec_of(topic)
    if spec is not None:
        made = await client.create_topic(topic, spec.partitions, spec.config)
    else:
        if partitions is None and (close := difflib.get_close_matches(topic, [*CATALOGUE, *topics], n=1, cutoff=0.8)):
            raise UnknownTopic(
                f"there is no topic {topic!r}: did you mean {close[0]}? To create it all the same, add --partitions N"
            )
        made = await client.create_topic(topic, partitions or DEFAULT_PARTITIONS)
    return (await client.topics())[topic], made


async def append_all(
    client: BrokerClient, topic: str, records: Sequence[NewRecord], numbers: Sequence[int], tally: Tally
) -> None:
    """Append a batch; ``numbers`` are the lines that the records came from.

    A record that is too large is a bad line; its neighbours are appended.  When the log fails, ``tally`` is told from which line to repeat.
    """
    if not records:
        return
    try:
        await client.append(topic, records)
        tally.produced += len(records)
        return
    except RecordTooLarge as error:
        if len(records) == 1:
            tally.bad_line(numbers[0], str(error))
            return
    except LogError:
        first, last = numbers[0], numbers[-1]
        tally.complain(
            f"what is before line {first} is stored, lines {first} to {last} perhaps: repeat from line {first}"
        )
        raise
    # Nothing of the batch was stored: halves find the culprit in few steps and keep the order.
    middle = len(records) // 2
    await append_all(client, topic, records[:middle], numbers[:middle], tally)
    await append_all(client, topic, records[middle:], numbers[middle:], tally)
