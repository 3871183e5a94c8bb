"""A running Famulus to look at: example rules, one worker, live traffic and the first alerts."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import msgspec

from app.activity import TRANSACTIONS_PER_VISIT, activity
from app.data_dir import make_data_dir
from app.producing import ensure_topic
from app.reading import all_partitions, bounds, follow, reading
from app.rulebook import RuleService
from app.settings import Settings
from app.simulate import Live, Past
from app.traffic import Item, produce_all, produce_live, traffic
from app.transport.client import BrokerClient
from models.alerts import Alert
from models.errors import FamulusError
from models.rules import RiskLevel, Rule
from models.time import SystemClock
from models.topics import TopicNames

EXAMPLE_RULES = (
    Rule("HIGH_VALUE", "Transaction amount > $10,000", True, RiskLevel.HIGH, "amount > 10000.0"),
    Rule("VELOCITY", "More than 5 transactions in 10 minutes", True, RiskLevel.MEDIUM, "count(duration('10m')) > 5"),
    Rule(
        "AMOUNT_JUMP",
        "Five times the payment before, and more than $100",
        True,
        RiskLevel.MEDIUM,
        "has_previous() && amount > 100.0 && amount > 5.0 * previous_amount()",
    ),
    Rule(
        "TWO_COUNTRIES",
        "Paid in two countries within an hour",
        True,
        RiskLevel.CRITICAL,
        "distinct_countries(duration('1h')) > 1",
    ),
)

#: Visits of the hours before, made where there are none yet.
VISITS_BEFORE = 200
#: Alerts that are printed; the console shows all.
SHOWN = 20
READY_TIMEOUT_S = 60.0
#: A worker that has not stopped by then is killed.
STOP_TIMEOUT_S = 4.0

Say = Callable[[str], None]


class DemoFailed(FamulusError):
    """The demonstration cannot start, or its worker died; the text says what to do."""


async def demo(settings: Settings, client: BrokerClient, rate: float, say: Say) -> None:
    """Run until cancelled; ends with :class:`DemoFailed` when the worker does."""
    make_data_dir(settings)
    _refuse_taken_port(settings)
    await _seed_rules(client, say)
    await _seed_visits(client, say)
    log = settings.data_dir / "demo-worker.log"
    async with AsyncExitStack() as stack:
        worker = await _start_worker(log)
        stack.push_async_callback(_stop, worker)
        say(f"starting a worker (its log: {log})")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_fail_with(worker, log))
            await _wait_until_ready(settings, log)
            say(f"console: {settings.web_url}/")
            say(f"{rate:g} simulated transactions a second from now on; Ctrl-C stops everything")
            tasks.create_task(_show_alerts(client, settings, say))
            tasks.create_task(produce_live(client, _live_traffic(rate), lambda _: None))


def _refuse_taken_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.web_bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.web_bind, settings.web_port))
        except OSError as error:
            raise DemoFailed(
                f"port {settings.web_port} on {settings.web_bind} is taken ({error.strerror}): stop the other program "
                "(another worker?) or choose a port, such as FAMULUS_WEB_PORT=6067"
            ) from None


async def _seed_rules(client: BrokerClient, say: Say) -> None:
    async with RuleService(client) as rules:
        there = await rules.list()
        for rule in () if there else EXAMPLE_RULES:
            await rules.put(rule)
    count = len(there) or len(EXAMPLE_RULES)
    say(f"{count} {'' if there else 'example '}rules; famulus rules list shows them")


async def _seed_visits(client: BrokerClient, say: Say) -> None:
    """Visits of the last three hours, so that there are sessions that are over and orders that were never paid."""
    partitions, _ = await ensure_topic(client, TopicNames.USER_EVENTS)
    async with reading(client) as reader:
        found = await bounds(reader, all_partitions(TopicNames.USER_EVENTS, partitions))
    if any(end for _, end in found.values()):
        return
    now_ms = SystemClock().now_ms()
    past = Past(total=VISITS_BEFORE * TRANSACTIONS_PER_VISIT, start_ms=now_ms - 3 * 3_600_000, end_ms=now_ms)
    await produce_all(client, activity(random.randrange(1 << 32), past), lambda _: None)
    say(f"{VISITS_BEFORE} visits of the last three hours, with their orders and payments")


def _live_traffic(rate: float) -> Iterator[Item]:
    return traffic(random.randrange(1 << 32), Live(None, SystemClock().now_ms(), rate))


async def _start_worker(log: Path) -> Process:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        # In a session of its own: Ctrl-C reaches this process alone, which then stops the worker in order.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli", "worker"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=os.environ,
        )


async def _stop(worker: Process) -> None:
    if worker.returncode is not None:
        return
    with suppress(ProcessLookupError):
        worker.terminate()
    try:
        await asyncio.wait_for(worker.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        worker.kill()
        await worker.wait()


async def _fail_with(worker: Process, log: Path) -> None:
    code = await worker.wait()
    raise DemoFailed(f"the worker ended with exit code {code}: {_last_words(log)}; its log is {log}")


def _last_words(log: Path) -> str:
    """The line of the log that most likely says why."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    grave = [line for line in lines if any(word in line for word in ("FATAL", "[CRITICAL]", "famulus:"))]
    return (grave or lines or ["it said nothing"])[-1][:500]


async def _wait_until_ready(settings: Settings, log: Path) -> None:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not await asyncio.to_thread(_is_ready, settings.web_url):  # noqa: ASYNC110  (another process)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise DemoFailed(f"the worker is not ready after {READY_TIMEOUT_S:.0f} s; see its log, {log}") from None


def _is_ready(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/readyz", timeout=2.0) as response:
            return bool(response.status == 200)
    except (URLError, OSError):  # not listening yet, or 503 with its reasons
        return False


async def _show_alerts(client: BrokerClient, settings: Settings, say: Say) -> None:
    partitions, _ = await ensure_topic(client, TopicNames.ALERTS)
    shown = 0
    async with reading(client) as reader:
        found = await bounds(reader, all_partitions(TopicNames.ALERTS, partitions))
        async for part in follow(reader, {tp: end for tp, (_, end) in found.items()}):
            for record in part.records:
                with suppress(msgspec.DecodeError):  # somebody else's record
                    say(_line(msgspec.json.decode(record.value or b"", type=Alert)))
                    shown += 1
                if shown == SHOWN:
                    say(f"... and so on: {settings.web_url}/")
                    return


def _line(alert: Alert) -> str:
    time = datetime.fromtimestamp(alert.timestamp / 1000).strftime("%H:%M:%S")
    text = f"{time}  {alert.risk_level:<8}  {alert.rule_id:<13}  {alert.user_id:<10}  {alert.message}"
    return "".join(char for char in text if char.isprintable())
