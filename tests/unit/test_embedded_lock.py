"""One active worker per application, and what the others do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import monotonic

import pytest

from app.transport.embedded.engine import Engine
from app.transport.embedded.location import Location, Synchronous
from app.transport.embedded.lock import WorkerLock
from models.errors import Fenced

DEADLINE = 10.0


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    opened = await Engine.open(Location(tmp_path / "log", Synchronous.OFF))
    yield opened
    await opened.close()


@pytest.fixture
async def lock_for(engine: Engine) -> AsyncIterator[Callable[[str], WorkerLock]]:
    made: list[WorkerLock] = []

    def make(app_id: str = "app") -> WorkerLock:
        made.append(WorkerLock(engine.location, app_id))
        return made[-1]

    yield make
    for lock in made:
        lock.release()


async def until_waiting(lock: WorkerLock) -> str:
    deadline = monotonic() + DEADLINE
    while lock.waiting_for is None:
        assert monotonic() < deadline
        await asyncio.sleep(0.01)
    return lock.waiting_for


async def within_deadline(waiting: Awaitable[None]) -> None:
    async with asyncio.timeout(DEADLINE):
        await waiting


async def test_the_second_worker_waits_and_says_for_whom(engine: Engine, lock_for: Callable[[str], WorkerLock]) -> None:
    first, second = lock_for("app"), lock_for("app")
    await first.acquire(engine)
    waiting = asyncio.create_task(second.acquire(engine))
    text = await until_waiting(second)
    assert f"pid {os.getpid()}" in text
    assert "standing by" in text
    assert (first.held, second.held) == (True, False)
    first.release()
    released = monotonic()
    await within_deadline(waiting)
    assert monotonic() - released < 2.0
    assert (second.held, second.waiting_for) == (True, None)


async def test_each_owner_has_a_higher_generation(engine: Engine, lock_for: Callable[[str], WorkerLock]) -> None:
    generations = []
    for _ in range(3):
        lock = lock_for("app")
        await lock.acquire(engine)
        generations.append(lock.generation)
        lock.release()
    assert generations == [1, 2, 3]


async def test_acquiring_again_and_from_many_tasks_changes_nothing(
    engine: Engine, lock_for: Callable[[str], WorkerLock]
) -> None:
    lock = lock_for("app")
    await within_deadline(asyncio.gather(*(lock.acquire(engine) for _ in range(5))))  # type: ignore[arg-type]
    await lock.acquire(engine)
    assert lock.generation == 1


async def test_applications_do_not_wait_for_each_other(engine: Engine, lock_for: Callable[[str], WorkerLock]) -> None:
    for app_id in ("app", "other", "../odd/name"):
        await within_deadline(lock_for(app_id).acquire(engine))


async def test_without_the_lock_there_is_no_generation_to_commit_under(
    engine: Engine, lock_for: Callable[[str], WorkerLock]
) -> None:
    lock = lock_for("app")
    with pytest.raises(Fenced):
        _ = lock.generation
    await lock.acquire(engine)
    lock.release()
    with pytest.raises(Fenced):
        _ = lock.generation


async def test_whose_lock_file_was_deleted_is_fenced_by_the_next_owner(
    engine: Engine, lock_for: Callable[[str], WorkerLock]
) -> None:
    first, second = lock_for("app"), lock_for("app")
    await first.acquire(engine)
    first.path.unlink()
    await within_deadline(second.acquire(engine))
    generation = first.generation
    with pytest.raises(Fenced, match="another worker has taken over"):
        await engine.write(lambda tx: tx.require_generation("app", generation))
    await engine.write(lambda tx: tx.require_generation("app", second.generation))


async def test_a_spare_that_gives_up_waiting_leaves_no_trace(
    engine: Engine, lock_for: Callable[[str], WorkerLock]
) -> None:
    first, second, third = lock_for("app"), lock_for("app"), lock_for("app")
    await first.acquire(engine)
    waiting = asyncio.create_task(second.acquire(engine))
    await until_waiting(second)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (second.held, second.waiting_for) == (False, None)
    first.release()
    await within_deadline(third.acquire(engine))
