"""Dead letters: the bytes of a record that could not be taken, with the reason in its headers."""

from __future__ import annotations

from models.errors import BadRecord

#: header names, in the order they are written
TOPIC = "origin-topic"
PARTITION = "origin-partition"
OFFSET = "origin-offset"
ERROR_CLASS = "error-class"
ERROR_MESSAGE = "error-message"
APP = "app"
APP_VERSION = "app-version"
ATTEMPT = "attempt"

#: longer reasons are cut: a hostile record must not write a hostile header
MAX_MESSAGE = 1000


def attempt_of(headers: object) -> int:
    """How often the record was replayed before: the ``attempt`` header, 0 without one."""
    for name, value in headers or ():  # type: ignore[attr-defined]
        if name == ATTEMPT and isinstance(value, bytes) and value.isdigit():
            return int(value[:9])
    return 0


def dead_letter_headers(
    topic: str, partition: int, offset: int, reason: BaseException, *, app: str, version: str, attempt: int
) -> list[tuple[str, bytes]]:
    """Headers of a dead letter.  ``attempt`` counts from 1."""
    message = str(reason) or type(reason).__name__
    name = "BadRecord" if isinstance(reason, BadRecord) else type(reason).__name__
    return [
        (TOPIC, topic.encode()),
        (PARTITION, b"%d" % partition),
        (OFFSET, b"%d" % offset),
        (ERROR_CLASS, name.encode()),
        (ERROR_MESSAGE, message[:MAX_MESSAGE].encode()),
        (APP, app.encode()),
        (APP_VERSION, version.encode()),
        (ATTEMPT, b"%d" % attempt),
    ]
