"""Profiles from a real PostgreSQL and a real Redis, and what becomes of events while these fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis import asyncio as aioredis

from agents.enrichment.lookup import Found, LookupOptions, ProfileLookup
from agents.enrichment.postgres import PostgresProfiles
from agents.enrichment.redis import RedisProfiles
from agents.enrichment.samples import sample_profiles
from agents.enrichment.sqlite import SqliteProfiles
from models.profiles import Enrichment, UserProfile
from tests.support.waiting import until_async

CACHE, DATABASE, DEFAULT = Enrichment.CACHE, Enrichment.DATABASE, Enrichment.DEFAULT
JOHN = UserProfile("user1", "John Doe", "gold")


@asynccontextmanager
async def lookup(
    postgres: str | None = None, redis: str | None = None, *, sqlite: Path | None = None, **options: Any
) -> AsyncIterator[ProfileLookup]:
    chosen = LookupOptions(**{"timeout": timedelta(seconds=2), "cache_timeout": timedelta(milliseconds=200), **options})
    database = SqliteProfiles(sqlite) if sqlite else PostgresProfiles(postgres or "", capacity=chosen.capacity)
    cache = RedisProfiles(redis, capacity=chosen.capacity) if redis else None
    made = ProfileLookup(database, cache, chosen)
    try:
        yield made
    finally:
        await made.stop()


async def timed(made: ProfileLookup, user_id: str) -> tuple[Found, float]:
    started = time.monotonic()
    return await made.find(user_id), time.monotonic() - started


async def cached(made: ProfileLookup) -> None:
    """Wait until what was found has been written to the cache."""
    assert made._writer is not None
    writer = made._writer
    await until_async(lambda: not writer.waiting, within=5, what="the cache is written")


async def recovers(made: ProfileLookup, user_id: str, to: Enrichment, within: float = 8) -> None:
    async def answered() -> bool:
        return (await made.find(user_id)).enrichment is to

    deadline = time.monotonic() + within
    while not await answered():
        assert time.monotonic() < deadline, f"not {to} within {within} s"
        await asyncio.sleep(0.05)


# -- both are well


async def test_a_profile_comes_from_the_database_once_and_from_the_cache_after_that(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made:
        assert await made.find("user1") == (JOHN, DATABASE)
        assert await made.find("user1") == (JOHN, CACHE)
        await cached(made)
        assert await made.find("user1") == (JOHN, CACHE)
        assert made.database.stats.requests == 1


async def test_the_cache_holds_the_profile_as_json_under_user_id_for_an_hour(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made, aioredis.Redis.from_url(redis.url) as client:
        await made.find("user1")
        await cached(made)
        assert json.loads(await client.get("user:user1") or b"null") == {
            "user_id": "user1",
            "name": "John Doe",
            "tier": "gold",
        }
        assert 3590 < await client.ttl("user:user1") <= 3600


async def test_ten_thousand_misses_of_one_user_are_one_query(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made:
        found = await asyncio.gather(*(made.find("user42") for _ in range(10_000)))
        assert {one.profile.name for one in found} == {"User 42"}
        assert made.database.stats.requests == 1


async def test_ten_thousand_misses_in_waves_of_fifty_are_one_query(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made:
        for _ in range(200):
            await asyncio.gather(*(made.find("user43") for _ in range(50)))
        assert made.database.stats.requests == 1


async def test_users_wanted_at_the_same_time_travel_in_one_query(postgres: Any) -> None:
    async with lookup(postgres.url) as made:
        found = await asyncio.gather(*(made.find(f"user{n}") for n in range(100, 200)))
        assert sum(one.enrichment is DATABASE for one in found) == sum(n % 12 != 11 for n in range(100, 200))
        assert made.database.stats.requests == 1


async def test_an_unknown_user_gets_the_default_profile_and_is_not_asked_about_again(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made:
        for _ in range(3):
            assert await made.find("stranger") == (UserProfile.default("stranger"), DEFAULT)
        assert made.database.stats.requests == 1
        assert made.stats.known_absent == 2


async def test_an_unknown_user_is_asked_about_again_after_a_while(postgres: Any) -> None:
    async with lookup(postgres.url, absent_for=timedelta(milliseconds=30)) as made:
        await made.find("stranger")
        await until_async(lambda: _asked_again(made), within=5, what="a second query", every=0.01)


async def _asked_again(made: ProfileLookup) -> bool:
    await made.find("stranger")
    return made.database.stats.requests == 2


async def test_hostile_user_names_are_just_names(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made:
        for name in ("'; DROP TABLE user_profiles; --", "nul\0byte", "line\r\nbreak", "\U0001f600", "x" * 256):
            assert (await made.find(name)).enrichment is DEFAULT
        assert (await made.find("user1")).enrichment is DATABASE


async def test_whoever_gives_up_takes_nothing_from_those_who_still_wait(postgres: Any) -> None:
    async with lookup(postgres.url) as made:
        impatient = asyncio.create_task(made.find("user1"))
        patient = asyncio.create_task(made.find("user1"))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient == (JOHN, DATABASE)
        with pytest.raises(asyncio.CancelledError):
            await impatient


# -- Redis fails


async def test_without_redis_the_database_answers_and_the_cache_comes_back_by_itself(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made:
        redis.kill()
        for number in range(20):
            found, seconds = await timed(made, f"user{number}")
            assert found.enrichment is (DEFAULT if number % 12 == 11 else DATABASE)
            assert seconds < 1
        assert made.failing() == ["redis"]
        await asyncio.to_thread(redis.start)
        await recovers(made, "user5", CACHE)
        assert made.failing() == []


async def test_a_hanging_redis_costs_its_own_share_of_the_time_and_soon_nothing(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made:
        await made.find("user1")
        await cached(made)
        redis.pause()
        found, seconds = await timed(made, "user1")
        assert found == (JOHN, DATABASE)
        assert 0.15 < seconds < 0.6
        for number in range(1, 11):
            await made.find(f"user{number}")
        assert made.failing() == ["redis"]
        _, seconds = await timed(made, "user12")
        assert seconds < 0.15
        redis.resume()
        await recovers(made, "user1", CACHE)
        # Answers that came too late must not be taken for those of later questions.
        for number in (1, 2, 3):
            assert (await made.find(f"user{number}")).profile.user_id == f"user{number}"


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello",
        b"",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"user_id":"user1"}',
        b'{"user_id":"somebody else","name":"x","tier":"gold"}',
        b'{"user_id":"user1","name":7,"tier":"gold"}',
        b"[" * 16_000,
        b'"' + b"x" * 1_000_000 + b'"',
    ],
    ids=["text", "empty", "no UTF-8", "list", "null", "fields missing", "another user", "wrong type", "deep", "1 MB"],
)
async def test_garbage_in_the_cache_is_a_miss_and_is_written_anew(postgres: Any, redis: Any, garbage: bytes) -> None:
    async with lookup(postgres.url, redis.url) as made, aioredis.Redis.from_url(redis.url) as client:
        await client.set("user:user1", garbage)
        await client.set("user:user2", b'{"user_id":"user2","name":"Jane","tier":"silver"}')
        first, second = await asyncio.gather(made.find("user1"), made.find("user2"))
        assert first == (JOHN, DATABASE)
        assert second == (UserProfile("user2", "Jane", "silver"), CACHE)
        await cached(made)
        assert await made.find("user1") == (JOHN, CACHE)


async def test_a_key_of_another_kind_is_a_miss(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made, aioredis.Redis.from_url(redis.url) as client:
        await client.lpush("user:user1", "x")
        assert await made.find("user1") == (JOHN, DATABASE)


async def test_a_redis_that_may_only_be_read_is_still_read_and_that_is_said_once(
    postgres: Any, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with lookup(postgres.url, redis.url) as made, aioredis.Redis.from_url(redis.url) as client:
        await client.set("user:user2", b'{"user_id":"user2","name":"Jane","tier":"silver"}')
        await client.execute_command(  # type: ignore[no-untyped-call]
            "CONFIG", "SET", "replica-serve-stale-data", "yes"
        )
        await client.execute_command(  # type: ignore[no-untyped-call]
            "REPLICAOF", "127.0.0.1", "1"
        )
        for _ in range(10):
            assert (await made.find("user1")).profile == JOHN
            assert await made.find("user2") == (UserProfile("user2", "Jane", "silver"), CACHE)
            await cached(made)
        assert made.failing() == []
        assert caplog.text.count("cannot write to Redis (ReadOnlyError") == 1
        await client.execute_command(  # type: ignore[no-untyped-call]
            "REPLICAOF", "NO", "ONE"
        )
        await made.find("user1")
        await cached(made)
        assert await made.find("user1") == (JOHN, CACHE)
        assert caplog.text.count("redis can be written to again") == 1


async def test_a_full_redis_that_evicts_costs_queries_only(postgres: Any, redis: Any) -> None:
    async with lookup(postgres.url, redis.url) as made, aioredis.Redis.from_url(redis.url) as client:
        await made.find("user1")
        await cached(made)
        await client.execute_command(  # type: ignore[no-untyped-call]
            "CONFIG", "SET", "maxmemory", "1"
        )
        await client.execute_command(  # type: ignore[no-untyped-call]
            "CONFIG", "SET", "maxmemory-policy", "noeviction"
        )
        await client.flushall()
        assert await made.find("user1") == (JOHN, DATABASE)
        await cached(made)
        assert await made.find("user1") == (JOHN, DATABASE)


@asynccontextmanager
async def impostor(answer: bytes | None, delay_s: float = 0.0, to_port: int | None = None) -> AsyncIterator[int]:
    """Something on a port: it answers with the given bytes, or passes everything on after a delay."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(delay)
            writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if to_port is not None:
                back_reader, back_writer = await asyncio.open_connection("127.0.0.1", to_port)
                try:
                    await asyncio.gather(pump(reader, back_writer, delay_s), pump(back_reader, writer, 0))
                finally:
                    back_writer.close()
            while answer is not None and await reader.read(65536):
                writer.write(answer)
        except OSError:
            pass  # the other side has left: that is what it is here for
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\xfe\r\n" * 10, b"*1\r\n$3\r\nabc\r\n", b":7\r\n", b"-LOADING\r\n"],
)
async def test_something_else_on_the_port_of_redis_is_no_cache(postgres: Any, answer: bytes) -> None:
    async with impostor(answer) as port, lookup(postgres.url, f"redis://127.0.0.1:{port}/0") as made:
        for _ in range(8):
            found, seconds = await timed(made, "user1")
            assert found.profile == JOHN
            assert seconds < 0.6


