"""The command line without a worker: every command against a real embedded log, in this process."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.cli.main import COMMANDS, main
from app.transport.kafka import internals
from tables import series

HIGH = {
    "rule_id": "HIGH",
    "description": "High amount",
    "active": True,
    "risk_level": "HIGH",
    "when": "amount > 10000.0",
}


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Ended]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs one command line; settings are those of a fresh, empty log."""
    for name in os.environ:
        if name.startswith("FAMULUS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FAMULUS_BROKER", f"embedded://{tmp_path}/log?synchronous=off")
    # Not set, and not set any more after a command that sets it.
    monkeypatch.setenv("FAMULUS_JOBS", "")
    monkeypatch.chdir(tmp_path)

    def call(*args: str, stdin: str | bytes = b"") -> Ended:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = main(args)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


def one_line(text: str) -> bool:
    return text.startswith("famulus: ") and text.count("\n") == 1 and text.endswith("\n")


# --- the whole ----------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_needs_no_settings(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMULUS_NONSENSE", "1")
    ended = cli("--help")
    assert ended.code == 0
    assert all(f"\n  {name}" in ended.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example(cli: Cli, command: str) -> None:
    ended = cli(command, "--help")
    assert ended.code == 0
    assert "Example: " in ended.out
    assert f"famulus {command}" in ended.out


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("read",),
        ("read", "a", "b"),
        ("read", "--no-such-option", "a"),
        ("rules", "nonsense"),
        ("rules", "rollback", "X"),
        ("rules", "lint", "gone.json"),
        ("simulate", "--rate", "0"),
        ("load", "x.csv", "--topic", "t", "--map", "user_id"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(cli: Cli, args: tuple[str, ...]) -> None:
    (Path.cwd() / "x.csv").write_text("a\n1\n")
    ended = cli(*args)
    assert ended.code == 2
    assert one_line(ended.err)


@pytest.mark.parametrize(
    "args", [("topics",), ("read", "x"), ("rules", "list"), ("simulate",), ("worker",), ("agents",), ("doctor",)]
)
def test_a_bad_setting_is_one_line_that_names_it_and_exit_code_2(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.setenv("FAMULUS_COMMIT_INTERVAL_MS", "soon")
    ended = cli(*args)
    assert ended.code == 2
    assert one_line(ended.err)
    assert "FAMULUS_COMMIT_INTERVAL_MS=soon" in ended.err


@pytest.mark.parametrize("args", [("--jobs", "lottery"), ("-l", "debug", "--jobs=lottery", "--without-web")])
def test_an_unknown_job_is_a_bad_setting(cli: Cli, args: tuple[str, ...]) -> None:
    ended = cli("worker", *args)
    assert ended.code == 2
    assert "FAMULUS_JOBS=lottery" in ended.err


def test_a_broker_that_cannot_be_opened_is_one_line_and_exit_code_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMULUS_BROKER", "embedded:///proc/nowhere")
    ended = cli("topics")
    assert ended.code == 1
    assert one_line(ended.err)


def test_the_version_is_shown(cli: Cli) -> None:
    assert cli("--version").out.startswith("famulus ")


# --- produce and read ---------------------------------------------------------------------------------------------------


def test_what_is_produced_is_read_back(cli: Cli) -> None:
    lines = [
        {"key": "u1", "value": {"amount": 1.5, "text": "grün"}},
        {"key": None, "value": [1, None]},
        {"value": "text", "headers": {"h": "x"}, "timestamp": 12345, "partition": 3},
        {"key": "u1", "value": None},
    ]
    produced = cli("produce", "clicks", "--json", stdin="\n".join(map(json.dumps, lines)))
    assert (produced.code, produced.json["produced"], produced.json["bad"]) == (0, 4, 0)
    read = cli("read", "clicks", "--from-beginning", "--until-end").lines
    assert sorted((r["key"], json.dumps(r["value"])) for r in read if r["key"]) == [
        ("u1", "null"),
        ("u1", '{"amount": 1.5, "text": "gr\\u00fcn"}'),
    ]
    (with_headers,) = [r for r in read if "headers" in r]
    assert with_headers == {
        "topic": "clicks",
        "partition": 3,
        "offset": with_headers["offset"],
        "timestamp": 12345,
        "key": None,
        "value": "text",
        "headers": {"h": "x"},
    }


def test_raw_values_reach_the_log_untouched(cli: Cli) -> None:
    texts = ["not json", '{"amount": NaN}', '{"amount":1e999}', " spaces ", "é\n\u0000"]
    stdin = "\n".join(json.dumps({"key": "u", "value": text}) for text in texts)
    assert cli("produce", "clicks", "--raw", stdin=stdin).code == 0
    read = cli("read", "clicks", "--from-beginning", "--until-end").lines
    assert [r["value"] for r in read] == texts


def test_bytes_that_are_no_text_are_read_and_produced_as_base64(cli: Cli) -> None:
    assert cli("produce", "clicks", stdin='{"key":"k","value_base64":"//4A"}').code == 0
    (record,) = cli("read", "clicks", "--from-beginning", "--until-end").lines
    assert (record["value"], record["value_base64"]) == (None, "//4A")


def test_bad_lines_are_named_and_skipped_and_their_neighbours_are_produced(cli: Cli) -> None:
    bad = [
        "nonsense",
        '{"key":1,"value":1}',
        '{"key":"u"}',
        '{"key":"u","vale":1}',
        '{"value":1,"partition":9}',
        '{"value":1,"timestamp":-1}',
        '{"value":1,"value_base64":"AA=="}',
        '{"value_base64":"?"}',
        "[1]",
        "[" * 20_000,
        '"\udcff"',
    ]
    stdin = "\n".join(['{"value":1}', *bad, "", '{"value":2}']).encode(errors="surrogateescape")
    ended = cli("produce", "clicks", "--json", stdin=stdin)
    assert ended.code == 1
    assert (ended.json["produced"], ended.json["bad"]) == (2, len(bad))
    assert [named["line"] for named in ended.json["bad_lines"]] == list(range(2, 2 + len(bad)))
    assert all(f"line {number}: " in ended.err for number in range(2, 2 + len(bad)))


def test_only_the_first_bad_lines_are_named_and_all_are_counted(cli: Cli) -> None:
    ended = cli("produce", "clicks", "--json", stdin="bad\n" * 100)
    assert (ended.json["bad"], len(ended.json["bad_lines"])) == (100, 20)
    assert ended.err.count("\n") == 22  # the topic's creation, twenty lines and that there are more


def test_a_record_that_is_too_large_costs_itself_only(cli: Cli) -> None:
    lines = ['{"value":1}', '{"value":"' + "x" * (65 << 20) + '"}', '{"value":2}']
    ended = cli("produce", "clicks", "--json", stdin="\n".join(lines))
    assert (ended.code, ended.json["produced"], ended.json["bad"]) == (1, 2, 1)


def test_a_topic_of_ours_is_created_as_it_must_be_and_another_one_as_asked_for(cli: Cli) -> None:
    for args in (("fraud-rules",), ("user-transactions.dlq",), ("clicks", "--partitions", "7"), ("views",)):
        assert cli("produce", *args).code == 0
    found = {topic["topic"]: topic["partitions"] for topic in cli("topics", "--json").json}
    assert found == {"fraud-rules": 1, "user-transactions.dlq": 4, "clicks": 7, "views": 4}


def test_a_misspelt_topic_is_loaded_into_only_with_the_number_of_partitions_that_was_asked_for(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "visits.csv").write_text("id,page\nv1,/home\n")
    load = ("load", "visits.csv", "--topic", "user-event", "--key", "id")
    refused = cli(*load)
    assert (refused.code, "did you mean user-events?" in refused.err) == (1, True)
    assert cli(*load, "--partitions", "2").code == 0
    found = {topic["topic"]: topic["partitions"] for topic in cli("topics", "--json").json}
    assert found["user-event"] == 2


def test_a_misspelt_topic_is_not_created(cli: Cli) -> None:
    ended = cli("produce", "user-transaction", stdin='{"value":1}')
    assert ended.code == 1
    assert one_line(ended.err)
    assert "user-transactions" in ended.err
    assert cli("topics", "--json").json == []


def test_reading_without_from_beginning_starts_at_the_end(cli: Cli) -> None:
    cli("produce", "clicks", stdin='{"value":1}')
    assert cli("read", "clicks", "--until-end").out == ""


def test_a_topic_of_ours_that_nobody_created_is_empty_and_another_one_is_an_error(cli: Cli) -> None:
    ours = cli("read", "fraud-alerts", "--from-beginning", "--until-end")
    assert (ours.code, ours.out) == (0, "")
    other = cli("read", "clicks", "--from-beginning", "--until-end")
    assert other.code == 1
    assert one_line(other.err)


def test_an_empty_log_has_no_topics(cli: Cli) -> None:
    assert cli("topics").out.startswith("no topics yet")
    assert cli("topics", "--json").json == []


# --- rules --------------------------------------------------------------------------------------------------------------


def put(cli: Cli, *rules: dict[str, Any]) -> Ended:
    return cli("rules", "put", "-", "--json", stdin=json.dumps(rules))


def test_put_rules_are_listed_and_shown_with_their_versions(cli: Cli) -> None:
    assert [step["version"] for step in put(cli, HIGH, {**HIGH, "rule_id": "B"}).json] == [1, 1]
    assert [step["version"] for step in put(cli, HIGH).json] == [2]
    assert [(rule["rule_id"], rule["version"]) for rule in cli("rules", "list", "--json").json] == [
        ("B", 1),
        ("HIGH", 2),
    ]
    shown = cli("rules", "show", "HIGH", "--json").json
    assert {name: shown[name] for name in HIGH} == HIGH
    assert "amount > 10000.0" in cli("rules", "list").out


@pytest.mark.parametrize("shape", ["one", "array", "lines"])
def test_a_file_may_hold_one_rule_an_array_or_a_rule_a_line(cli: Cli, shape: str) -> None:
    other = {**HIGH, "rule_id": "B"}
    text = {"one": json.dumps(HIGH, indent=2), "array": json.dumps([HIGH, other])}.get(
        shape, f"{json.dumps(HIGH)}\n{json.dumps(other)}\n"
    )
    Path("rules.json").write_text(text)
    assert cli("rules", "lint", "rules.json").code == 0
    assert cli("rules", "put", "rules.json").code == 0
    assert len(cli("rules", "list", "--json").json) == (1 if shape == "one" else 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"when": "amount > foo"}, "foo"),
        ({"when": "amount > "}, "line 1"),
        ({"risk_level": "SEVERE"}, "SEVERE"),
        ({"colour": "red"}, "colour"),
        ({"when": "count(duration('31d')) > 1"}, "rule HIGH"),
    ],
)
def test_put_refuses_what_lint_refuses_and_then_puts_none_of_the_file(
    cli: Cli, change: dict[str, Any], says: str
) -> None:
    text = json.dumps([{**HIGH, "rule_id": "GOOD"}, {**HIGH, **change}])
    for command in ("lint", "put"):
        ended = cli("rules", command, "-", stdin=text)
        assert ended.code == 1
        assert says in ended.err
    assert cli("rules", "list", "--json").json == []


