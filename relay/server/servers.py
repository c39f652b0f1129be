"""The front: the servers behind the public and the admin listener."""

import asyncio
from collections.abc import Iterable

from relay.config.loader import Config
from relay.server import admin, connections
from relay.server.admin import Health, Metrics
from relay.server.http_server import Server, make_server
from relay.server.ingress import Ingress
from relay.server.sockets import Listeners
from relay.server.tls import Certificate

DRAIN = 3.0
"""Seconds for requests that have come in; with a sink's grace below the 10 s of a stop."""


def front(
    config: Config, listeners: Listeners, callbacks: Ingress, health: Health, metrics: Metrics
) -> tuple[list[Server], list[Server]]:
    """The public servers and the operators'. Raises OSError where one cannot be."""
    tls = config.server.tls
    certificate = Certificate(tls.cert, tls.key) if tls else None
    admitted = connections.expected(config.server)
    outside, inside = listeners.bind(config.server.listen, config.admin.listen)
    public = [
        make_server(callbacks, each, certificate=certificate, guests=admitted) for each in outside
    ]
    operators = admin.app(health, metrics, config.admin.hosts)
    return public, [make_server(operators, each) for each in inside]


async def drain(servers: Iterable[Server]) -> None:
    """Answer what has come in, and close."""
    await asyncio.gather(*(server.drain(DRAIN) for server in servers))
