"""aiokafka's log without its echo: while a broker is away every client of ours tries again many times a second, and says so each time."""

from __future__ import annotations

import logging
from time import monotonic

#: The same sentence is logged at most once in so many seconds.
ECHO_SECONDS = 10.0
#: Sentences remembered.
_REMEMBERED = 500

#: Said at each connection with SASL_PLAINTEXT and PLAIN, which whoever set them knows.
_AS_WANTED = "Sending username and password in the clear"

_LOGGERS = (
    "aiokafka",
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
)


class Echo(logging.Filter):
    """Lets a sentence pass once in ``ECHO_SECONDS`` and then tells how often it was held back."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        sentence, now = record.getMessage(), monotonic()
        at, held = self._passed.get(sentence, (now - ECHO_SECONDS, 0))
        if now - at < ECHO_SECONDS:
            self._passed[sentence] = at, held + 1
            return False
        if len(self._passed) >= _REMEMBERED:
            self._passed.clear()
        self._passed[sentence] = now, 0
        if held:
            record.msg, record.args = f"{sentence} (and {held} times more)", ()
        return True


_ECHO = Echo()


def expected() -> None:
    """Once or often, for commands as well: what the settings ask for is no warning."""
    logging.getLogger("aiokafka.conn").addFilter(_unexpected)


def _unexpected(record: logging.LogRecord) -> bool:
    return record.msg != _AS_WANTED


def install() -> None:
    """Once or often: the filter is the same."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_ECHO)
