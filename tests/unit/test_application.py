"""The application without a worker: what it is made of, and in which order it lets go."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from mode import Service

from app.factory import create_app
from app.settings import Settings
from app.topology import JOBS
from app.transport.client import BrokerClient
from models.errors import LogUnavailable


def settings(folder: Path, **more: Any) -> Settings:
    return Settings(broker=f"embedded://{folder}/log", data_dir=folder / "data", **more)


def test_all_jobs_are_made_and_faust_knows_their_agents_and_tables(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path))
    uids = {spec.uid for specs in JOBS.values() for spec in specs}
    assert {lane.spec.uid for lane in app.lanes} == set(app.agents) == set(app.tables) == uids


def test_only_the_chosen_jobs_are_made(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, jobs=("sessions",)))
    assert {lane.spec.job for lane in app.lanes} == {"sessions"}


async def test_the_client_is_open_as_long_as_any_service_runs(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, jobs=("fraud",)))
    seen: list[dict[str, int]] = []

    class Late(Service):
        async def on_stop(self) -> None:
            seen.append(await app.client().topics())

    await app.client().__aenter__()
    app.add_dependency(late := Late())
    await late.start()
    app._started.set()
    await app.stop()
    assert seen == [{}]


@pytest.mark.parametrize("told_to_end", [True, False])
async def test_a_broker_that_is_gone_is_no_error_to_a_worker_told_to_end_while_it_starts(
    told_to_end: bool, tmp_path: Path
) -> None:
    app = create_app(settings(tmp_path, jobs=("fraud",)))

    class Closed:
        async def __aenter__(self) -> None:
            if told_to_end:
                app._stopped.set()
            raise LogUnavailable("the client is closed")

    app._client = cast(BrokerClient, Closed())
    with nullcontext() if told_to_end else pytest.raises(LogUnavailable):
        await app.on_start()
