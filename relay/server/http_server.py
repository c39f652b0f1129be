"""HTTP servers: uvicorn without its signal handlers, and with a shutdown that loses no callback."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import uvicorn

from relay.config.loader import Config
from relay.server import admin
from relay.server.admin import HealthReader, Metrics
from relay.server.connections import LOOP_TURN, ConnectionLimiter, limiter_for, open_file_limit
from relay.server.ingress import Ingress
from relay.server.protocol import Protocol, ServerState
from relay.server.sockets import BACKLOG, Listeners
from relay.server.tls import Certificate, TlsAcceptor

log = logging.getLogger("relay.server")

RENEWAL_TICKS = 100
"""uvicorn's ticks of 0.1 s between two looks at the certificate's files."""
DRAIN_TIMEOUT = 3.0
"""Seconds for requests that have come in; with a sink's grace below the 10 s of a stop."""


class HttpServer(uvicorn.Server):
    """The server of one listening socket. Several run in one event loop."""

    drain_delay = 0.5
    """Seconds for bytes on their way to connections that have just been accepted."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        protocol: type[Protocol],
        limiter: ConnectionLimiter,
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self.server_state: ServerState = ServerState(limiter)
        self._listener = listener
        self._protocol = protocol
        self._certificate = certificate
        self._main_loop: asyncio.Task[None] | None = None

    @property
    def address(self) -> Any:
        """The address that the listener is bound to."""
        return self._listener.getsockname()

    async def start(self) -> None:
        """Return when connections are accepted. Raises OSError where that fails."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.on_tick(0)
        if self._certificate is None:
            await self.startup(sockets=[self._listener])
        else:
            self.servers = [self._start_acceptor(self._certificate)]  # type: ignore[list-item]
            self.started = True
        self._main_loop = asyncio.create_task(self.main_loop())

    def _start_acceptor(self, certificate: Certificate) -> TlsAcceptor:
        state = self.lifespan.state
        make_protocol = partial(self._protocol, self.config, self.server_state, state)
        limiter = self.server_state.limiter
        acceptor = TlsAcceptor(self._listener, certificate, limiter, make_protocol)
        acceptor.start(BACKLOG)
        return acceptor

    async def on_tick(self, counter: int) -> bool:
        if self._certificate is not None and counter % RENEWAL_TICKS == 0:
            self._certificate.renew()
        return await super().on_tick(counter)

    async def drain(self, grace: float = 5.0) -> None:
        """Stop accepting, answer the requests of all accepted connections, and close.

        A request that is incomplete after `grace` seconds is cut.
        """
        if self._main_loop is None:  # it never started
            self._listener.close()
            return
        self.server_state.draining = True
        # Two turns of the loop accept the connections that wait in the kernel.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(LOOP_TURN)  # the last accepted connections get their protocols
        if self.server_state.connections or len(self.server_state.limiter):
            await asyncio.sleep(self.drain_delay)
            await asyncio.sleep(LOOP_TURN)  # what came while the loop was stalled is read
        self.should_exit = True
        try:
            async with asyncio.timeout(grace):
                await self.shutdown(sockets=[self._listener])
        except TimeoutError:
            log.warning("%d connections cut", len(self.server_state.connections))
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self._main_loop
        self.server_state.refusal_log.flush()


def make_server(
    app: Callable[..., Any],
    listener: socket.socket,
    *,
    certificate: Certificate | None = None,
    limiter: ConnectionLimiter | None = None,
    protocol: type[Protocol] = Protocol,
) -> HttpServer:
    """A server for an ASGI application on a bound socket."""
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        interface="asgi3",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
    )
    limiter = ConnectionLimiter() if limiter is None else limiter
    return HttpServer(config, listener, protocol, limiter, certificate)


def make_servers(
    config: Config, listeners: Listeners, ingress: Ingress, health: HealthReader, metrics: Metrics
) -> tuple[list[HttpServer], list[HttpServer]]:
    """The servers of the public and of the admin listener. Raises OSError."""
    tls = config.server.tls
    certificate = Certificate(tls.cert, tls.key) if tls else None
    limiter = limiter_for(config.server, open_file_limit())
    public, operators = listeners.bind(config.server.listen, config.admin.listen)
    admin_app = admin.app(health, metrics, config.admin.hosts)
    return (
        [make_server(ingress, each, certificate=certificate, limiter=limiter) for each in public],
        [make_server(admin_app, each) for each in operators],
    )


async def drain_all(servers: Iterable[HttpServer]) -> None:
    """Drain the servers at the same time."""
    await asyncio.gather(*(server.drain(DRAIN_TIMEOUT) for server in servers))
