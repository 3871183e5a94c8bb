"""The aiohttp application: routes and what surrounds them.  It needs services, not a worker."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from web import alerts, auth, console, metrics, openapi, operators, probes, routing, rules, security, signin, state
from web.problems import Problem
from web.services import Services


def create_web_app(services: Services) -> web.Application:
    """Everything that is served, behind the checks of :mod:`web.security` and :mod:`web.auth`."""
    tokens = services.tokens
    routes = [
        *probes.routes(services),
        *operators.routes(services),
        *state.routes(services),
        *rules.routes(services),
        *alerts.routes(services),
        *metrics.routes(services),
        *console.routes(),
    ]
    middlewares: list[Middleware] = [security.middleware(services.bind)]
    if tokens is not None:
        routes += signin.routes(tokens)
        middlewares += [_offer_sign_in, auth.middleware(tokens)]
    routes.append(openapi.route(routes, authenticated=tokens is not None))
    app = web.Application(middlewares=middlewares, client_max_size=security.MAX_BODY_BYTES)
    app.on_response_prepare.append(security.add_headers)
    routing.install(app, routes)
    return app


@web.middleware
async def _offer_sign_in(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Where a person's browser would get a 401, show the form."""
    try:
        return await handler(request)
    except Problem as problem:
        if problem.status == 401 and signin.is_browser(request):
            return signin.page("This worker asks for a token.")
        raise
