"""The command line as processes: beside a worker, in pipes, under signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.waiting import until
from tests.support.worker import BIN, Worker

FAMULUS = str(BIN / "famulus")
RULE = {
    "rule_id": "HIGH",
    "description": "High amount",
    "active": True,
    "risk_level": "HIGH",
    "when": "amount > 10000.0",
}


def clean_env(folder: Path, **env: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAMULUS_")}
    return {**kept, "FAMULUS_BROKER": f"embedded://{folder}/log", "FAMULUS_DATA_DIR": str(folder / "data"), **env}


def run(env: dict[str, str], *args: str, stdin: str = "", within: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FAMULUS, *args], input=stdin, capture_output=True, text=True, env=env, timeout=within)


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("worker")
    with Worker(folder, command=[FAMULUS, "worker", "--jobs", "fraud"]) as started:
        started.wait_ready()
        assert run(started.env, "rules", "put", "-", stdin=json.dumps(RULE)).returncode == 0
        yield started


def transaction(number: int, user: str, amount: float = 1.0) -> dict[str, Any]:
    value = {"transaction_id": f"t{number}", "user_id": user, "amount": amount, "timestamp": 1_700_000_000_000 + number}
    return {"key": user, "value": value}


def wait_for_lag_zero(worker: Worker) -> None:
    def done() -> bool:
        found = {topic["topic"]: topic for topic in json.loads(run(worker.env, "topics", "--json").stdout)}
        return bool(found["user-transactions"]["lag"] == 0)

    until(done, within=20, what="the worker has committed everything")


# --- beside a worker ----------------------------------------------------------------------------------------------------


def test_state_of_a_key_is_asked_of_the_worker(worker: Worker) -> None:
    sent = "\n".join(json.dumps(transaction(n, f"state/{n % 3} ü", 20_000.0)) for n in range(9))
    assert run(worker.env, "produce", "user-transactions", stdin=sent).returncode == 0
    wait_for_lag_zero(worker)
    (answer,) = lines(run(worker.env, "state", "get", "fraud", "history", "state/1 ü", "--json"))
    assert (answer["operator"], answer["state"], answer["key"]) == ("fraud", "history", "state/1 ü")
    assert len(answer["value"]) == 3
    keys = [
        entry["key"]
        for entry in lines(run(worker.env, "state", "list", "fraud", "history", "--prefix", "state/", "--json"))
    ]
    assert keys == ["state/0 ü", "state/1 ü", "state/2 ü"]
    assert len(lines(run(worker.env, "state", "list", "fraud", "history", "--limit", "2", "--json"))) == 2


@pytest.mark.parametrize("path", [("fraud", "history", "nobody"), ("fraud", "nothing", "x"), ("nothing", "x", "x")])
def test_state_that_is_not_there_is_one_line_and_exit_code_1(worker: Worker, path: tuple[str, ...]) -> None:
    done = run(worker.env, "state", "get", *path)
    assert done.returncode == 1
    assert done.stderr.startswith("famulus: ")
    assert done.stderr.count("\n") == 1


def test_dead_letters_are_listed_shown_and_replayed_once(worker: Worker) -> None:
    bad = {"key": "dlq", "value": {"transaction_id": "d1", "user_id": "dlq", "amount": "much", "timestamp": 1}}
    raw = {"key": "dlq", "value": "not json"}
    run(worker.env, "produce", "user-transactions", stdin=json.dumps(bad))
    run(worker.env, "produce", "user-transactions", "--raw", stdin=json.dumps(raw))

    def letters(count: int) -> list[Any]:
        """The dead letters once there are so many, else none."""
        found = lines(run(worker.env, "dlq", "show", "user-transactions", "--json"))
        return found if len(found) == count else []

    first = until(lambda: letters(2), within=20, what="both records are dead letters")
    assert [(letter["key"], letter["value"], letter["attempt"]) for letter in first] == [
        ("dlq", bad["value"], 1),
        ("dlq", "not json", 1),
    ]
    assert all(letter["origin"]["topic"] == "user-transactions" for letter in first)
    assert all(letter["error"]["class"] == "BadRecord" and letter["error"]["message"] for letter in first)
    (found,) = json.loads(run(worker.env, "dlq", "list", "--json").stdout)
    assert found == {"topic": "user-transactions.dlq", "records": 2, "waiting": 2, "reasons": {"BadRecord": 2}}

    # Still bad, they come back with another attempt, and are not replayed again unasked.
    assert lines(run(worker.env, "dlq", "replay", "user-transactions", "--json")) == [
        {"by_topic": {"user-transactions": 2}, "skipped": 0}
    ]
    second = until(lambda: letters(4), within=20, what="both records came back")
    assert [letter["attempt"] for letter in second] == [1, 1, 2, 2]
    (found,) = json.loads(run(worker.env, "dlq", "list", "--json").stdout)
    assert (found["records"], found["waiting"]) == (4, 2)
    one = ("--partition", str(second[0]["partition"]), "--offset", str(second[0]["offset"]))
    assert len(lines(run(worker.env, "dlq", "show", "user-transactions.dlq", *one, "--json"))) == 1
    replayed = run(worker.env, "dlq", "replay", "user-transactions", *one)
    assert replayed.stdout == "1 records replayed to user-transactions\n"
    until(lambda: letters(5), within=20, what="the one record came back")


def test_the_doctor_finds_the_worker_ready(worker: Worker) -> None:
    (answer,) = lines(run(worker.env, "doctor", "--json"))
    (found,) = [check for check in answer["checks"] if check["name"] == "worker"]
    assert found == {"name": "worker", "verdict": "ok", "finding": f"one is ready at http://127.0.0.1:{worker.port}"}


def test_the_doctor_tells_the_worker_of_another_application_from_its_own(worker: Worker) -> None:
    done = run({**worker.env, "FAMULUS_APP_ID": "mine"}, "doctor", "--json")
    assert done.returncode == 1
    (found,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "worker"]
    assert found["verdict"] == "fail"
    assert found["finding"] == f"the one at http://127.0.0.1:{worker.port} works for application famulus, not for mine"


@pytest.mark.parametrize("command", [["worker"], ["worker", "--processes", "2"], ["demo"]])
def test_a_data_folder_that_cannot_be_used_is_one_line_and_exit_code_2(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = clean_env(tmp_path, FAMULUS_DATA_DIR=str(tmp_path / "file"), FAMULUS_WEB_PORT=str(free_port()))
    done = run(env, *command)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"famulus: FAMULUS_DATA_DIR={tmp_path}/file: no folder that can be written to")


def test_fausts_own_worker_says_the_same_of_the_data_folder_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    worker = Worker(tmp_path / "worker", FAMULUS_DATA_DIR=str(tmp_path / "file"))
    with worker:
        assert worker.process is not None
        assert worker.process.wait(20) == 1
    assert f"FATAL SettingsError: FAMULUS_DATA_DIR={tmp_path}/file: " in worker.log_text()
    assert "Traceback" not in worker.log_text()


def test_faust_knows_our_commands_and_we_know_fausts(worker: Worker) -> None:
    faust = subprocess.run(
        [str(BIN / "faust"), "-A", "app", "--json", "topics"],
        capture_output=True,
        text=True,
        env=worker.env,
        timeout=30,
    )
    assert faust.returncode == 0
    assert "user-transactions" in {topic["topic"] for topic in json.loads(faust.stdout)}
    assert {agent["name"] for agent in json.loads(run(worker.env, "--json", "agents").stdout)} >= {"@fraud"}


def test_faust_ends_with_one_line_and_exit_code_2_for_a_bad_setting(worker: Worker) -> None:
    env = {**worker.env, "FAMULUS_STORE": "redis://"}
    done = subprocess.run(
        [str(BIN / "faust"), "-A", "app", "worker"], capture_output=True, text=True, env=env, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr.startswith("famulus: FAMULUS_STORE=redis://")
    assert done.stderr.count("\n") == 1


# --- pipes and signals --------------------------------------------------------------------------------------------------


def test_a_slow_input_is_produced_line_by_line_and_a_follower_sees_it_at_once(tmp_path: Path) -> None:
    env = clean_env(tmp_path)
    assert run(env, "produce", "clicks", "--partitions", "1").returncode == 0
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([FAMULUS, "read", "clicks", "--from-beginning"], stdout=pipe, env=env) as follower,
        subprocess.Popen([FAMULUS, "produce", "clicks"], stdin=pipe, stdout=pipe, env=env) as producer,
    ):
        assert producer.stdin is not None
        assert follower.stdout is not None
        for number in range(3):
            producer.stdin.write(b'{"value":%d}\n' % number)
            producer.stdin.flush()
            assert json.loads(follower.stdout.readline())["value"] == number
        producer.stdin.close()
        assert producer.wait(10) == 0
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 0


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    env = clean_env(tmp_path)
    many = "".join('{"value":"%s"}\n' % ("x" * 1000) for _ in range(3_000))
    assert run(env, "produce", "clicks", stdin=many).returncode == 0
    with subprocess.Popen(
        [FAMULUS, "read", "clicks", "--from-beginning", "--until-end"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.readline()
        reader.stdout.close()
        assert reader.wait(10) == 0
        assert reader.stderr.read() == b""


def test_an_input_that_waits_can_be_interrupted_and_what_came_is_stored(tmp_path: Path) -> None:
    env = clean_env(tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen([FAMULUS, "produce", "clicks"], stdin=pipe, stdout=pipe, stderr=pipe, env=env) as producer:
        assert producer.stdin is not None
        assert producer.stdout is not None
        assert producer.stderr is not None
        producer.stdin.write(b'{"value":1}\n')
        producer.stdin.flush()

        def stored() -> bool:
            return any(topic["records"] for topic in json.loads(run(env, "topics", "--json").stdout))

        until(stored, within=20, what="the record is stored")
        producer.send_signal(signal.SIGINT)
        assert producer.wait(10) == 1
        assert producer.stdout.read() == b"1 records produced to clicks\n"
        assert producer.stderr.read() == b"created topic clicks with 4 partitions\nfamulus: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_endless_traffic_ends_with_its_totals_when_it_is_stopped(tmp_path: Path, number: int) -> None:
    env = clean_env(tmp_path)
    with subprocess.Popen(
        [FAMULUS, "simulate", "--rate", "200", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as traffic:

        def some() -> bool:
            topics = json.loads(run(env, "topics", "--json").stdout)
            return any(topic["records"] > 20 for topic in topics)

        until(some, within=20, what="some transactions are there")
        traffic.send_signal(number)
        out, err = traffic.communicate(timeout=10)
    assert (traffic.returncode, err) == (0, b"")
    topics = {topic["topic"]: topic["records"] for topic in json.loads(run(env, "topics", "--json").stdout)}
    assert topics["user-transactions"] == json.loads(out)["produced"]


def test_the_demonstration_shows_alerts_and_stops_cleanly(tmp_path: Path) -> None:
    env = clean_env(tmp_path, FAMULUS_WEB_PORT=str(free_port()), PYTHONUNBUFFERED="1")
    with subprocess.Popen([FAMULUS, "demo", "--rate", "300"], stdout=subprocess.PIPE, text=True, env=env) as demo:
        assert demo.stdout is not None
        shown: list[str] = []
        for line in demo.stdout:
            shown.append(line)
            if "Rule triggered" in line:
                break
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait(10) == 0
    assert any(f"console: http://127.0.0.1:{env['FAMULUS_WEB_PORT']}/" in line for line in shown)
    assert rest.endswith("stopped\n")
    log = (tmp_path / "data" / "demo-worker.log").read_text()
    assert "Closing event loop" in log
    assert len(json.loads(run(env, "rules", "list", "--json").stdout)) == 4


def test_the_demonstration_ends_with_the_error_of_its_worker(tmp_path: Path) -> None:
    env = clean_env(tmp_path, FAMULUS_WEB_PORT=str(free_port()))
    with subprocess.Popen(
        [FAMULUS, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("console:"):
                break
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGKILL)
        _, err = demo.communicate(timeout=15)
    assert demo.returncode == 1
    assert err.startswith("famulus: the worker ended with exit code -9")
    assert err.count("\n") == 1


def test_the_demonstration_says_that_its_port_is_taken(worker: Worker, tmp_path: Path) -> None:
    done = run(clean_env(tmp_path, FAMULUS_WEB_PORT=str(worker.port)), "demo")
    assert done.returncode == 1
    assert done.stderr.startswith(f"famulus: port {worker.port} on 127.0.0.1 is taken")
    assert "FAMULUS_WEB_PORT" in done.stderr
