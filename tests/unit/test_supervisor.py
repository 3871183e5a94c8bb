"""The parent of several workers: how soon one is started again."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from app.supervisor import RestartPolicy, count_of
from models.errors import SettingsError
from tests.support.waiting import until
from tests.support.worker import ROOT


def test_a_worker_that_keeps_ending_is_started_ever_later_up_to_a_bound() -> None:
    policy = RestartPolicy(first=timedelta(milliseconds=100), longest=timedelta(seconds=5))
    assert [policy.delay(failures) for failures in (1, 2, 3, 4, 50)] == [0.1, 0.4, 1.6, 5.0, 5.0]


def test_auto_means_one_worker_a_core() -> None:
    assert count_of("auto") >= 1
    assert count_of("3") == 3


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(SettingsError, match="--processes many"):
        count_of("many")


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, cwd=ROOT)


def test_what_workers_import_starts_no_thread_so_that_forking_is_safe() -> None:
    done = run(
        "import os\nfrom app.supervisor import preload\n"
        "for scheme in 'kafka', 'embedded': preload(scheme)\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    assert done.stdout == "1\n", done.stderr


def test_a_worker_that_refuses_its_settings_ends_the_parent_with_its_exit_code() -> None:
    done = run(
        "import sys\nfrom functools import partial\nfrom app.supervisor import Supervisor\n"
        "sys.exit(Supervisor(partial(sys.exit, 2), 2, 7000).run())"
    )
    assert done.returncode == 2, done.stderr


def test_a_worker_starts_as_a_process_of_its_own_with_its_port_and_default_signals() -> None:
    done = run(
        "import os, signal, sys\nfrom app.supervisor import Supervisor\n"
        "def work():\n"
        "    print(os.environ['FAMULUS_WEB_PORT'], os.getpgrp() == os.getpid(), signal.getsignal(signal.SIGTERM).name, flush=True)\n"
        "    sys.exit(2)\n"
        "sys.exit(Supervisor(work, 1, 7001).run())"
    )
    assert done.stdout == "7001 True SIG_DFL\n", done.stderr


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("", 0),  # it does not listen yet
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", 0),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))", 1),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 1),
    ],
)
def test_the_parent_ends_in_order_if_all_its_workers_did(tmp_path: Path, first: str, code: int) -> None:
    program = f"""
import os, signal, sys, time
from datetime import timedelta
from app.supervisor import RestartPolicy, Supervisor
def work():
    {first}
    open(os.path.join({str(tmp_path)!r}, os.environ["FAMULUS_WEB_PORT"]), "w").close()
    time.sleep(60)
sys.exit(Supervisor(work, 2, 7000, RestartPolicy(grace=timedelta(seconds={2 if code else 30}))).run())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        until(lambda: len(list(tmp_path.iterdir())) == 2, within=30, what="both have begun")
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == code
    finally:
        parent.kill()
