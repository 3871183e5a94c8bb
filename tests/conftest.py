"""Fixtures for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import parsing
from tests.support.kafka import NoKafka, temporary_broker
from tests.support.kafka_topics import delete_all_topics

parsing.make_reliable()


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Address (HOST:PORT) of a real Apache Kafka: one broker for the whole run, or the one that ``KAFKA_BOOTSTRAP`` names.

    Tests delete topics on it: never name one that holds anything of value.
    """
    existing = os.environ.get("KAFKA_BOOTSTRAP")
    if existing:
        yield existing
        return
    try:
        with temporary_broker() as broker:
            yield broker.bootstrap
    except NoKafka as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def kafka_url(kafka: str) -> str:
    """The same broker as ``FAMULUS_BROKER`` takes it, without any topic."""
    delete_all_topics(kafka)
    return f"kafka://{kafka}"
