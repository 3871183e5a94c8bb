"""Where an embedded log lives: ``embedded://PATH``, parsed once for the client, the reader and the Faust driver."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from models.errors import SettingsError

SCHEME = "embedded"


class Synchronous(Enum):
    """What a commit waits for.  ``FULL``: the disk; ``NORMAL`` and ``OFF`` may lose the last commits when the power fails."""

    FULL = "full"
    NORMAL = "normal"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Location:
    """An absolute directory and how durable its commits are."""

    directory: Path
    synchronous: Synchronous = Synchronous.FULL

    @property
    def file(self) -> Path:
        return self.directory / "log.sqlite3"

    @property
    def url(self) -> str:
        """The same place as an absolute URL.  Faust lower-cases what looks like a host name; an absolute path has none."""
        query = "" if self.synchronous is Synchronous.FULL else f"?synchronous={self.synchronous.value}"
        return f"{SCHEME}://{self.directory}{query}"


def locate(broker_url: str) -> Location:
    """Parse ``embedded://relative/path``, ``embedded:///absolute/path``, optionally with ``?synchronous=full|normal|off``.

    A relative path starts at the working directory.  Raises :class:`models.errors.SettingsError`.
    """
    parts = urlsplit(broker_url)
    if parts.scheme != SCHEME:
        raise SettingsError(f"{broker_url}: not an {SCHEME}:// URL")
    path = unquote(parts.netloc + parts.path)
    if not path:
        raise SettingsError(f"{broker_url}: no path; use {SCHEME}://var/famulus or {SCHEME}:///an/absolute/path")
    synchronous = Synchronous.FULL
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "synchronous" or value not in {mode.value for mode in Synchronous}:
            raise SettingsError(f"{broker_url}: unknown option {name}={value}; known: synchronous=full|normal|off")
        synchronous = Synchronous(value)
    return Location(Path.cwd() / path, synchronous)
