"""How a client shows a broker who it is, and how the connection is protected."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import SettingsError


class SecurityProtocol(enum.StrEnum):
    """Kafka's names for what a connection is made of."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def sasl(self) -> bool:
        return self.startswith("SASL_")

    @property
    def tls(self) -> bool:
        return self.endswith("SSL")


class SaslMechanism(enum.StrEnum):
    """How user and password are proved."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The default is a client without a name on an open connection."""

    client_id: str = "famulus"
    protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    mechanism: SaslMechanism = SaslMechanism.PLAIN
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    #: PEM file of the authorities to trust, ``None`` for the system's
    ca_file: Path | None = None
    #: PEM files of the client's own certificate and key
    cert_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if self.protocol.sasl and (self.username is None or self.password is None):
            raise SettingsError(
                f"FAMULUS_KAFKA_SECURITY_PROTOCOL={self.protocol}: set FAMULUS_KAFKA_SASL_USERNAME and "
                "FAMULUS_KAFKA_SASL_PASSWORD (or FAMULUS_KAFKA_SASL_PASSWORD_FILE), too"
            )
        if not self.protocol.sasl and (self.username is not None or self.password is not None):
            raise SettingsError(
                f"FAMULUS_KAFKA_SECURITY_PROTOCOL={self.protocol}: a user or password is set but would not be used; "
                "use SASL_PLAINTEXT or SASL_SSL"
            )
        if not self.protocol.tls and (self.ca_file or self.cert_file or self.key_file):
            raise SettingsError(
                f"FAMULUS_KAFKA_SECURITY_PROTOCOL={self.protocol}: FAMULUS_KAFKA_SSL_... files are set but would not be "
                "used; use SSL or SASL_SSL"
            )
        if self.key_file is not None and self.cert_file is None:
            raise SettingsError("FAMULUS_KAFKA_SSL_KEYFILE is set without FAMULUS_KAFKA_SSL_CERTFILE; set both")


#: A client without a name on an open connection.
OPEN = Credentials()
