"""Making an application's topics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest

from app.partitioning import make_topics
from app.topology import operators
from app.transport.client import BrokerClient
from models.errors import LogError


class SlowBroker:
    """Makes a topic only when all that are missing have been asked for, shows it when asked again, and refuses one."""

    def __init__(self, *, first: int, then: int, refuses: str = "") -> None:
        self.made: dict[str, int] = {}
        self._shown: dict[str, int] = {}
        self._asked = 0
        self._rounds = [first, then]
        self._refuses = refuses
        self._all = asyncio.Event()

    async def topics(self) -> dict[str, int]:
        shown, self._shown = self._shown, dict(self.made)
        return shown

    async def create_topic(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        everybody = self._all
        self._asked += 1
        if self._asked == self._rounds[0]:
            del self._rounds[0]
            self._asked, self._all = 0, asyncio.Event()
            everybody.set()
        await asyncio.wait_for(everybody.wait(), 10)
        if topic == self._refuses:
            raise LogError(f"creating topic {topic}: not allowed")
        self.made[topic] = partitions
        return True

    @property
    def client(self) -> BrokerClient:
        return cast(BrokerClient, self)


async def test_topics_are_made_side_by_side_those_of_the_sources_first() -> None:
    broker = SlowBroker(first=4, then=4)
    counts = await make_topics(broker.client, "mine", operators(["fraud"]))
    assert counts == broker.made
    assert {topic for topic in counts if topic.startswith("mine-")} == {"mine-fraud-changelog", "mine-rules-changelog"}


async def test_the_first_topic_that_is_refused_is_named() -> None:
    broker = SlowBroker(first=4, then=4, refuses="fraud-alerts")
    with pytest.raises(LogError, match="creating topic fraud-alerts"):
        await make_topics(broker.client, "mine", operators(["fraud"]))
    assert not any(topic.startswith("mine-") for topic in broker.made)
