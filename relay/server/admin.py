"""The admin listener's application: the relay's health, with reasons, and its metrics."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.server.hosts import HostGuard

HEALTH_METHODS = ("GET", "OPTIONS")
"""Starlette adds HEAD. Some load balancers ask with OPTIONS, and expect the same answer."""

FREE = ("/healthz", "/readyz", "/metrics")
"""Monitors ask under any name."""

Health = Callable[[], Awaitable[dict[str, Any]]]
Metrics = Callable[[], Awaitable[bytes]]


def app(health: Health, metrics: Metrics, names: Iterable[str] = ()) -> Starlette:
    """The application.

    `health` gives `ready` (bool), `reasons` (list of text) and `sinks`; `metrics` gives the page
    in Prometheus' text format.
    Under a name that is not in `names`, health and metrics alone are answered.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        report = await health()
        return JSONResponse(report, 200 if report["ready"] else 503)

    async def page(_: Request) -> Response:
        return Response(await metrics(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/healthz", healthz, methods=HEALTH_METHODS),
            Route("/readyz", readyz, methods=HEALTH_METHODS),
            Route("/metrics", page),
        ],
        middleware=[Middleware(HostGuard, names=names, free=FREE)],
    )
