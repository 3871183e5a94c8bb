"""Dead letters: the bytes of a record that could not be taken, with the reason in its headers.

A timer whose function raised is a dead letter, too: the timer's key, no value, offset -1, and the timer in headers of its own.
"""

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
OPERATOR = "operator"
ATTEMPT = "attempt"
#: of a timer's dead letter only: whose clock it followed (``event``, ``processing``), and its time in ms
TIMER_DOMAIN = "timer-domain"
TIMER_TIME = "timer-time"

#: the origin offset of what never was a record
NO_OFFSET = -1

#: longer reasons are cut: a hostile record must not write a hostile header
MAX_MESSAGE = 1000


def attempt_of(headers: object) -> int:
    """How often the record was replayed before: the ``attempt`` header, 0 without one."""
    for name, value in headers or ():  # type: ignore[attr-defined]
        if name == ATTEMPT and isinstance(value, bytes) and value.isdigit():
            return int(value[:9])
    return 0


def dead_letter_headers(
    topic: str,
    partition: int,
    offset: int,
    reason: BaseException,
    *,
    app: str,
    version: str,
    operator: str,
    attempt: int,
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
        (OPERATOR, operator.encode()),
        (ATTEMPT, b"%d" % attempt),
    ]
