"""A worker that does every few seconds what it otherwise does every few hours; for a broker that forgets as soon (``FORGETFUL``)."""

from __future__ import annotations

import sys
from datetime import timedelta

#: What a broker forgets after a week, a day or ten minutes, it forgets within seconds.
FORGETFUL = {
    "transactional.id.expiration.ms": "15000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "1000",
    "producer.id.expiration.ms": "10000",
    "producer.id.expiration.check.interval.ms": "1000",
    "connections.max.idle.ms": "7000",
    "offsets.retention.minutes": "1",
    "offsets.retention.check.interval.ms": "5000",
}
KEEP_IDS_EVERY = timedelta(seconds=3)


def main() -> None:
    from faust.cli.faust import cli

    from app.transport.kafka.keeping import IdKeeper

    IdKeeper.every = KEEP_IDS_EVERY
    sys.argv = ["faust", "-A", "app", "worker", "-l", "info"]
    cli()


if __name__ == "__main__":
    main()
