"""What may be from PostgreSQL is passed on to the driver in whole messages, and nothing else is."""

from __future__ import annotations

import asyncio
import random
from struct import pack

import pytest

from agents.enrichment.messages import MAX_MESSAGE, CheckedMessages, NotPostgres, whole_messages


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + pack("!i", 4 + len(body)) + body


def row(*columns: bytes | None) -> bytes:
    body = [pack("!i", -1) if one is None else pack("!i", len(one)) + one for one in columns]
    return message("D", pack("!h", len(columns)) + b"".join(body))


ANSWER = (
    message("2") + row(b"user1", b"John Doe", b"gold") + row(b"user2", None, b"") + row() + message("C", b"SELECT 3\0")
)


class Inner(asyncio.Protocol):
    def __init__(self) -> None:
        self.received: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.received.append(data)


def test_an_answer_is_passed_on_as_it_is() -> None:
    inner = Inner()
    CheckedMessages(inner).data_received(ANSWER)
    assert inner.received == [ANSWER]


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_in_pieces_is_passed_on_in_whole_messages(seed: int) -> None:
    chance, inner = random.Random(seed), Inner()
    checked = CheckedMessages(inner)
    left = ANSWER
    while left:
        size = chance.randrange(1, 8)
        checked.data_received(left[:size])
        left = left[size:]
    assert b"".join(inner.received) == ANSWER
    assert all(whole_messages(part) == len(part) for part in inner.received)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(20),
        b"D" + pack("!i", -1) + b"x" * 50,
        b"D" + pack("!i", -(2**31)),
        b"C" + pack("!i", 0) + b"x" * 50,
        b"T" + pack("!i", 3),
        b"D" + pack("!i", MAX_MESSAGE + 1),
        message("D"),
        message("D", pack("!h", -1)),
        message("D", pack("!h", 1)),
        message("D", pack("!hi", 1, 7) + b"short"),
        message("D", pack("!hi", 1, -2) + b"negative"),
        message("D", pack("!hi", 1, 3) + b"and more"),
    ],
)
def test_what_the_driver_must_not_see_fails_the_connection(garbage: bytes) -> None:
    inner = Inner()
    checked = CheckedMessages(inner)
    checked.data_received(ANSWER)
    with pytest.raises(NotPostgres, match="is it PostgreSQL"):
        checked.data_received(garbage)
    assert inner.received == [ANSWER]
