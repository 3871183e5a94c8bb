"""Topics that are there with options that lose records: what is said of them."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from app.settings import Settings
from app.topic_options import Unfit, mending, unfit_topics, warn_of_unfit_topics
from app.topology import operators
from app.transport.brokers import connect
from app.transport.client import BrokerClient
from models.errors import LogError
from models.topics import dlq_topic, spec_of

CHANGELOG = "famulus-fraud-changelog"
DAY, WEEK = 86_400_000, 7 * 86_400_000
FITS = {
    "fraud-rules": {"cleanup.policy": "delete", "retention.ms": "-1"},
    "user-transactions": {"cleanup.policy": "delete", "retention.ms": str(WEEK)},
    "fraud-alerts": {"cleanup.policy": "delete", "retention.ms": str(WEEK), "max.message.bytes": str(64 << 20)},
    CHANGELOG: {"cleanup.policy": "compact"},
}


@dataclass
class Broker:
    """Knows options of topics only."""

    topics: Mapping[str, Mapping[str, str]]
    refusal: str = ""

    async def configurations(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        if self.refusal:
            raise LogError(self.refusal)
        defaults = {
            "cleanup.policy": "delete",
            "retention.ms": str(WEEK),
            "retention.bytes": "-1",
            "delete.retention.ms": str(DAY),
            "max.message.bytes": "1048588",
        }
        return {topic: {**defaults, **self.topics[topic]} for topic in topics}

    @property
    def client(self) -> BrokerClient:
        return cast(BrokerClient, self)


async def unfit(topic: str, **options: str) -> Unfit | None:
    """What is said of the topic with these options, ``_`` for a dot in their names; those of the other topics fit."""
    changed = {topic: FITS.get(topic, {}) | {name.replace("_", "."): value for name, value in options.items()}}
    topics = FITS | changed | {"somebody-elses": {"cleanup.policy": "compact"}}
    found = await unfit_topics(Broker(topics).client, topics, "famulus", operators(["fraud"]))
    assert {one.topic for one in found} <= {topic}
    return found[0] if found else None


async def test_topics_as_they_are_made_are_fit() -> None:
    assert await unfit("fraud-rules") is None
    for name in ("fraud-rules.dlq", "user-transactions.dlq", "late-events"):
        spec = spec_of(name)
        assert spec is not None
        assert await unfit(name, **{key.replace(".", "_"): value for key, value in spec.config.items()}) is None


async def test_compacted_rules_lose_their_history() -> None:
    found = await unfit("fraud-rules", cleanup_policy="compact")
    assert found is not None
    assert found.loses
    assert found.finding == "has cleanup.policy=compact: a record is lost as soon as another one has its key"
    assert found.wanted == {"cleanup.policy": "delete", "retention.ms": "-1"}


async def test_rules_that_expire_or_have_a_largest_size_are_lost() -> None:
    found = await unfit("fraud-rules", retention_ms=str(WEEK), retention_bytes="1000000")
    assert found is not None
    assert found.loses
    assert "what is older than 7 days is lost" in found.finding
    assert "has retention.bytes=1000000" in found.finding
    assert found.wanted == {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


async def test_a_changelog_that_is_not_compacted_only_loses_state() -> None:
    for policy in ("delete", "compact,delete"):
        found = await unfit(CHANGELOG, cleanup_policy=policy)
        assert found is not None
        assert found.loses
        assert f"has cleanup.policy={policy}: state that does not change for a while is deleted" in found.finding
        assert found.wanted == {"cleanup.policy": "compact"}


async def test_a_changelog_that_is_never_cleaned_grows_and_loses_nothing() -> None:
    found = await unfit(CHANGELOG, cleanup_policy="")
    assert found == Unfit(CHANGELOG, False, "has cleanup.policy=: it grows for ever", {"cleanup.policy": "compact"})


async def test_a_changelog_that_forgets_deletions_sooner_than_local_copies_are_used_brings_them_back() -> None:
    found = await unfit(CHANGELOG, delete_retention_ms="3600000")
    assert found is not None
    assert found.loses
    assert "up to 12 hours old" in found.finding
    assert found.wanted == {"delete.retention.ms": str(DAY)}


async def test_a_topic_that_refuses_large_records_stops_the_worker_and_loses_nothing() -> None:
    for topic in ("fraud-alerts", dlq_topic("user-transactions")):
        found = await unfit(topic, max_message_bytes="1048588")
        assert found is not None
        assert not found.loses
        assert "has max.message.bytes=1048588" in found.finding
        assert found.wanted == {"max.message.bytes": str(64 << 20)}


async def test_how_long_input_is_kept_is_its_owners_choice_down_to_a_day() -> None:
    assert await unfit("user-transactions", retention_ms=str(DAY)) is None
    found = await unfit("user-transactions", retention_ms=str(DAY // 2))
    assert found is not None
    assert not found.loses
    assert "whoever is away for 12 hours misses records" in found.finding


async def test_input_that_is_compacted_loses_records() -> None:
    found = await unfit("user-transactions", cleanup_policy="compact,delete")
    assert found is not None
    assert found.loses


def test_the_way_out_is_a_command_for_the_log_in_use() -> None:
    found = Unfit("fraud-rules", True, "", {"cleanup.policy": "delete", "retention.ms": "-1"})
    assert mending("kafka://one:9093,two", found) == (
        "run: kafka-configs.sh --bootstrap-server one:9093,two:9092 --alter --entity-type topics --entity-name fraud-rules "
        "--add-config cleanup.policy=delete,retention.ms=-1"
    )
    assert mending("embedded:///logs/one", found) == (
        'stop every process of the log and run: sqlite3 /logs/one/log.sqlite3 "UPDATE topics SET config = json_patch(config, '
        '\'{\\"cleanup.policy\\": \\"delete\\", \\"retention.ms\\": \\"-1\\"}\') WHERE name = \'fraud-rules\'"'
    )


async def test_the_way_out_works_on_the_embedded_log(tmp_path: Path) -> None:
    broker = f"embedded://{tmp_path}/log"
    async with connect(broker) as client:
        await client.create_topic("fraud-rules", 1, {"cleanup.policy": "compact", "delete.retention.ms": "77"})
        (found,) = await unfit_topics(client, ["fraud-rules"], "famulus", operators(["fraud"]))
    program, file, statement = shlex.split(mending(broker, found).partition("run: ")[2])
    assert program == "sqlite3"
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        db.execute(statement)
    async with connect(broker) as client:
        assert await unfit_topics(client, ["fraud-rules"], "famulus", operators(["fraud"])) == []
        assert (await client.configurations(["fraud-rules"]))["fraud-rules"]["delete.retention.ms"] == "77"


async def test_a_worker_says_what_is_wrong_and_how_to_mend_it(caplog: pytest.LogCaptureFixture) -> None:
    topics = {"fraud-rules": {"cleanup.policy": "compact"}}
    settings = Settings(broker="kafka://here:9092")
    with caplog.at_level(logging.WARNING):
        await warn_of_unfit_topics(Broker(topics).client, settings, topics, operators(["fraud"]))
    (said,) = caplog.messages
    assert said.startswith("topic fraud-rules has cleanup.policy=compact: ")
    assert said.endswith("--entity-name fraud-rules --add-config cleanup.policy=delete,retention.ms=-1")


async def test_a_broker_that_does_not_tell_stops_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await warn_of_unfit_topics(
            Broker({}, refusal="not allowed").client, Settings(), ["fraud-rules"], operators(["fraud"])
        )
    assert caplog.messages == ["whether topics keep what they must keep could not be looked up: not allowed"]
