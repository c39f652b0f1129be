"""The admin listener's application: health with reasons, metrics, and the check of host names.

A name of another site can be made to resolve to this machine (DNS rebinding); an address cannot.
So requests under unknown names are refused.
"""

from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.server.refusals import send_problem

HEALTH_METHODS = ("GET", "OPTIONS")
"""Starlette adds HEAD. Some load balancers ask with OPTIONS, and expect the same answer."""

UNGUARDED_PATHS = ("/healthz", "/readyz", "/metrics")
"""These are answered under any name, because monitors use any."""

MISDIRECTED = 421

HealthReader = Callable[[], Awaitable[dict[str, Any]]]
Metrics = Callable[[], Awaitable[bytes]]


def app(health: HealthReader, metrics: Metrics, names: Iterable[str] = ()) -> Starlette:
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
        middleware=[Middleware(HostGuard, names=names, unguarded=UNGUARDED_PATHS)],
    )


class HostGuard:
    """Refuses requests with a `Host` that is neither an address, `localhost`, nor one of `names`.

    The paths in `unguarded` are answered under any name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], unguarded: Iterable[str]) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}
        self._unguarded = frozenset(unguarded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._unguarded:
            host = Headers(scope=scope).get("host", "")
            if not self._is_allowed(_host_name(host)):
                detail = "This name is not in admin.hosts."
                await send_problem(send, MISDIRECTED, detail)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, name: str) -> bool:
        return name in self._names or _is_address(name)


def _host_name(host: str) -> str:
    """The name in a `Host` header, without its port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
