"""One log line for every change and every refusal: who, from where, what, and how it ended."""

from __future__ import annotations

import json
import logging

from aiohttp import web

logger = logging.getLogger("famulus.audit")

PRINCIPAL: web.RequestKey[str] = web.RequestKey("principal", str)

_READS = {"GET", "HEAD", "OPTIONS"}
_REFUSALS = {401, 403, 415, 421}


def record(request: web.Request, status: int) -> None:
    """Write the line where one is due.

    Everything that the client chose is quoted as JSON in ASCII, so no request can forge a line, and cut, so none can
    fill the disk.  A warning, because Faust's worker logs nothing below by default.
    """
    if request.method in _READS and status not in _REFUSALS:
        return
    logger.warning(
        "audit: principal=%s remote=%s method=%s path=%s status=%d",
        json.dumps(request.get(PRINCIPAL, "anonymous")),
        request.remote,
        json.dumps(request.method[:16]),
        json.dumps(request.rel_url.raw_path[:512]),
        status,
    )
