"""Where the brokers are and how to connect to them: the arguments that every aiokafka client of ours is made with."""

from __future__ import annotations

import ssl
from typing import Any

from app.transport.credentials import OPEN, Credentials
from app.transport.kafka import quiet
from models.errors import SettingsError

DEFAULT_PORT = 9092
#: Whatever listens at the address has so long, over all servers, to answer as a broker; each server has so long at least.
FIRST_ANSWER_SECONDS = 6.0
SERVER_SECONDS = 2.0


class Connection:
    """A ``kafka://HOST:PORT,HOST:PORT`` address with credentials.  Opens nothing by itself."""

    def __init__(self, broker_url: str, credentials: Credentials = OPEN) -> None:
        scheme, separator, rest = broker_url.partition("://")
        if scheme != "kafka" or not separator or not rest.strip("/"):
            raise SettingsError(f"{broker_url}: not an address of Kafka; use kafka://HOST:PORT,HOST:PORT")
        self.url = broker_url
        self.servers = [_with_port(server) for server in rest.strip("/").split(",")]
        self.credentials = credentials
        quiet.expected()

    def arguments(self, role: str) -> dict[str, Any]:
        """Keyword arguments for an aiokafka client; ``role`` tells its connections apart in the broker's logs and metrics."""
        given = self.credentials
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "client_id": f"{given.client_id}-{role}",
            "security_protocol": str(given.protocol),
        }
        if given.protocol.tls:
            arguments["ssl_context"] = self._tls()
        if given.protocol.sasl:
            arguments["sasl_mechanism"] = str(given.mechanism)
            arguments["sasl_plain_username"] = given.username
            arguments["sasl_plain_password"] = given.password
        return arguments

    @property
    def first_answer_ms(self) -> int:
        """How long one server of the address may take for its first answer: with all of them silent, commands and workers still end soon."""
        return int(1000 * max(SERVER_SECONDS, FIRST_ANSWER_SECONDS / len(self.servers)))

    def _tls(self) -> ssl.SSLContext:
        given = self.credentials
        try:
            context = ssl.create_default_context(cafile=given.ca_file)
            if given.cert_file is not None:
                context.load_cert_chain(given.cert_file, given.key_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"the TLS files for {self.url} cannot be used ({error}); check FAMULUS_KAFKA_SSL_CAFILE, _CERTFILE and _KEYFILE"
            ) from error
        return context


def _with_port(server: str) -> str:
    host, separator, port = server.strip().rpartition(":")
    return server.strip() if separator and port.isdigit() and host else f"{server.strip()}:{DEFAULT_PORT}"
