"""The parent of several workers: how soon one is started again."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.supervisor import RestartPolicy, Supervisor, count_of
from models.errors import SettingsError
from tests.support.waiting import until


def test_a_worker_that_keeps_ending_is_started_ever_later_up_to_a_bound() -> None:
    policy = RestartPolicy(first=timedelta(milliseconds=100), longest=timedelta(seconds=5))
    assert [policy.delay(failures) for failures in (1, 2, 3, 4, 50)] == [0.1, 0.4, 1.6, 5.0, 5.0]


def test_auto_means_one_worker_a_core() -> None:
    assert count_of("auto") >= 1
    assert count_of("3") == 3


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(SettingsError, match="--processes many"):
        count_of("many")


@pytest.fixture
def signals() -> Iterator[None]:
    """The parent takes SIGTERM and SIGINT for itself; afterwards they are pytest's again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("", 0),  # it does not listen yet
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", 0),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))", 1),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 1),
    ],
)
def test_the_parent_ends_in_order_if_all_its_workers_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, code: int
) -> None:
    there = "open(os.environ['FAMULUS_WEB_PORT'], 'w').close()"
    command = [sys.executable, "-c", f"import os, signal, sys, time\n{first}\n{there}\ntime.sleep(60)"]
    environ = {**os.environ, "PYTHONPATH": ""}
    supervisor = Supervisor(command, 2, 7000, environ, RestartPolicy(grace=timedelta(seconds=2 if code else 30)))

    def end() -> None:
        until(lambda: len(list(tmp_path.iterdir())) == 2, within=30, what="both have begun")
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    monkeypatch.chdir(tmp_path)
    ending.start()
    assert supervisor.run() == code
    ending.join()
