"""The admin listener's application: the relay's health, with reasons, and its metrics."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.monitoring.metrics import Readings, exposition
from relay.server.hosts import HostGuard

HEALTH_METHODS = ("GET", "OPTIONS")
"""Starlette adds HEAD. Some load balancers ask with OPTIONS, and expect the same answer."""

FREE = ("/healthz", "/readyz", "/metrics")
"""Monitors ask under any name."""

Health = Callable[[], Awaitable[dict[str, Any]]]
Read = Callable[[], Awaitable[Readings]]


def app(health: Health, read: Read, names: Iterable[str] = ()) -> Starlette:
    """The application. `health` gives `ready` (bool), `reasons` (list of text) and `sinks`.

    Under a name that is not in `names`, health and metrics alone are answered.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        report = await health()
        return JSONResponse(report, 200 if report["ready"] else 503)

    async def metrics(_: Request) -> Response:
        return Response(exposition(await read()), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/healthz", healthz, methods=HEALTH_METHODS),
            Route("/readyz", readyz, methods=HEALTH_METHODS),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(HostGuard, names=names, free=FREE)],
    )
