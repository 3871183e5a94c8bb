"""aiokafka's errors in our own words."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as kafka

from models.errors import Fenced, LogError, LogUnavailable, LogUnreachable, RecordTooLarge, UnknownTopic

_FENCED = (kafka.ProducerFenced, kafka.InvalidProducerEpoch, kafka.InvalidProducerIdMapping)


class FencedInstanceId(kafka.BrokerResponseError):  # type: ignore[misc]
    """FENCED_INSTANCE_ID, which aiokafka would call an unknown error."""

    errno = 82
    message = "FENCED_INSTANCE_ID"
    description = "another member has joined the group under this one's instance id"


kafka.kafka_errors.setdefault(FencedInstanceId.errno, FencedInstanceId)

_TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError, kafka.RecordTooLargeError)
_REFUSED = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
)
_NOT_LOGGED_IN = (
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
    kafka.AuthenticationMethodNotSupported,
    kafka.IllegalSaslStateError,
)
_UNREACHABLE = (
    kafka.KafkaConnectionError,
    kafka.NodeNotReadyError,
    kafka.NoBrokersAvailable,
    kafka.KafkaTimeoutError,
    kafka.RequestTimedOutError,
    kafka.StaleMetadata,
)


def in_our_words(error: Exception, what: str) -> LogError:
    """The error for what happened to ``what``."""
    reason = str(error) or type(error).__name__
    if isinstance(error, _FENCED):
        return Fenced(f"{what}: another worker has taken over ({type(error).__name__})")
    # aiokafka wraps it, as a text, in an error of its own.
    if isinstance(error, FencedInstanceId) or FencedInstanceId.__name__ in reason:
        return Fenced(
            f"{what}: another worker has taken this one's place in the group: it has the same host name and the same FAMULUS_WEB_PORT; "
            "give each worker of the application a port of its own, or each container a host name of its own"
        )
    if isinstance(error, _TOO_LARGE):
        return RecordTooLarge(f"{what}: larger than the topic takes ({reason}); raise the topic's max.message.bytes")
    if isinstance(error, kafka.UnknownTopicOrPartitionError):
        return UnknownTopic(f"{what}: there is no such topic or partition; create it, or start a worker, which does")
    if isinstance(error, _REFUSED):
        return LogError(f"{what}: the broker does not allow it ({reason}); grant this user the right")
    if isinstance(error, _NOT_LOGGED_IN):
        return LogUnavailable(
            f"{what}: the broker does not accept the user ({reason}); check FAMULUS_KAFKA_SASL_... and _SECURITY_PROTOCOL"
        )
    if (
        isinstance(error, (*_UNREACHABLE, OSError, TimeoutError))
        or getattr(error, "retriable", False)
        or _wrapped(reason)
    ):
        return LogUnreachable(f"{what}: Kafka cannot be reached ({reason}); start it or correct FAMULUS_BROKER")
    return LogError(f"{what}: {type(error).__name__}: {reason}; see the broker's log")


def _wrapped(reason: str) -> bool:
    """Whether aiokafka has made a text of an error that says that the broker is away."""
    return any(kind.__name__ in reason for kind in _UNREACHABLE)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise errors of Kafka from the body as :class:`models.errors.LogError`."""
    try:
        yield
    except (kafka.KafkaError, kafka.IllegalOperation, OSError, TimeoutError) as error:
        raise in_our_words(error, what) from error


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def connecting(url: str) -> Iterator[None]:
    """As :func:`translated`, for the first contact with a cluster: aiokafka only logs why each server refused, so listen to its log."""
    heard = _Heard()
    log = logging.getLogger("aiokafka")
    log.addHandler(heard)
    try:
        yield
    except (kafka.KafkaError, OSError, TimeoutError) as error:
        said = (text + "no answer as from a broker" if text.endswith(": ") else text for text in heard.messages)
        reasons = "; ".join(dict.fromkeys(said)) or str(error)
        said_no = f"{url}: no connection to Kafka ({reasons}); "
        if any(word in reasons for word in ("Sasl", "Authentication", "CERTIFICATE", "SSL")):
            raise LogUnavailable(
                f"{said_no}check FAMULUS_KAFKA_SECURITY_PROTOCOL, FAMULUS_KAFKA_SASL_... and FAMULUS_KAFKA_SSL_..."
            ) from error
        raise LogUnreachable(
            f"{said_no}start it or correct FAMULUS_BROKER (and FAMULUS_KAFKA_SECURITY_PROTOCOL, if it wants one)"
        ) from error
    finally:
        log.removeHandler(heard)
