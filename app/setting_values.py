"""How the text of a setting becomes its value: each reader raises ``ValueError`` with what is wrong with the text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from app.transport.embedded.location import locate
from models.errors import SettingsError

KAFKA_PORT = 9092
#: Names that ``FAMULUS_JOBS`` may list.
JOBS = ("fraud", "sessions", "profiles", "orders", "enrichment", "insights")

_APP_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})")
_PASSWORD = re.compile(r"(?i)(://[^/@:\s]*:)\S*(@)|\b((?:password|passwd|secret|token)=)[^&'\s]*")


def masked(text: str) -> str:
    """``text`` with the password of every URL and of every ``password=...`` in it replaced by ``***``."""
    return _PASSWORD.sub(lambda m: f"{m[1] or m[3]}***{m[2] or ''}", text)


def is_loopback(host: str) -> bool:
    """Whether binding ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def kafka_hosts(broker: str) -> tuple[tuple[str, int], ...]:
    """Hosts and ports of a ``kafka://`` URL; the port is 9092 where none is given.

    Raises ``ValueError`` with what is wrong.
    """
    scheme, separator, rest = broker.partition("://")
    if scheme != "kafka" or not separator:
        raise ValueError("not a kafka:// address")
    if "@" in rest:
        raise ValueError("a user and password do not belong in the address")
    return tuple(_host_port(part.strip()) for part in rest.removesuffix("/").split(","))


def _host_port(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if text.startswith("["):
        inner, bracket, tail = text[1:].partition("]")
        host, separator, port = inner, tail[:1], tail[1:]
        if not bracket or (tail and separator != ":"):
            raise ValueError(f"{text!r} lacks its closing bracket")
        ipaddress.IPv6Address(host)
    elif not separator:
        host, port = text, ""
    if not text.startswith("[") and not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} is no HOST:PORT")
    if not separator:
        return host, KAFKA_PORT
    return host, whole(port, 1, 65535)


def whole(text: str, low: int, high: int) -> int:
    """A whole number in decimal digits, bounds included."""
    if not re.fullmatch(r"[0-9]{1,15}", text) or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is no whole number from {low} to {high}")
    return int(text)


def broker(text: str) -> str:
    """A broker's address, with its ports."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "embedded":
        if not rest.partition("?")[0].strip("/"):
            raise ValueError("the path is missing")
        try:
            locate(text)
        except SettingsError as error:
            raise ValueError(str(error).removeprefix(f"{text}: ")) from None
        return text
    if separator and scheme == "kafka":
        hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in kafka_hosts(text))
        return f"kafka://{','.join(hosts)}"
    raise ValueError(f"unknown scheme {scheme!r}" if separator else "no scheme")


def app_id(text: str) -> str:
    """A name that may stand in topic names."""
    if not _APP_ID.fullmatch(text):
        raise ValueError("it becomes part of topic names")
    return text


def job_list(text: str) -> tuple[str, ...]:
    """Names of jobs, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in JOBS]
    if unknown or not names:
        raise ValueError(f"unknown job {', '.join(unknown)}" if unknown else "no name in it")
    return names


def milliseconds(low: int, high: int) -> Callable[[str], timedelta]:
    """A reader of a time in milliseconds, bounds included."""
    return lambda text: timedelta(milliseconds=whole(text, low, high))


def store(text: str) -> str:
    """The address of a state store."""
    if text not in ("memory://", "rocksdb://"):
        raise ValueError("unknown store")
    return text


def path(text: str) -> Path:
    """A path, which need not exist."""
    if "\0" in text:
        raise ValueError("a path has no NUL")
    return Path(text)


def file(text: str) -> Path:
    """A file that exists."""
    named = path(text)
    if not named.is_file():
        raise ValueError("no such file")
    return named


def bind(text: str) -> str:
    """An address to listen on."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if not _HOST.fullmatch(text):
            raise ValueError("neither an address nor a host name") from None
        return text


def url(*schemes: str) -> Callable[[str], str]:
    """A reader of URLs of these schemes; its errors show nothing of the URL, which may hold a password."""

    def read(text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in schemes:
            raise ValueError("unknown scheme")
        if not parts.hostname and not parts.path.strip("/"):
            raise ValueError("no host")
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("bad port") from None
        return text

    return read


#: libpq's; asyncpg takes the same.
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def postgres(text: str) -> str:
    """The URL of a PostgreSQL database."""
    read = url("postgresql", "postgres")(text)
    for mode in parse_qs(urlsplit(text).query).get("sslmode", ()):
        if mode not in _SSL_MODES:
            raise ValueError(f"unknown sslmode; there are {', '.join(_SSL_MODES)}")
    return read


def savepoint(text: str) -> str:
    """A folder or the URL of an object store."""
    scheme, separator, rest = text.partition("://")
    if separator and (scheme not in ("s3", "gs", "az") or not rest.strip("/")):
        raise ValueError(f"unknown scheme {scheme!r}" if scheme not in ("s3", "gs", "az") else "no bucket")
    return text
