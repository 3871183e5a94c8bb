"""Records from a file or a terminal, and what is said when the log fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from app.producing import Tally, append_all
from app.transport.client import NewRecord
from models.errors import LogUnreachable, RecordTooLarge


class Failing:
    """Takes records until it is away; one of more than ten bytes is too large."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.stored: list[bytes | None] = []

    async def append(self, topic: str, records: Sequence[NewRecord]) -> None:
        if any(len(record.value or b"") > 10 for record in records):
            raise RecordTooLarge("too large")
        if len(self.stored) + len(records) > self.takes:
            raise LogUnreachable("nobody answers")
        self.stored += [record.value for record in records]


async def test_a_log_that_fails_is_told_with_the_line_to_repeat_from() -> None:
    said: list[str] = []
    client, tally = Failing(takes=4), Tally(said.append)
    batches = [[(2, b"a"), (3, b"b")], [(5, b"c"), (6, b"large enough")], [(7, b"d"), (9, b"e")]]

    async def append_batches() -> None:
        for batch in batches:
            records = [NewRecord(None, value) for _, value in batch]
            await append_all(cast(Any, client), "topic", records, [number for number, _ in batch], tally)

    with pytest.raises(LogUnreachable):
        await append_batches()
    assert client.stored == [b"a", b"b", b"c"]
    assert said == [
        "line 6: too large; skipped",
        "what is before line 7 is stored, lines 7 to 9 perhaps: repeat from line 7",
    ]
