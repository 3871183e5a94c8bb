"""Ports that tests hand to servers."""

from __future__ import annotations

import socket
from itertools import count

import pytest

from tests.support import ports


def test_ports_are_in_a_row_and_never_given_twice() -> None:
    first, second = ports.free_ports(3), ports.free_ports(3)
    for given in (first, second):
        assert given == list(range(given[0], given[0] + 3))
    assert not set(first) & set(second)


def test_no_outgoing_connection_can_have_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as outgoing:
        assert outgoing.getsockname()[1] > max(ports.free_ports(4))


def test_a_port_in_use_breaks_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ports.free_ports(8)
    monkeypatch.setattr(ports, "_places", count(row[0] - ports.LOWEST))
    with socket.create_server(("127.0.0.1", row[2])):
        assert row[2] not in ports.free_ports(4)
