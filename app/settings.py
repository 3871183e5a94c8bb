"""Settings: the ``FAMULUS_`` environment variables, read once into a frozen value.

A variable is one entry of :data:`VARIABLES`.  An unknown name or a bad value raises
:class:`models.errors.SettingsError`, which names the variable, shows the value (masked where it may hold a secret) and
says what is allowed.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from agents.operator.timers import TimeDomain
from app import setting_values as values
from app.setting_values import JOBS, is_loopback, kafka_hosts, masked
from app.transport.credentials import Credentials, SaslMechanism, SecurityProtocol
from models.errors import SettingsError
from models.time import millis

PREFIX = "FAMULUS_"
#: Fields that are a secret from the first to the last character.
_PASSWORDS = frozenset({"kafka_sasl_password"})


class EnrichmentOrder(enum.StrEnum):
    """Whether enriched events leave in the order of the events, or each as its profile comes."""

    ORDERED = "ordered"
    UNORDERED = "unordered"


class ProcessingGuarantee(enum.StrEnum):
    """What a consumer of the outputs may count on; state is exactly once in both."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Everything an operator of Famulus can set.  Immutable; its ``repr`` holds no password."""

    broker: str = "embedded://var/famulus"
    app_id: str = "famulus"
    #: Jobs to run, ``None`` for all.
    jobs: tuple[str, ...] | None = None
    processing_guarantee: ProcessingGuarantee = ProcessingGuarantee.EXACTLY_ONCE
    #: Time between two transactions of a source partition.
    commit_interval: timedelta = timedelta(milliseconds=50)
    store: str = "memory://"
    data_dir: Path = Path("var")
    web_bind: str = "127.0.0.1"
    web_port: int = 6066
    tokens_file: Path | None = None
    postgres_url: str | None = None
    redis_url: str | None = None
    #: Lookups of profiles in flight, and connections kept for them.
    enrichment_capacity: int = 50
    enrichment_order: EnrichmentOrder = EnrichmentOrder.ORDERED
    #: Which clock the five minutes count by that orders and payments wait for each other.
    join_time: TimeDomain = TimeDomain.EVENT
    savepoint_url: str = "var/savepoints"
    #: A record this far ahead of this machine's clock is a bad record.
    max_drift: timedelta = timedelta(hours=2)
    #: Workers that follow each partition's changelog besides its owner.
    standby_replicas: int = 0
    #: A partition with records that has not moved for so long makes the worker not ready, and after twice that time end.
    stall_timeout: timedelta = timedelta(seconds=60)
    #: Name of this program in the broker's logs, metrics and quotas.
    client_id: str = "famulus"
    kafka_security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    kafka_sasl_mechanism: SaslMechanism = SaslMechanism.PLAIN
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = None
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None

    def __post_init__(self) -> None:
        _ = self.credentials  # refuses what does not go together
        if self.tokens_file is None and not is_loopback(self.web_bind):
            raise SettingsError(
                f"FAMULUS_WEB_BIND={self.web_bind}: without FAMULUS_TOKENS_FILE the web server is open to whoever "
                "reaches it, so it binds loopback only; use 127.0.0.1, ::1 or localhost"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read every ``FAMULUS_`` variable of ``environ``; an empty value counts as not set.

        Raises :class:`models.errors.SettingsError` for the first unknown name or bad value.
        """
        known = {name for variable in VARIABLES for name in variable.names()}
        for name in sorted(environ):
            if name.startswith(PREFIX) and name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
                raise SettingsError(f"{name}: no such setting; {hint}")
        given = {variable.field: variable.read(environ) for variable in VARIABLES}
        return cls(**{field: value for field, value in given.items() if value is not None})

    @property
    def credentials(self) -> Credentials:
        """How clients of a Kafka broker show who they are."""
        return Credentials(
            client_id=self.client_id,
            protocol=self.kafka_security_protocol,
            mechanism=self.kafka_sasl_mechanism,
            username=self.kafka_sasl_username,
            password=self.kafka_sasl_password,
            ca_file=self.kafka_ssl_cafile,
            cert_file=self.kafka_ssl_certfile,
            key_file=self.kafka_ssl_keyfile,
        )

    @property
    def web_url(self) -> str:
        """Where the web server of a local worker answers."""
        host = f"[{self.web_bind}]" if ":" in self.web_bind else self.web_bind
        return f"http://{host}:{self.web_port}"

    def shown(self) -> dict[str, str]:
        """Variable name -> value as text, secrets masked, unset ones left out."""
        shown = {}
        for variable in VARIABLES:
            value = getattr(self, variable.field)
            if value is not None:
                shown[variable.name] = "***" if variable.field in _PASSWORDS else masked(_text(value))
        return shown

    def __repr__(self) -> str:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        held |= {name: "***" for name in _PASSWORDS if held[name] is not None}
        return f"Settings({', '.join(f'{name}={masked(repr(value))}' for name, value in held.items())})"


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: the field it sets, how its text is read, what is allowed, whether it is a secret."""

    name: str
    field: str
    parse: Callable[[str], Any]
    allowed: str
    secret: bool = False

    def names(self) -> tuple[str, ...]:
        """The variable, and for a secret the one that names a file with its value."""
        return (self.name, f"{self.name}_FILE") if self.secret else (self.name,)

    def read(self, environ: Mapping[str, str]) -> Any:
        """The parsed value, or ``None`` where the variable is not set."""
        name, text = self.name, environ.get(self.name) or None
        if self.secret and (path := environ.get(f"{self.name}_FILE")):
            if text is not None:
                raise SettingsError(f"{self.name} and {self.name}_FILE are both set; unset one of them")
            name, text = f"{self.name}_FILE", _secret_of(f"{self.name}_FILE", path)
        if text is None:
            return None
        try:
            return self.parse(text)
        except ValueError as error:
            value = "***" if self.secret else _shown(text)
            raise SettingsError(f"{name}={value}: {_shown(str(error))}; allowed: {self.allowed}") from None


def _secret_of(name: str, path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(65536).rstrip("\r\n") or None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{name}={path}: cannot read the file ({reason}); name a readable text file") from None


def _shown(text: str) -> str:
    """``text`` fit for one line of a terminal: masked, printable, bounded."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in masked(text))
    return line if len(line) <= 200 else f"{line[:200]}..."


def _text(value: object) -> str:
    if isinstance(value, timedelta):
        return str(millis(value))
    return ",".join(value) if isinstance(value, tuple) else str(value)


VARIABLES = (
    Variable("FAMULUS_BROKER", "broker", values.broker, "embedded://PATH or kafka://HOST:PORT,HOST:PORT"),
    Variable("FAMULUS_APP_ID", "app_id", values.app_id, "1 to 100 of A-Z a-z 0-9 . _ -, not starting with a dot"),
    Variable("FAMULUS_JOBS", "jobs", values.job_list, f"a comma list of {', '.join(JOBS)}"),
    Variable(
        "FAMULUS_PROCESSING_GUARANTEE", "processing_guarantee", ProcessingGuarantee, ", ".join(ProcessingGuarantee)
    ),
    Variable(
        "FAMULUS_COMMIT_INTERVAL_MS", "commit_interval", values.milliseconds(1, 60_000), "milliseconds from 1 to 60000"
    ),
    Variable("FAMULUS_STORE", "store", values.store, "memory:// or rocksdb://"),
    Variable("FAMULUS_DATA_DIR", "data_dir", values.path, "a folder"),
    Variable("FAMULUS_WEB_BIND", "web_bind", values.bind, "an address or host name of this machine"),
    Variable("FAMULUS_WEB_PORT", "web_port", lambda text: values.whole(text, 1, 65535), "a port from 1 to 65535"),
    Variable("FAMULUS_TOKENS_FILE", "tokens_file", values.file, "a TOML file"),
    Variable(
        "FAMULUS_POSTGRES_URL",
        "postgres_url",
        values.postgres,
        "postgresql://USER@HOST/DB",
        secret=True,
    ),
    Variable(
        "FAMULUS_REDIS_URL", "redis_url", values.url("redis", "rediss", "unix"), "redis://HOST:PORT/DB", secret=True
    ),
    Variable(
        "FAMULUS_ENRICHMENT_CAPACITY",
        "enrichment_capacity",
        lambda text: values.whole(text, 1, 1000),
        "a number from 1 to 1000",
    ),
    Variable("FAMULUS_ENRICHMENT_ORDER", "enrichment_order", EnrichmentOrder, ", ".join(EnrichmentOrder)),
    Variable("FAMULUS_JOIN_TIME", "join_time", TimeDomain, ", ".join(TimeDomain)),
    Variable("FAMULUS_SAVEPOINT_URL", "savepoint_url", values.savepoint, "a folder, s3://, gs:// or az://"),
    Variable(
        "FAMULUS_MAX_DRIFT_MS", "max_drift", values.milliseconds(0, 366 * 86_400_000), "milliseconds from 0 to a year"
    ),
    Variable(
        "FAMULUS_STANDBY_REPLICAS", "standby_replicas", lambda text: values.whole(text, 0, 10), "a number from 0 to 10"
    ),
    Variable(
        "FAMULUS_STALL_TIMEOUT_MS",
        "stall_timeout",
        values.milliseconds(1000, 86_400_000),
        "milliseconds from 1000 to a day",
    ),
    Variable("FAMULUS_CLIENT_ID", "client_id", values.app_id, "1 to 100 of A-Z a-z 0-9 . _ -, not starting with a dot"),
    Variable(
        "FAMULUS_KAFKA_SECURITY_PROTOCOL", "kafka_security_protocol", SecurityProtocol, ", ".join(SecurityProtocol)
    ),
    Variable("FAMULUS_KAFKA_SASL_MECHANISM", "kafka_sasl_mechanism", SaslMechanism, ", ".join(SaslMechanism)),
    Variable("FAMULUS_KAFKA_SASL_USERNAME", "kafka_sasl_username", str, "a user name"),
    Variable("FAMULUS_KAFKA_SASL_PASSWORD", "kafka_sasl_password", str, "a password", secret=True),
    Variable("FAMULUS_KAFKA_SSL_CAFILE", "kafka_ssl_cafile", values.file, "a PEM file"),
    Variable("FAMULUS_KAFKA_SSL_CERTFILE", "kafka_ssl_certfile", values.file, "a PEM file"),
    Variable("FAMULUS_KAFKA_SSL_KEYFILE", "kafka_ssl_keyfile", values.file, "a PEM file"),
)

__all__ = [
    "JOBS",
    "VARIABLES",
    "EnrichmentOrder",
    "ProcessingGuarantee",
    "Settings",
    "Variable",
    "is_loopback",
    "kafka_hosts",
    "masked",
]
