"""The exception tree: each error says what happened, to what, and what to do next."""

from __future__ import annotations


class FamulusError(Exception):
    """Base of every error that Famulus raises on purpose.  Its text is meant for the person at the terminal."""


def described(error: BaseException, most: int = 200) -> str:
    """An error of a library in one line: its kind, and its text if it has one."""
    text = " ".join(str(error).split())[:most]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class SettingsError(FamulusError):
    """A setting is unknown or has a bad value.  Correct the named variable and start again."""


class BadRecord(FamulusError):
    """A record that cannot be taken: it goes to the dead letter topic with this text as the reason."""


class RuleRefused(FamulusError):
    """A rule that was not admitted; the running rules stay as they are.

    ``line`` and ``column`` count from 1 within the rule's ``when`` text; both are 0 where the fault is not there.
    """

    def __init__(self, message: str, *, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class StateError(FamulusError):
    """Keyed state was declared or used in a way that cannot work; the text names the operator and the state."""


class StateUnavailable(FamulusError):
    """The state is being recovered or belongs to no worker right now.  Ask again in a moment."""


class NotFound(FamulusError):
    """What was asked for does not exist."""


class LogError(FamulusError):
    """The log (Kafka or the embedded one) refused or lost an operation; nothing was acknowledged."""


class LogUnavailable(LogError):
    """The log cannot be reached or opened."""


class LogUnreachable(LogUnavailable):
    """No broker answers at the moment.  A worker that has once heard of one waits until it comes back."""


class LogCorrupt(LogError):
    """The log's file is damaged.  Stop, keep the file, and restore it from a copy."""


class Stalled(FamulusError):
    """Records wait and none is processed.  The process ends so that a fresh one can go on; look into its log for the cause."""


class RecordTooLarge(LogError):
    """A record is larger than the log takes."""


class UnknownTopic(LogError, NotFound):
    """The topic does not exist."""


class Fenced(LogError):
    """Another worker took this one's place.  This process must end; start it again to join as a spare."""


class VersionConflict(FamulusError):
    """A rule was changed by somebody else meanwhile: read it again and decide anew.  ``current`` is its version now."""

    def __init__(self, message: str, *, current: int | None) -> None:
        super().__init__(message)
        self.current = current