def test_a_refused_condition_is_shown_with_line_column_and_caret(cli: Cli) -> None:
    text = json.dumps({**HIGH, "when": "amount > foo"})
    assert "^" in cli("rules", "lint", "-", stdin=text).err
    (problem,) = cli("rules", "lint", "-", "--json", stdin=text).json["problems"]
    assert (problem["rule_id"], problem["line"], problem["column"]) == ("HIGH", 1, 10)


def test_a_rule_can_be_disabled_and_rolled_back_and_its_history_tells(cli: Cli) -> None:
    put(cli, HIGH)
    assert cli("rules", "disable", "HIGH").out == "HIGH version 2 (disabled)\n"
    assert cli("rules", "rollback", "HIGH", "--to", "1").out == "HIGH version 3\n"
    history = cli("rules", "history", "HIGH", "--json").json
    assert [(step["version"], step["active"]) for step in history] == [(1, True), (2, False), (3, True)]


@pytest.mark.parametrize(
    "args",
    [
        ("show", "X"),
        ("history", "X"),
        ("disable", "X"),
        ("rollback", "X", "--to", "1"),
        ("rollback", "HIGH", "--to", "9"),
    ],
)
def test_a_rule_or_version_that_is_not_there_is_one_line_and_exit_code_1(cli: Cli, args: tuple[str, ...]) -> None:
    put(cli, HIGH)
    ended = cli("rules", *args)
    assert ended.code == 1
    assert one_line(ended.err)


