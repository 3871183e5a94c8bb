"""Who owns which partition: each worker says so on a small compacted topic, and every worker reads it.

The topic is ``APP-members``, one partition; key = a worker's name, value = its address and partitions as JSON.  A partition belongs to
whoever claimed it last, so the claims of a worker that died are overruled by those of the worker that took over.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec
from mode import Service

from app.outages import outlast
from app.transport.client import BrokerClient, NewRecord
from models.errors import FamulusError
from tables.log import TopicPartition

log = logging.getLogger(__name__)

#: Claims serve queries only: records do not wait for them longer than this.
CLAIM_SECONDS = 5.0


class Claim(msgspec.Struct):
    """What one worker owns: operator uid to partition numbers, and where its web server answers."""

    url: str
    partitions: dict[str, list[int]]


_decode = msgspec.json.Decoder(Claim).decode


def members_topic(app_id: str) -> str:
    """Name of the application's topic of claims."""
    return f"{app_id}-members"


def reachable_url(bind: str, port: int) -> str:
    """Where other workers reach a web server bound to ``bind``: a wildcard address means this host's name."""
    host = socket.gethostname() if bind in ("0.0.0.0", "::", "") else bind
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Members(Service):
    """Reads everybody's claims and makes this worker's own."""

    def __init__(self, app_id: str, client: Callable[[], BrokerClient], url: Callable[[], str], **options: Any) -> None:
        self.topic = members_topic(app_id)
        #: this worker's name; a restarted process is another worker
        self.name = uuid.uuid4().hex[:12]
        self._client = client
        self._url = url
        self._claims: dict[str, tuple[int, Claim]] = {}
        super().__init__(**options)

    async def claim(self, partitions: Mapping[str, list[int]]) -> None:
        """Say that these partitions are this worker's from now on."""
        try:
            await self._append(msgspec.json.encode(Claim(self._url(), dict(partitions))))
        except (FamulusError, TimeoutError) as exc:
            # Queries only: others cannot find this worker's keys until the next assignment.
            log.warning("the partitions of this worker could not be announced: %s", str(exc) or "no answer")

    async def leave(self) -> None:
        """Take the claim back."""
        try:
            await self._append(None)
        except (FamulusError, TimeoutError) as exc:
            log.info("the claim of this worker stays until another one overrules it: %s", str(exc) or "no answer")

    async def _append(self, value: bytes | None) -> None:
        async with asyncio.timeout(CLAIM_SECONDS):
            await self._client().append(self.topic, [NewRecord(self.name.encode(), value, partition=0)])

    def owner(self, uid: str, partition: int) -> str | None:
        """Address of the worker that claimed the partition last, ``None`` if nobody did."""
        claims = [
            (offset, claim.url) for offset, claim in self._claims.values() if partition in claim.partitions.get(uid, ())
        ]
        return max(claims)[1] if claims else None

    def is_standby(self, uid: str, partition: int, replicas: int) -> bool:
        """Whether this worker is one of the partition's ``replicas`` standbys: all workers choose the same ones."""
        owner = self.owner(uid, partition)
        others = [name for name, (_, claim) in self._claims.items() if claim.url != owner]
        others.sort(key=lambda name: blake2b(f"{name}/{uid}/{partition}".encode(), digest_size=8).digest())
        return owner is not None and self.name in others[:replicas]

    def is_own(self, url: str) -> bool:
        return url == self._url()

    def others(self, uid: str) -> dict[str, set[int]]:
        """Further workers that own partitions of the operator: address to partition numbers."""
        owned: dict[str, set[int]] = {}
        for number in {number for _, claim in self._claims.values() for number in claim.partitions.get(uid, ())}:
            url = self.owner(uid, number)
            if url is not None and not self.is_own(url):
                owned.setdefault(url, set()).add(number)
        return owned

    @Service.task
    async def _read(self) -> None:
        try:
            await outlast("reading the claims of other workers", self._follow, lambda: self.should_stop)
        except FamulusError as exc:
            if not self.should_stop:
                log.warning("claims of other workers are not read any more, queries stay local: %s", exc)

    async def _follow(self) -> None:
        reader = self._client().reader()
        await reader.start()
        try:
            tp = TopicPartition(self.topic, 0)
            reader.assign(await reader.start_offsets([tp]))
            while not self.should_stop:
                for part in await reader.poll(0.5):
                    for record in part.records:
                        self._take((record.key or b"").decode(errors="replace"), record.value, record.offset)
        finally:
            await reader.stop()

    def _take(self, name: str, value: bytes | None, offset: int) -> None:
        if value is None:
            self._claims.pop(name, None)
            return
        try:
            self._claims[name] = offset, _decode(value)
        except msgspec.DecodeError:
            log.warning("%s@%d is no claim of a worker", self.topic, offset)
            return
        # A claim that later ones overrule wholly is of a worker that is gone, and so is an older one of the same address.
        for other in [other for other in self._claims if other != name]:
            claim = self._claims[other][1]
            waiting = not any(claim.partitions.values()) and claim.url != self._claims[name][1].url
            if not waiting and not any(
                self.owner(uid, n) == claim.url for uid, numbers in claim.partitions.items() for n in numbers
            ):
                del self._claims[other]