async def test_a_redis_that_is_slow_by_ten_seconds_delays_no_event_for_longer_than_its_share(
    postgres: Any, redis: Any
) -> None:
    async with (
        impostor(None, 10.0, redis.port) as port,
        lookup(postgres.url, f"redis://127.0.0.1:{port}/0") as made,
    ):
        started = time.monotonic()
        found = await asyncio.gather(*(made.find(f"user{n}") for n in range(50)))
        assert time.monotonic() - started < 1
        assert all(one.enrichment is not CACHE for one in found)


# -- PostgreSQL fails


async def test_without_postgres_events_get_the_default_profile_until_it_is_back(own_postgres: Any) -> None:
    async with lookup(own_postgres.url) as made:
        assert (await made.find("user1")).enrichment is DATABASE
        own_postgres.kill()
        for _ in range(20):
            found, seconds = await timed(made, "user1")
            assert found == (UserProfile.default("user1"), DEFAULT)
            assert seconds < 1
        assert made.failing() == ["postgres"]
        await asyncio.to_thread(own_postgres.start)
        await recovers(made, "user1", DATABASE)


async def test_a_killed_postgres_answers_on_no_connection_that_was_open(own_postgres: Any) -> None:
    connection = await asyncpg.connect(own_postgres.url)
    # Busy with something, a back end does not notice by itself that its server is gone.
    busy = asyncio.create_task(connection.fetchval("SELECT count(*) FROM generate_series(1, 10000000000) AS busy"))
    await until_async(lambda: _busy(own_postgres), within=5, what="the question is under way")
    await asyncio.to_thread(own_postgres.kill)
    await asyncio.wait([busy], timeout=1)
    assert busy.done()
    assert isinstance(busy.exception(), OSError | asyncpg.PostgresError)