# --- simulate and load --------------------------------------------------------------------------------------------------


def transactions(cli: Cli) -> list[Any]:
    return [r["value"] for r in cli("read", "user-transactions", "--from-beginning", "--until-end").lines]


def test_simulated_transactions_and_their_labels_fit_together(cli: Cli) -> None:
    ended = cli("simulate", "--count", "1000", "--seed", "7", "--labels", "labels.jsonl", "--json")
    assert (ended.code, ended.json["produced"], ended.json["seed"]) == (0, 1000, 7)
    made = transactions(cli)
    labels = [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]
    assert len(labels) == sum(ended.json["planted"].values())
    high = {label["transaction_id"] for label in labels if label["scenario"] == "high_amount"}
    assert {t["transaction_id"] for t in made if t["amount"] > 10_000} == high
    assert len(high) == ended.json["planted"]["high_amount"] == 4


def test_labels_that_cannot_be_written_are_one_line_and_nothing_is_produced(cli: Cli) -> None:
    ended = cli("simulate", "--count", "1000", "--labels", "nowhere/labels.jsonl")
    assert (ended.code, ended.err) == (1, "famulus: nowhere/labels.jsonl: No such file or directory\n")
    assert cli("topics", "--json").json == []


def test_live_traffic_ends_at_its_count_with_times_of_now(cli: Cli) -> None:
    ended = cli("simulate", "--count", "100", "--rate", "500")
    assert ended.code == 0
    read = cli("read", "user-transactions", "--from-beginning", "--until-end").lines
    assert len(read) == 100
    assert all(0 <= r["timestamp"] - r["value"]["timestamp"] < 5_000 for r in read)


