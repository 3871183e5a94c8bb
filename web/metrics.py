"""``GET /metrics``: the worker's metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from web.routing import Answer, Route, Scope
from web.services import Services


def routes(services: Services) -> Sequence[Route]:
    async def metrics(request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=generate_latest(services.metrics),
            headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
        )

    return [
        Route(
            method="GET",
            path="/metrics",
            handler=metrics,
            scope=Scope.READ,
            summary="Metrics in Prometheus' text format",
            tag="metrics",
            answers={200: Answer("Prometheus text format.", "text/plain")},
        )
    ]
