"""The environment variables, read once: defaults, every value, and refusals that name the variable."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from app import topology
from app.settings import JOBS, VARIABLES, ProcessingGuarantee, Settings, kafka_hosts, masked
from models.errors import SettingsError


def read(**variables: str) -> Settings:
    return Settings.from_env({f"FAMULUS_{name}": value for name, value in variables.items()})


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(**variables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_variables_the_documented_defaults_hold() -> None:
    assert Settings.from_env({"PATH": "/bin", "HOME": "/"}) == Settings(
        broker="embedded://var/famulus",
        app_id="famulus",
        jobs=None,
        processing_guarantee=ProcessingGuarantee.EXACTLY_ONCE,
        commit_interval=timedelta(milliseconds=50),
        store="memory://",
        data_dir=Path("var"),
        web_bind="127.0.0.1",
        web_port=6066,
        tokens_file=None,
        postgres_url=None,
        redis_url=None,
        savepoint_url="var/savepoints",
        max_drift=timedelta(hours=2),
    )


def test_every_variable_sets_its_own_field() -> None:
    settings = read(
        BROKER="kafka://one,two:9093",
        APP_ID="fraud-eu",
        JOBS=" fraud, fraud",
        PROCESSING_GUARANTEE="at_least_once",
        COMMIT_INTERVAL_MS="100",
        STORE="memory://",
        DATA_DIR="/srv/famulus",
        WEB_BIND="::1",
        WEB_PORT="7000",
        POSTGRES_URL="postgresql://me:secret@db/profiles",
        REDIS_URL="redis://:secret@cache:6379/0",
        SAVEPOINT_URL="s3://bucket/savepoints",
        MAX_DRIFT_MS="60000",
    )
    assert settings == Settings(
        broker="kafka://one:9092,two:9093",
        app_id="fraud-eu",
        jobs=("fraud",),
        processing_guarantee=ProcessingGuarantee.AT_LEAST_ONCE,
        commit_interval=timedelta(milliseconds=100),
        data_dir=Path("/srv/famulus"),
        web_bind="::1",
        web_port=7000,
        postgres_url="postgresql://me:secret@db/profiles",
        redis_url="redis://:secret@cache:6379/0",
        savepoint_url="s3://bucket/savepoints",
        max_drift=timedelta(minutes=1),
    )


def test_every_field_has_a_variable() -> None:
    assert {field.name for field in dataclasses.fields(Settings)} == {variable.field for variable in VARIABLES}


def test_the_jobs_that_can_be_chosen_are_those_of_the_topology() -> None:
    assert tuple(topology.JOBS) == JOBS


def test_an_empty_variable_counts_as_not_set() -> None:
    assert read(WEB_PORT="", POSTGRES_URL="") == Settings()


def test_an_unknown_variable_is_named_and_the_known_ones_are_listed() -> None:
    text = refusal(COLOUR="red")
    assert text.startswith("FAMULUS_COLOUR: ")
    assert "FAMULUS_BROKER," in text


def test_a_misspelt_variable_is_answered_with_the_one_that_was_meant() -> None:
    assert refusal(BROKERS="embedded://x") == "FAMULUS_BROKERS: no such setting; did you mean FAMULUS_BROKER?"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BROKER", "var/famulus", "no scheme"),
        ("BROKER", "amqp://host", "unknown scheme"),
        ("BROKER", "embedded://", "path is missing"),
        ("BROKER", "embedded://var?synchronous=perhaps", "unknown option"),
        ("BROKER", "kafka://", "HOST:PORT"),
        ("BROKER", "kafka://one,,two", "HOST:PORT"),
        ("BROKER", "kafka://one:0", "65535"),
        ("BROKER", "kafka://[::1", "bracket"),
        ("APP_ID", "a b", "topic names"),
        ("APP_ID", "..", "topic names"),
        ("APP_ID", "x" * 101, "100"),
        ("JOBS", "fraud,lottery", "unknown job lottery"),
        ("JOBS", ",", "no name"),
        ("PROCESSING_GUARANTEE", "exactly-once", "at_least_once"),
        ("COMMIT_INTERVAL_MS", "0", "from 1"),
        ("COMMIT_INTERVAL_MS", "50ms", "whole number"),
        ("COMMIT_INTERVAL_MS", "٣", "whole number"),
        ("STORE", "redis://x", "memory://"),
        ("DATA_DIR", "a\0b", "NUL"),
        ("WEB_BIND", "0.0.0.0", "loopback"),
        ("WEB_BIND", "example.org", "loopback"),
        ("WEB_BIND", "not a host", "host name"),
        ("WEB_PORT", "65536", "65535"),
        ("WEB_PORT", "-1", "65535"),
        ("TOKENS_FILE", "/nowhere/tokens.toml", "no such file"),
        ("POSTGRES_URL", "mysql://db", "postgresql://"),
        ("POSTGRES_URL", "postgresql://", "no host"),
        ("POSTGRES_URL", "postgresql://db/profiles?sslmode=on", "verify-full"),
        ("REDIS_URL", "redis://cache:port", "bad port"),
        ("SAVEPOINT_URL", "ftp://host/x", "unknown scheme"),
        ("SAVEPOINT_URL", "s3://", "no bucket"),
        ("MAX_DRIFT_MS", "1e3", "whole number"),
    ],
)
def test_a_bad_value_is_refused_naming_the_variable_and_what_is_allowed(name: str, value: str, says: str) -> None:
    text = refusal(**{name: value})
    assert text.startswith(f"FAMULUS_{name}=")
    assert says in text


def test_with_a_tokens_file_any_address_may_be_bound(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("")
    settings = read(TOKENS_FILE=str(tokens), WEB_BIND="0.0.0.0")
    assert (settings.tokens_file, settings.web_bind) == (tokens, "0.0.0.0")


def test_settings_made_in_code_are_bound_by_the_same_safety_rules() -> None:
    with pytest.raises(SettingsError, match="loopback"):
        Settings(web_bind="0.0.0.0")


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "redis-url"
    file.write_text("redis://:secret@cache/0\n")
    assert read(REDIS_URL_FILE=str(file)).redis_url == "redis://:secret@cache/0"


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://one")
    assert "both set" in refusal(REDIS_URL_FILE=str(file), REDIS_URL="redis://two")


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal(REDIS_URL_FILE=str(tmp_path / "gone")).startswith("FAMULUS_REDIS_URL_FILE=")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(POSTGRES_URL_FILE=str(binary))


def test_a_bad_secret_in_a_file_is_refused_in_the_name_of_its_file_variable(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("mysql://me:hunter2@db")
    text = refusal(POSTGRES_URL_FILE=str(file))
    assert text.startswith("FAMULUS_POSTGRES_URL_FILE=***")
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_URL", "mysql://me:hunter2@db"),
        ("POSTGRES_URL", "hunter2"),
        ("REDIS_URL", "redis://cache:hunter2"),
        ("BROKER", "kafka://me:hunter2@host:9092"),
        ("BROKER", "amqp://me:hunter2@host"),
    ],
)
def test_a_refusal_shows_no_password(name: str, value: str) -> None:
    assert "hunter2" not in refusal(**{name: value})


def test_what_is_printed_of_settings_holds_no_password() -> None:
    settings = read(
        POSTGRES_URL="postgresql://me:hunter2@db/profiles?password=hunter2", REDIS_URL="redis://:hun@ter2@cache"
    )
    for text in (repr(settings), str(settings), f"{settings}", str(settings.shown())):
        assert "hunter2" not in text
        assert "ter2" not in text
    assert settings.shown()["FAMULUS_POSTGRES_URL"] == "postgresql://me:***@db/profiles?password=***"
    assert settings.shown()["FAMULUS_REDIS_URL"] == "redis://:***@cache"


def test_a_control_character_in_a_bad_value_stays_on_one_line() -> None:
    assert "\\x1b" in refusal(APP_ID="a\x1b[2J\nb")


def test_an_address_without_a_password_is_shown_as_it_is() -> None:
    assert masked("kafka://one:9092,two:9092") == "kafka://one:9092,two:9092"
    assert masked("redis://cache:6379/0") == "redis://cache:6379/0"


def test_kafka_hosts_are_pairs_of_host_and_port() -> None:
    assert kafka_hosts("kafka://one:9092,[::1]:9093") == (("one", 9092), ("::1", 9093))
    assert read(BROKER="kafka://[::1]").broker == "kafka://[::1]:9092"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().web_port = 1  # type: ignore[misc]


def test_the_web_address_brackets_an_ipv6_host() -> None:
    assert Settings(web_bind="::1", web_port=80).web_url == "http://[::1]:80"
