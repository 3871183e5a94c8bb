"""Fixtures for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.kafka import NoKafka, temporary_broker


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Address (HOST:PORT) of a real Apache Kafka: one broker for the whole run, or the one that ``KAFKA_BOOTSTRAP`` names."""
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