async def _busy(postgres: Any) -> bool:
    connection = await asyncpg.connect(postgres.url)
    try:
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%AS busy' AND state = 'active'"
        return bool(await connection.fetchval(running))
    finally:
        await connection.close()


async def test_a_worker_that_starts_before_postgres_finds_it_later(own_postgres: Any) -> None:
    own_postgres.kill()
    async with lookup(own_postgres.url) as made:
        assert (await made.find("user1")).enrichment is DEFAULT
        await asyncio.to_thread(own_postgres.start)
        await recovers(made, "user1", DATABASE)


@pytest.mark.parametrize(
    "garbage",
    [
        b"D\xe9\xcd~Z" + b"x" * 500,
        b"D\0\0\0\x14\0\1\x80\0\0\0" + b"x" * 500,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(500),
    ],
    ids=["negative message", "negative column", "HTTP", "zeros"],
)
async def test_garbage_from_postgres_fails_the_look_up_and_not_the_worker(postgres: Any, garbage: bytes) -> None:
    broken = False
    pumps: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(garbage if answers and broken else data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", postgres.port)
        pumps.append(asyncio.create_task(pump(reader, back_writer, answers=False)))
        pumps.append(asyncio.create_task(pump(back_reader, writer, answers=True)))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = postgres.url.replace(str(postgres.port), str(listening.sockets[0].getsockname()[1]))
    async with lookup(url) as made:
        assert await made.find("user1") == (JOHN, DATABASE)
        broken = True
        for number in range(10):
            found, seconds = await timed(made, f"user{number}")
            assert found.enrichment is DEFAULT
            assert seconds < 1
        broken = False
        await recovers(made, "user1", DATABASE)
    listening.close()
    await asyncio.gather(*pumps)


async def test_a_slow_postgres_costs_the_timeout_at_most_and_leaks_no_connection(postgres: Any) -> None:
    made_for: dict[str, Any] = {"timeout": timedelta(milliseconds=400), "capacity": 5}
    async with impostor(None, 10.0, postgres.port) as port:
        url = postgres.url.replace(str(postgres.port), str(port))
        async with lookup(url, **made_for) as made:
            for number in range(12):
                found, seconds = await timed(made, f"user{number}")
                assert found.enrichment is DEFAULT
                assert seconds < 0.8
            assert made.failing() == ["postgres"]
            _, seconds = await timed(made, "user99")
            assert seconds < 0.1
    await until_async(lambda: _connections(postgres, at_most=3), within=5, what="the connections are gone")


async def _connections(postgres: Any, at_most: int) -> bool:
    connection = await asyncpg.connect(postgres.url)
    try:
        count = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'famulus'")
        return bool(count <= at_most)
    finally:
        await connection.close()


async def test_where_postgres_has_few_connections_to_give_those_are_enough(own_postgres: Any) -> None:
    await own_postgres.execute_async("CREATE ROLE guest LOGIN")
    await own_postgres.execute_async(
        "GRANT SELECT ON user_profiles TO guest; ALTER DATABASE famulus CONNECTION LIMIT 3"
    )
    url = own_postgres.url.replace("famulus@", "guest@")
    async with lookup(url, capacity=50) as made:
        # Not in one turn of the loop, or one query would do for all.
        async def after(turns: int, user: str) -> Found:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await made.find(user)

        found = await asyncio.gather(*(after(n, f"user{12 * n}") for n in range(200)))
        assert {one.enrichment for one in found} == {DATABASE}
        assert made.database.stats.requests > 3
        assert made.database.stats.failed == 0


async def test_a_postgres_that_may_only_be_read_is_read(own_postgres: Any) -> None:
    await own_postgres.execute_async("ALTER SYSTEM SET default_transaction_read_only = on")
    await own_postgres.execute_async("SELECT pg_reload_conf()")
    async with lookup(own_postgres.url) as made:
        assert await made.find("user1") == (JOHN, DATABASE)


async def test_a_missing_table_is_a_failing_source_that_says_so(
    own_postgres: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await own_postgres.execute_async("ALTER TABLE user_profiles RENAME TO other")
    async with lookup(own_postgres.url) as made:
        for _ in range(6):
            assert (await made.find("user1")).enrichment is DEFAULT
        assert caplog.text.count("user_profiles(user_id, name, tier, created_at)") == 1
        await own_postgres.execute_async("ALTER TABLE other RENAME TO user_profiles")
        await recovers(made, "user1", DATABASE)


async def test_a_row_that_is_no_profile_leaves_its_neighbours_alone(own_postgres: Any) -> None:
    await own_postgres.execute_async(
        "ALTER TABLE user_profiles ALTER name TYPE text; UPDATE user_profiles SET name = repeat('x', 5000) WHERE user_id = 'user2'; "
        "UPDATE user_profiles SET tier = NULL WHERE user_id = 'user3'"
    )
    async with lookup(own_postgres.url) as made:
        found = await asyncio.gather(*(made.find(f"user{n}") for n in (1, 2, 3)))
        assert [one.enrichment for one in found] == [DATABASE, DEFAULT, DATABASE]
        assert found[2].profile.tier == "unknown"


# -- both fail


async def test_with_both_down_under_load_every_event_gets_the_default_and_memory_stays_flat() -> None:
    async with lookup("postgresql://famulus@127.0.0.1:1/famulus", "redis://127.0.0.1:1/0") as made:
        for wave in range(200):
            found = await asyncio.gather(*(made.find(f"user{wave}-{n}") for n in range(100)))
            assert {one.enrichment for one in found} == {DEFAULT}
        assert made.cache is not None
        assert made._writer is not None
        for guarded in (made.cache, made.database):
            assert not guarded._loader._flights
            assert not guarded._loader._waiting
            assert not guarded._loader._tasks
            assert guarded.stats.requests < 20
        assert not made._writer.waiting
        assert not made._absent._until


# -- the embedded source


async def test_without_postgres_configured_a_file_with_the_same_profiles_answers(tmp_path: Path, redis: Any) -> None:
    async with lookup(sqlite=tmp_path / "new" / "profiles.sqlite", redis=redis.url) as made:
        assert await made.find("user1") == (JOHN, DATABASE)
        await cached(made)
        assert await made.find("user1") == (JOHN, CACHE)
        assert (await made.find("user11")).enrichment is DEFAULT


async def test_the_file_that_is_there_already_is_used(tmp_path: Path) -> None:
    file = tmp_path / "profiles.sqlite"
    for _ in range(2):
        async with lookup(sqlite=file) as made:
            assert await made.find("user2") == (UserProfile("user2", "Jane Smith", "silver"), DATABASE)


async def test_a_row_of_the_file_that_is_no_profile_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    file = tmp_path / "profiles.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE user_profiles (user_id, name, tier, created_at)")
        rows = [("user1", "Ann", "gold"), ("user2", None, ""), ("user3", "n" * 300, "gold"), ("user4", b"\xff", 5)]
        db.executemany("INSERT INTO user_profiles VALUES (?, ?, ?, NULL)", rows)
    async with lookup(sqlite=file) as made:
        assert await made.find("user1") == (UserProfile("user1", "Ann", "gold"), DATABASE)
        assert await made.find("user2") == (UserProfile("user2", "unknown", "unknown"), DATABASE)
        for user_id in ("user3", "user4"):
            assert (await made.find(user_id)).enrichment is DEFAULT


async def test_a_damaged_file_is_a_failing_source(tmp_path: Path) -> None:
    file = tmp_path / "profiles.sqlite"
    file.write_bytes(b"this is no database" * 1000)
    async with lookup(sqlite=file) as made:
        assert (await made.find("user1")).enrichment is DEFAULT


async def test_sql_and_python_make_the_same_example_profiles(postgres: Any) -> None:
    connection = await asyncpg.connect(postgres.url)
    try:
        rows = await connection.fetch("SELECT user_id, name, tier FROM user_profiles")
    finally:
        await connection.close()
    assert {tuple(row) for row in rows} == {(one.user_id, one.name, one.tier) for one in sample_profiles()}