def test_a_loaded_file_becomes_transactions(cli: Cli) -> None:
    rows = [f"{n},{1522540831000 + n},{n % 7},{n % 3},{n}.25,0" for n in range(10_000)]
    text = "\n".join(["transaction_id,timestamp,customer_id,terminal_id,amount,is_fraud", *rows])
    Path("t.csv.gz").write_bytes(gzip.compress(text.encode()))
    mapped = ("--map", "user_id=customer_id", "--map", "merchant=terminal_id")
    ended = cli("load", "t.csv.gz", "--topic", "user-transactions", *mapped, "--json")
    assert ended.code == 0
    assert (ended.json["produced"], ended.json["bad"], ended.json["dropped_columns"]) == (10_000, 0, ["is_fraud"])
    made = sorted(transactions(cli), key=lambda t: int(t["transaction_id"]))
    assert made[7] == {
        "transaction_id": "7",
        "user_id": "0",
        "amount": 7.25,
        "timestamp": 1522540831007,
        "merchant": "1",
    }
    assert len(made) == 10_000


def test_the_rows_of_a_user_keep_their_order(cli: Cli) -> None:
    rows = [
        json.dumps({"transaction_id": n, "user_id": f"u{n % 5}", "amount": 1, "timestamp": n}) for n in range(9_000)
    ]
    Path("t.jsonl").write_text("\n".join(rows))
    assert cli("load", "t.jsonl", "--topic", "user-transactions").code == 0
    by_user: dict[str, list[int]] = {}
    for made in transactions(cli):
        by_user.setdefault(made["user_id"], []).append(made["timestamp"])
    assert len(by_user) == 5
    assert all(times == sorted(times) for times in by_user.values())


def test_bad_rows_are_named_counted_and_skipped(cli: Cli) -> None:
    Path("t.csv").write_text("transaction_id,user_id,amount,timestamp\n1,u,1.0,5\n2,u,much,5\n3,u,3.0,6\n4,u\n")
    ended = cli("load", "t.csv", "--topic", "user-transactions", "--json")
    assert (ended.code, ended.json["produced"], ended.json["bad"]) == (0, 2, 2)
    assert [named["line"] for named in ended.json["bad_lines"]] == [3, 5]
    assert "line 3: amount" in ended.err


def test_a_file_without_a_good_row_is_a_failure(cli: Cli) -> None:
    Path("t.csv").write_text("transaction_id,user_id,amount,timestamp\n2,u,much,5\n")
    assert cli("load", "t.csv", "--topic", "user-transactions").code == 1


def test_what_stands_before_a_damaged_end_is_loaded(cli: Cli) -> None:
    whole = gzip.compress(b"\n".join(b'{"n":%d,"m":%d}' % (n, n * n * 7919) for n in range(20_000)))
    Path("t.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    ended = cli("load", "t.jsonl.gz", "--topic", "clicks", "--json")
    assert ended.code == 1
    assert "damaged after line" in ended.err
    assert ended.json["produced"] > 1_000
    (clicks,) = cli("topics", "--json").json
    assert clicks["records"] == ended.json["produced"]


@pytest.mark.parametrize("name", ["gone.csv", "t.txt"])
def test_a_file_that_cannot_be_read_is_one_line_and_exit_code_1(cli: Cli, name: str) -> None:
    ended = cli("load", name, "--topic", "clicks")
    assert ended.code == 1
    assert one_line(ended.err)


# --- doctor -------------------------------------------------------------------------------------------------------------


def checks(ended: Ended) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in ended.json["checks"]}


