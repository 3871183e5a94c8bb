"""How the connection to Kafka is described: credentials that go together, and an address with defaults."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from app.settings import Settings
from app.transport.credentials import Credentials, SaslMechanism, SecurityProtocol
from app.transport.kafka.connection import Connection
from models.errors import SettingsError


def read(**variables: str) -> Settings:
    return Settings.from_env({f"FAMULUS_{name}": value for name, value in variables.items()})


def test_an_open_connection_is_the_default() -> None:
    assert read().credentials == Credentials()


def test_user_and_password_come_from_variables_or_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    credentials = read(
        CLIENT_ID="fraud-eu",
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA_SASL_USERNAME="ann",
        KAFKA_SASL_PASSWORD_FILE=str(secret),
    ).credentials
    assert credentials == Credentials(
        client_id="fraud-eu",
        protocol=SecurityProtocol.SASL_PLAINTEXT,
        mechanism=SaslMechanism.SCRAM_SHA_512,
        username="ann",
        password="hunter2",
    )


def test_what_is_printed_holds_no_password() -> None:
    settings = read(KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT", KAFKA_SASL_USERNAME="ann", KAFKA_SASL_PASSWORD="hunter2")
    assert "hunter2" not in f"{settings!r} {settings.shown()} {settings.credentials!r}"
    assert settings.shown()["FAMULUS_KAFKA_SASL_PASSWORD"] == "***"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "FAMULUS_KAFKA_SASL_USERNAME"),
        ({"KAFKA_SASL_USERNAME": "ann", "KAFKA_SASL_PASSWORD": "x"}, "SASL_PLAINTEXT"),
        ({"KAFKA_SSL_CAFILE": __file__}, "FAMULUS_KAFKA_SSL_"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEYFILE": __file__}, "FAMULUS_KAFKA_SSL_CERTFILE"),
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "SASL_PLAINTEXT"),
        ({"KAFKA_SASL_MECHANISM": "GSSAPI"}, "SCRAM-SHA-256"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(variables: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read(**variables)


def test_a_server_without_a_port_gets_kafkas_own() -> None:
    assert Connection("kafka://one,two:9093,[::1]:7").servers == ["one:9092", "two:9093", "[::1]:7"]


@pytest.mark.parametrize("address", ["kafka://", "embedded://var", "one:9092"])
def test_an_address_that_is_not_kafkas_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="kafka://HOST:PORT"):
        Connection(address)


def test_every_client_gets_the_same_way_to_connect_and_a_name_of_its_own() -> None:
    arguments = Connection(
        "kafka://one",
        Credentials(
            client_id="eu",
            protocol=SecurityProtocol.SASL_SSL,
            mechanism=SaslMechanism.SCRAM_SHA_256,
            username="ann",
            password="x",
        ),
    ).arguments("reader")
    context = arguments.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert arguments == {
        "bootstrap_servers": ["one:9092"],
        "client_id": "eu-reader",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "ann",
        "sasl_plain_password": "x",
    }


def test_a_file_that_is_no_certificate_is_named_before_anything_is_sent() -> None:
    connection = Connection("kafka://one", Credentials(protocol=SecurityProtocol.SSL, ca_file=Path(__file__)))
    with pytest.raises(SettingsError, match="FAMULUS_KAFKA_SSL_CAFILE"):
        connection.arguments("reader")
