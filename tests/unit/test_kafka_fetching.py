"""When the next fetch is asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher

from app.transport.kafka.fetching import BUSY_FETCH_WAIT_MS, WindowFetcher
from tables.log import TopicPartition

WINDOW = 60.0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Requests that aiokafka's fetcher was made to make."""
    requests: list[Any] = []

    def ask(fetcher: Any, assignment: Any) -> Any:
        requests.append(SimpleNamespace(_max_wait_ms=250))
        return [(1, requests[-1])], {}, float("inf"), False, []

    monkeypatch.setattr(Fetcher, "_get_actions_per_node", ask)
    return requests


def fetcher() -> Any:
    made = WindowFetcher.__new__(WindowFetcher)
    made.window = WINDOW
    made._records = {}
    return made


def test_between_two_fetches_there_is_a_window(asked: list[Any]) -> None:
    one = fetcher()
    assert len(one._get_actions_per_node(None)[0]) == 1
    requests, _, left, _, _ = one._get_actions_per_node(None)
    assert requests == []
    assert WINDOW - 5 < left <= WINDOW
    assert len(asked) == 1


def test_where_a_fetch_was_full_the_next_one_does_not_wait(asked: list[Any]) -> None:
    one = fetcher()
    one.full = True
    assert [len(one._get_actions_per_node(None)[0]) for _ in range(3)] == [1, 1, 1]
    one.full = False
    assert [len(one._get_actions_per_node(None)[0]) for _ in range(3)] == [1, 0, 0]


def test_a_request_is_not_long_in_the_way_of_what_lies_here_untaken(asked: list[Any]) -> None:
    one = fetcher()
    one.lane_topics = {"t"}
    one._get_actions_per_node(None)
    one.window, one._next_request = 0.0, 0.0
    one._records = {TopicPartition("t", 0): None}
    one._get_actions_per_node(None)
    assert [request._max_wait_ms for request in asked] == [250, BUSY_FETCH_WAIT_MS]
