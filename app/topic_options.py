"""Topics as somebody else made or changed them: what they do with records that those of the catalogue do not.

A topic that is there is never changed.  Whoever owns it is told what is wrong and the command that mends it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from agents.operator.spec import OperatorSpec
from app.partitioning import changelog_topic
from app.settings import Settings, kafka_hosts
from app.transport.client import BrokerClient
from app.transport.embedded.location import SCHEME, locate
from models.errors import LogError
from models.time import millis
from models.topics import TopicSpec, dlq_topic, spec_of
from tables.snapshot import MAX_AGE

log = logging.getLogger(__name__)

#: What comes in or goes out may be kept for less than in the catalogue, that is its owner's choice; this is too short for a bad night.
SHORT = timedelta(days=1)
#: Kafka's own default for how long a deletion is kept.
DELETIONS_KEPT = timedelta(days=1)
NO_LIMIT = -1


class Unfit(NamedTuple):
    """A topic whose options do not fit: what they cause, and the options that it must have.

    ``loses``: rules or state will be lost or wrong, and nothing brings them back.
    """

    topic: str
    loses: bool
    finding: str
    wanted: Mapping[str, str]


async def unfit_topics(
    client: BrokerClient, found: Collection[str], app_id: str, operators: Sequence[OperatorSpec]
) -> list[Unfit]:
    """Those of the topics ``found`` that the operators use and whose options do not fit.

    Raises :class:`models.errors.LogError` where the log does not say.
    """
    changelogs = [changelog_topic(app_id, spec.uid) for spec in operators]
    used = sorted({*changelogs, *_topics(operators)} & set(found))
    configurations = await client.configurations(used)
    looked_at = (
        _changelog(topic, configurations[topic]) if topic in changelogs else _catalogued(topic, configurations[topic])
        for topic in used
    )
    return [unfit for unfit in looked_at if unfit is not None]


async def warn_of_unfit_topics(
    client: BrokerClient, settings: Settings, found: Collection[str], operators: Sequence[OperatorSpec]
) -> None:
    """Say in the log what :func:`unfit_topics` finds; a log that does not tell is no reason not to work."""
    try:
        unfit = await unfit_topics(client, found, settings.app_id, operators)
    except LogError as error:
        log.warning("whether topics keep what they must keep could not be looked up: %s", error)
        return
    for one in unfit:
        log.warning("topic %s %s; to mend it, %s", one.topic, one.finding, mending(settings.broker, one))


def mending(broker: str, unfit: Unfit) -> str:
    """The command that gives the topic the options that it must have."""
    if broker.startswith(f"{SCHEME}://"):
        options = json.dumps(dict(unfit.wanted)).replace('"', '\\"')
        statement = f"UPDATE topics SET config = json_patch(config, '{options}') WHERE name = '{unfit.topic}'"
        return f'stop every process of the log and run: sqlite3 {locate(broker).file} "{statement}"'
    servers = ",".join(f"{host}:{port}" for host, port in kafka_hosts(broker))
    options = ",".join(f"{name}={value}" for name, value in unfit.wanted.items())
    return (
        f"run: kafka-configs.sh --bootstrap-server {servers} --alter --entity-type topics --entity-name {unfit.topic} "
        f"--add-config {options}"
    )


def _topics(operators: Sequence[OperatorSpec]) -> Iterator[str]:
    for spec in operators:
        for source in spec.sources:
            yield from (source.topic, dlq_topic(source.topic))
        yield from (topic for topic in (spec.broadcast, spec.output, *spec.side_outputs.values()) if topic)


def _changelog(topic: str, config: Mapping[str, str]) -> Unfit | None:
    findings, wanted, loses = [], {}, False
    policies = _policies(config)
    if policies != {"compact"}:
        loses = "delete" in policies
        causes = "state that does not change for a while is deleted from it" if loses else "it grows for ever"
        findings.append(f"has cleanup.policy={config['cleanup.policy']}: {causes}")
        wanted["cleanup.policy"] = "compact"
    kept_ms = int(config["delete.retention.ms"])
    if "compact" in policies and kept_ms < millis(MAX_AGE):
        loses = True
        findings.append(
            f"has delete.retention.ms={kept_ms}: a worker that comes back with a local copy of the state, up to "
            f"{_hours(millis(MAX_AGE))} old, would not see what was deleted since"
        )
        wanted["delete.retention.ms"] = str(millis(DELETIONS_KEPT))
    return Unfit(topic, loses, "; ".join(findings), wanted) if findings else None


def _catalogued(topic: str, config: Mapping[str, str]) -> Unfit | None:
    spec = spec_of(topic)
    if spec is None:
        return None
    findings, wanted = [*_kept(spec, config)], {}
    loses = bool(findings) and (spec.retention is None or "compact" in _policies(config))
    if findings:
        wanted = {"cleanup.policy": "delete", "retention.ms": spec.config["retention.ms"]}
        if _bounded(spec, config):
            wanted["retention.bytes"] = str(NO_LIMIT)
    taken = config.get("max.message.bytes")
    if spec.max_message_bytes is not None and taken is not None and int(taken) < spec.max_message_bytes:
        findings.append(
            f"has max.message.bytes={taken}: a record with a large one in it is refused, and the worker ends at it again and again"
        )
        wanted["max.message.bytes"] = str(spec.max_message_bytes)
    return Unfit(topic, loses, "; ".join(findings), wanted) if findings else None


def _kept(spec: TopicSpec, config: Mapping[str, str]) -> Iterator[str]:
    """What is wrong about how long records are kept."""
    policies, kept_ms = _policies(config), int(config["retention.ms"])
    if "compact" in policies:
        yield f"has cleanup.policy={config['cleanup.policy']}: a record is lost as soon as another one has its key"
    if "delete" in policies and kept_ms != NO_LIMIT:
        if spec.retention is None:
            yield f"has retention.ms={kept_ms}: what is older than {_hours(kept_ms)} is lost, and it must be kept for ever"
        elif kept_ms < millis(min(SHORT, spec.retention)):
            yield f"has retention.ms={kept_ms}: whoever is away for {_hours(kept_ms)} misses records"
    if _bounded(spec, config):
        yield f"has retention.bytes={config['retention.bytes']}: what is beyond is lost, and it must be kept for ever"


def _bounded(spec: TopicSpec, config: Mapping[str, str]) -> bool:
    """Whether a topic that must be kept for ever may have a size only."""
    limited = int(config.get("retention.bytes", NO_LIMIT)) != NO_LIMIT
    return spec.retention is None and limited and "delete" in _policies(config)


def _policies(config: Mapping[str, str]) -> set[str]:
    return {policy.strip() for policy in config["cleanup.policy"].split(",") if policy.strip()}


def _hours(ms: int) -> str:
    hours = ms / 3_600_000
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:.3g} hours"
