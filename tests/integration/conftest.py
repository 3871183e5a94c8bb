"""Real servers for the integration tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.services import NoService, PostgresServer, RedisServer, Server, temporary


def _running(stack: ExitStack, kind: type[Server]) -> Server:
    try:
        return stack.enter_context(temporary(kind))
    except NoService as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL that all tests share: leave it as it is."""
    with ExitStack() as stack:
        yield _running(stack, PostgresServer)


@pytest.fixture
def own_postgres() -> Iterator[Server]:
    """A PostgreSQL to be killed and changed."""
    with ExitStack() as stack:
        yield _running(stack, PostgresServer)


@pytest.fixture
def redis() -> Iterator[Server]:
    """An empty Redis."""
    with ExitStack() as stack:
        yield _running(stack, RedisServer)
