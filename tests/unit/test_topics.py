"""The catalogue of topics and the dead letter topics derived from it."""

from __future__ import annotations

import pytest

from models.topics import CATALOGUE, TopicNames, dlq_topic, origin_topic, spec_of


def test_the_catalogue_has_the_partitions_that_the_interface_names() -> None:
    partitions = {name: spec.partitions for name, spec in CATALOGUE.items()}
    assert partitions[TopicNames.RULES] == partitions["health-status"] == 1
    assert {count for name, count in partitions.items() if name not in (TopicNames.RULES, "health-status")} == {4}


def test_rules_are_kept_for_ever_and_never_compacted() -> None:
    assert CATALOGUE[TopicNames.RULES].config == {"cleanup.policy": "delete", "retention.ms": "-1"}


@pytest.mark.parametrize("topic", CATALOGUE)
def test_a_dead_letter_topic_has_its_origins_partitions_and_key(topic: str) -> None:
    dead = spec_of(dlq_topic(topic))
    assert dead is not None
    assert (dead.name, dead.partitions, dead.key_field) == (
        f"{topic}.dlq",
        CATALOGUE[topic].partitions,
        CATALOGUE[topic].key_field,
    )
    assert origin_topic(dead.name) == topic


def test_a_topic_of_somebody_else_has_no_entry_and_neither_has_its_dead_letter_topic() -> None:
    assert spec_of("clicks") is None
    assert spec_of("clicks.dlq") is None
