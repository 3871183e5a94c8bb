"""Checks of an installation: what is wrong, and the fix."""

from __future__ import annotations

import asyncio
import enum
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import msgspec

from agents.operator import reading
from app.health import APPLICATION
from app.partitioning import mismatches
from app.rulebook import RuleService
from app.settings import Settings, masked
from app.topic_options import mending, unfit_topics
from app.topology import operators
from app.transport import brokers
from app.transport.client import BrokerClient, NewRecord
from app.transport.embedded.location import SCHEME, locate
from app.transport.kafka import internals
from models.errors import FamulusError, LogError
from models.topics import CATALOGUE
from tables import series

#: A service gets this long to answer.
TIMEOUT_S = 5.0
#: Free bytes below which a disk is a warning, and below which it is a failure.
LOW_DISK, NO_DISK = 1 << 30, 100 << 20
#: Takes the record that proves that the broker can be written to.
DOCTOR_TOPIC = "famulus-doctor"


class Verdict(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    #: It works, and somebody should look.
    WARN = "warn"
    #: It does not work.
    FAIL = "fail"


class Check(msgspec.Struct, omit_defaults=True):
    """One check: what was looked at, what was found, and what to do about it."""

    name: str
    verdict: Verdict
    finding: str
    fix: str = ""


def ok(name: str, finding: str) -> Check:
    return Check(name, Verdict.OK, finding)


def warn(name: str, finding: str, fix: str) -> Check:
    return Check(name, Verdict.WARN, finding, fix)


def fail(name: str, finding: str, fix: str) -> Check:
    return Check(name, Verdict.FAIL, finding, fix)


async def examine(settings: Settings) -> AsyncIterator[Check]:
    """All checks, as they end."""
    defaults = Settings().shown()
    given = [f"{name}={value}" for name, value in settings.shown().items() if defaults.get(name) != value]
    yield ok("settings", " ".join([*given, "(the others have their defaults)"]))
    async for check in _broker(settings):
        yield check
    for check in _disks(settings):
        yield check
    yield _compiled()
    yield await _web(settings)
    yield await _postgres(settings)
    yield await _redis(settings)


def _compiled() -> Check:
    if series.COMPILED and reading.COMPILED and internals.batches is not None:
        return ok("compiled code", "in use")
    return warn(
        "compiled code",
        "not installed: users' histories take two or three times the memory, and a transaction a third more CPU",
        "put a C compiler and Python's headers on this machine and install again",
    )


async def _broker(settings: Settings) -> AsyncIterator[Check]:
    where = masked(settings.broker)
    try:
        async with asyncio.timeout(4 * TIMEOUT_S), brokers.connect(settings.broker, settings.credentials) as client:
            yield ok("broker", f"{where}: {await _write_one(client)}")
            async for check in _topics(settings, client):
                yield check
            yield await _rules(client)
            async for check in _group(settings, client):
                yield check
    except TimeoutError:
        yield fail("broker", f"{where}: no answer in time", "start the broker, or correct FAMULUS_BROKER")
    except FamulusError as error:
        said = str(error)
        # Errors end with what to do next, which is the fix: saying another one as well would leave the choice to the reader.
        what, _, advice = said.rpartition("; ")
        what, advice = (what, advice) if what else (said, "correct FAMULUS_BROKER, or make its place writable")
        yield fail("broker", what if what.startswith(where) else f"{where}: {what}", advice)


async def _write_one(client: BrokerClient) -> str:
    await client.create_topic(DOCTOR_TOPIC, 1, {"cleanup.policy": "compact"})
    [(_, offset)] = await client.append(DOCTOR_TOPIC, [NewRecord(key=b"doctor", value=b"written by famulus doctor")])
    return f"reachable and writable ({DOCTOR_TOPIC} offset {offset})"


async def _topics(settings: Settings, client: BrokerClient) -> AsyncIterator[Check]:
    """Topics that there are: partition counts, those of changelogs against the topics that they belong to, and options."""
    found = await client.topics()
    wrong = False
    for topic, finding, fix in mismatches(found, settings.app_id, operators(settings.jobs)):
        wrong = True
        yield fail(f"topic {topic}", finding, fix)
    try:
        unfit = await unfit_topics(client, found, settings.app_id, operators(settings.jobs))
    except LogError as error:
        yield warn("topic options", str(error), "let this user describe the configuration of topics")
        return
    for one in unfit:
        wrong = True
        said = fail if one.loses else warn
        yield said(f"topic {one.topic}", one.finding, mending(settings.broker, one))
    if not wrong:
        ours = sum(topic in CATALOGUE for topic in found)
        yield ok(
            "topics",
            f"{len(found)} topics, {ours} of them ours, each with the partitions and options that it must have",
        )


async def _group(settings: Settings, client: BrokerClient) -> AsyncIterator[Check]:
    """Nothing if all is well: commands read and write without a group, but a worker that may not be in its group ends."""
    try:
        await client.committed(settings.app_id)
        await client.check_membership(settings.app_id)
    except LogError as error:
        yield fail(f"group {settings.app_id}", str(error), "let this user read the group, or correct FAMULUS_APP_ID")


async def _rules(client: BrokerClient) -> Check:
    async with RuleService(client) as rules:
        steps = await rules.list()
    active = sum(step.rule is not None and step.rule.active for step in steps)
    if not active:
        return warn("rules", f"{len(steps)} rules, none active: no alert can come", "famulus rules put FILE")
    return ok("rules", f"{len(steps)} rules, {active} active")


def _disks(settings: Settings) -> list[Check]:
    places = {"disk of FAMULUS_DATA_DIR": settings.data_dir}
    if settings.broker.startswith(f"{SCHEME}://"):
        places["disk of FAMULUS_BROKER"] = locate(settings.broker).directory
    return [_disk(name, path) for name, path in places.items()]


def _disk(name: str, path: Path) -> Check:
    there = path.absolute()
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        return fail(
            name, f"{there} is no folder that can be written to", "change its owner or mode, or name another place"
        )
    free = shutil.disk_usage(there).free
    finding = f"{path}: {free / (1 << 30):.1f} GiB free"
    if free < NO_DISK:
        return fail(name, finding, "free some space; nothing can be stored soon")
    return warn(name, finding, "free some space") if free < LOW_DISK else ok(name, finding)


async def _web(settings: Settings) -> Check:
    try:
        status, body, whose = await asyncio.to_thread(_get, f"{settings.web_url}/readyz")
    except (URLError, OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
            return _port_free(settings)
        return _port_taken(settings)
    try:
        answer = msgspec.json.decode(body, type=_Readiness)
    except (msgspec.DecodeError, RecursionError):
        return _port_taken(settings)
    if whose != settings.app_id:
        return _port_of_another(settings, whose)
    if status == 200:
        return ok("worker", f"one is ready at {settings.web_url}")
    reasons = "; ".join(f"{name}: {said['reason']}" for name, said in answer.checks.items() if "reason" in said)
    return warn("worker", f"one at {settings.web_url} is not ready: {reasons}", "wait a moment, then look at its log")


class _Readiness(msgspec.Struct):
    status: str
    checks: dict[str, dict[str, str]]


def _get(url: str) -> tuple[int, bytes, str | None]:
    """Status, body and the application that answers."""
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            return response.status, response.read(1 << 20), response.headers[APPLICATION]
    except HTTPError as error:
        with error:
            return error.code, error.read(1 << 20), error.headers[APPLICATION]


def _port_free(settings: Settings) -> Check:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.web_bind, settings.web_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return fail(
            "worker",
            f"none runs, and one could not listen on {settings.web_bind}:{settings.web_port} ({error.strerror or error})",
            "set FAMULUS_WEB_BIND to an address of this machine and FAMULUS_WEB_PORT to a free port above 1023",
        )
    return ok("worker", f"none runs at {settings.web_url}; the port is free (famulus worker starts one)")


def _port_taken(settings: Settings) -> Check:
    return fail(
        "worker",
        f"another program has port {settings.web_port} on {settings.web_bind}",
        "stop it, or set FAMULUS_WEB_PORT to a free port",
    )


def _port_of_another(settings: Settings, whose: str | None) -> Check:
    of = "an application that it does not name" if whose is None else f"application {whose}"
    return fail(
        "worker",
        f"the one at {settings.web_url} works for {of}, not for {settings.app_id}",
        "set FAMULUS_APP_ID to look at that one, or FAMULUS_WEB_PORT to a free port",
    )


async def _postgres(settings: Settings) -> Check:
    if settings.postgres_url is None:
        return ok("postgres", "not configured")
    import asyncpg  # a driver is loaded only where it is used

    from agents.enrichment.postgres import QUERY

    where = masked(settings.postgres_url)
    try:
        connection = await asyncpg.connect(settings.postgres_url, timeout=TIMEOUT_S)
        try:
            version = await connection.fetchval("SHOW server_version", timeout=TIMEOUT_S)
            try:
                await connection.fetch(QUERY, [], timeout=TIMEOUT_S)
            except asyncpg.PostgresError as error:
                return fail(
                    "postgres",
                    f"{where}: profiles cannot be read: {error}",
                    "give it the table user_profiles(user_id, name, tier, created_at), or correct FAMULUS_POSTGRES_URL",
                )
        finally:
            await connection.close(timeout=TIMEOUT_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = masked(str(error)) or type(error).__name__
        return fail("postgres", f"{where}: {reason}", "start it, or correct FAMULUS_POSTGRES_URL")
    return ok("postgres", f"{where}: PostgreSQL {version}")


async def _redis(settings: Settings) -> Check:
    if settings.redis_url is None:
        return ok("redis", "not configured")
    from redis import asyncio as aioredis
    from redis.exceptions import RedisError

    where = masked(settings.redis_url)
    try:
        async with asyncio.timeout(TIMEOUT_S), aioredis.from_url(settings.redis_url) as client:
            version = (await client.info("server"))["redis_version"]
    except (OSError, TimeoutError, ValueError, RedisError) as error:
        reason = masked(str(error)) or type(error).__name__
        return fail("redis", f"{where}: {reason}", "start it, or correct FAMULUS_REDIS_URL")
    return ok("redis", f"{where}: Redis {version}")