def test_a_fresh_installation_is_healthy_but_for_its_missing_rules(
    cli: Cli, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAMULUS_WEB_PORT", str(unused_tcp_port))
    ended = cli("doctor", "--json")
    assert (ended.code, ended.json["ok"]) == (0, True)
    assert {name for name, check in checks(ended).items() if check["verdict"] != "ok"} - {"compiled code"} == {"rules"}
    text = cli("doctor").out
    assert "warn  rules: 0 rules" in text
    assert "famulus rules put" in text


@pytest.mark.parametrize(("compiled", "verdict"), [(True, "ok"), (False, "warn")])
def test_the_doctor_tells_whether_the_compiled_code_is_there(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, compiled: bool, verdict: str
) -> None:
    monkeypatch.setattr(internals, "batches", object() if compiled else None)
    monkeypatch.setattr(series, "COMPILED", True)
    ended = cli("doctor", "--json")
    assert (ended.code, checks(ended)["compiled code"]["verdict"]) == (0, verdict)


def test_the_doctor_names_a_wrong_partition_count(cli: Cli) -> None:
    cli("produce", "famulus-fraud-changelog", "--partitions", "3")
    cli("produce", "user-transactions")
    ended = cli("doctor", "--json")
    assert ended.code == 1
    found = [
        (check["verdict"], check["finding"])
        for check in ended.json["checks"]
        if check["name"] == "topic famulus-fraud-changelog"
    ]
    # Made by hand it is not compacted either, which is a finding of its own.
    assert ("fail", "has 3 partitions and its source user-transactions has 4") in found


def test_the_doctor_names_services_that_do_not_answer_and_no_password(
    cli: Cli, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAMULUS_POSTGRES_URL", f"postgresql://me:hunter2@127.0.0.1:{unused_tcp_port}/x")
    monkeypatch.setenv("FAMULUS_REDIS_URL", f"redis://:hunter2@127.0.0.1:{unused_tcp_port}/0")
    ended = cli("doctor", "--json")
    assert ended.code == 1
    assert {name for name, check in checks(ended).items() if check["verdict"] == "fail"} >= {"postgres", "redis"}
    assert "hunter2" not in ended.out + ended.err


def test_the_doctor_names_a_database_without_profiles(cli: Cli, postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMULUS_POSTGRES_URL", postgres.url)
    assert checks(cli("doctor", "--json"))["postgres"]["verdict"] == "ok"
    monkeypatch.setenv("FAMULUS_POSTGRES_URL", postgres.url.rpartition("/")[0] + "/postgres")
    found = checks(cli("doctor", "--json"))["postgres"]
    assert found["verdict"] == "fail"
    assert 'relation "user_profiles" does not exist' in found["finding"]


@pytest.mark.parametrize("broker", ["embedded:///proc/nowhere", "kafka://127.0.0.1:1"])
def test_the_doctor_names_a_broker_that_cannot_be_used_once(
    cli: Cli, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAMULUS_BROKER", broker)
    ended = cli("doctor", "--json")
    assert ended.code == 1
    assert checks(ended)["broker"]["verdict"] == "fail"
    assert checks(ended)["broker"]["finding"].count(broker) == 1


def test_the_doctor_gives_one_fix_for_a_kafka_that_is_away(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMULUS_BROKER", "kafka://127.0.0.1:1")
    broker = checks(cli("doctor", "--json"))["broker"]
    assert broker["fix"].startswith("start it or correct FAMULUS_BROKER")
    assert "correct FAMULUS_BROKER" not in broker["finding"]


# --- state and demo, with nobody there ----------------------------------------------------------------------------------


def test_without_a_worker_state_says_how_to_start_one(
    cli: Cli, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAMULUS_WEB_PORT", str(unused_tcp_port))
    ended = cli("state", "get", "fraud", "history", "user1")
    assert ended.code == 1
    assert one_line(ended.err)
    assert "famulus worker" in ended.err
