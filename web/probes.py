"""``/livez``, ``/readyz``, ``/startupz``: open to everybody, for they say nothing but how the worker is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from app.health import APPLICATION, Probe
from web.encoding import answer
from web.routing import Answer, Handler, Route
from web.services import Services

_PROBES = {
    "/livez": (Probe.LIVE, "Is the process alive?  503 means that only a restart helps."),
    "/readyz": (Probe.READY, "Is it doing its work: partitions assigned, state recovered, rules loaded?"),
    "/startupz": (Probe.STARTUP, "Has it been through its start?  Once 200, always 200."),
}


class CheckAnswer(msgspec.Struct, omit_defaults=True):
    """One check: ``ok``, or ``unavailable`` with the reason."""

    status: str
    reason: str | None = None


class HealthAnswer(msgspec.Struct):
    """``status`` is ``ok`` if every check is, else ``unavailable``."""

    status: str
    checks: dict[str, CheckAnswer]


def routes(services: Services) -> Sequence[Route]:
    return [
        Route(
            method="GET",
            path=path,
            handler=_handler(services, probe),
            scope=None,
            summary=summary,
            tag="probes",
            answers={200: Answer("Yes.", HealthAnswer), 503: Answer("No; the checks say why.", HealthAnswer)},
        )
        for path, (probe, summary) in _PROBES.items()
    ]


def _handler(services: Services, probe: Probe) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        report = services.health.report(probe)
        checks = {
            name: CheckAnswer("ok") if reason is None else CheckAnswer("unavailable", reason)
            for name, reason in report.reasons.items()
        }
        headers = {APPLICATION: services.health.application} if services.health.application else {}
        if report.ok:
            return answer(HealthAnswer("ok", checks), headers=headers)
        return answer(HealthAnswer("unavailable", checks), status=503, headers=headers)

    return handle
