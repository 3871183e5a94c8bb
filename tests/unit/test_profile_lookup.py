"""The lookup of profiles, with a source that the test holds in its hand: how long events wait for one that hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from agents.enrichment.lookup import LONG_S, LookupOptions, ProfileLookup
from models.profiles import Enrichment, UserProfile

DATABASE, DEFAULT = Enrichment.DATABASE, Enrichment.DEFAULT
TIMEOUT_S = 1.0


class Source:
    """Answers after ``seconds``."""

    name = "source"

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked: list[Sequence[str]] = []

    async def get_many(self, user_ids: Sequence[str]) -> Mapping[str, UserProfile]:
        self.asked.append(user_ids)
        await asyncio.sleep(self.seconds)
        return {user_id: UserProfile(user_id, "n", "gold") for user_id in user_ids}

    async def stop(self) -> None: ...


@asynccontextmanager
async def lookup(source: Source) -> AsyncIterator[ProfileLookup]:
    made = ProfileLookup(source, options=LookupOptions(timeout=timedelta(seconds=TIMEOUT_S)))
    try:
        yield made
    finally:
        await made.stop()


async def timed(made: ProfileLookup, user_id: str) -> tuple[Enrichment, float]:
    started = time.monotonic()
    return (await made.find(user_id)).enrichment, time.monotonic() - started


async def test_who_waits_when_a_source_is_given_up_is_let_go_with_the_others() -> None:
    source = Source()
    source.seconds = 100
    async with lookup(source) as made:
        # One request each, a little apart: when the first five are given up, the others have waited for less.
        waiting = []
        for number in range(15):
            waiting.append(asyncio.create_task(timed(made, f"user{number}")))
            await asyncio.sleep(TIMEOUT_S / 15)
        found = await asyncio.gather(*waiting)
    assert {enrichment for enrichment, _ in found} == {DEFAULT}
    assert found[0][1] > 0.9 * TIMEOUT_S
    assert found[14][1] < 0.6 * TIMEOUT_S


async def test_one_request_of_many_look_ups_that_hangs_is_enough_to_leave_a_source_alone() -> None:
    source = Source()
    source.seconds = 100
    async with lookup(source) as made:
        await asyncio.gather(*(made.find(f"user{number}") for number in range(50)))
        assert len(source.asked) == 1
        assert made.failing() == ["source"]


async def test_finding_out_whether_a_source_is_back_holds_up_no_event_for_long() -> None:
    source = Source()
    source.seconds = 100
    async with lookup(source) as made:
        await asyncio.gather(*(made.find(f"user{number}") for number in range(50)))
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            enrichment, seconds = await timed(made, "user1")
            assert enrichment is DEFAULT
            assert seconds < LONG_S + 0.15
            await asyncio.sleep(0.02)
        assert len(source.asked) >= 2, "it is tried again"


async def test_a_source_that_answers_slower_than_an_event_waits_for_a_trial_is_found_to_be_back_all_the_same() -> None:
    source = Source()
    source.seconds = 100
    async with lookup(source) as made:
        await asyncio.gather(*(made.find(f"user{number}") for number in range(50)))
        source.seconds = 2 * LONG_S
        until = time.monotonic() + 5
        while (await made.find("user1")).enrichment is not DATABASE:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        assert made.failing() == []
