"""The transports by the scheme of a broker's address.  Each is imported when it is wanted."""

from __future__ import annotations

from app.transport.client import BrokerClient
from app.transport.credentials import OPEN, Credentials
from models.errors import SettingsError


def connect(broker: str, credentials: Credentials = OPEN) -> BrokerClient:
    """Client for a broker URL: ``embedded://PATH`` or ``kafka://HOST:PORT,...``; only Kafka asks for credentials."""
    scheme = broker.partition("://")[0]
    if scheme == "embedded":
        from app.transport.embedded.client import EmbeddedClient

        return EmbeddedClient(broker)
    if scheme == "kafka":
        from app.transport.kafka.client import KafkaClient

        return KafkaClient(broker, credentials)
    raise SettingsError(f"FAMULUS_BROKER: unknown scheme {scheme!r}; use embedded://PATH or kafka://HOST:PORT")


def faust_url(broker: str) -> str:
    """The broker URL as Faust may have it: it lower-cases what looks like a host name, so a path must be absolute."""
    if broker.partition("://")[0] == "embedded":
        from app.transport.embedded.location import locate

        return locate(broker).url
    return broker
