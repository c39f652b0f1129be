"""The admin listener's application: the relay's health, with reasons."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Health = Callable[[], Awaitable[dict[str, Any]]]


def app(health: Health) -> Starlette:
    """`health` gives `ready` (bool), `reasons` (list of text) and `sinks`."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        report = await health()
        return JSONResponse(report, 200 if report["ready"] else 503)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz)])
