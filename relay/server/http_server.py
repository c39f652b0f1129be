"""The server: uvicorn without its signal handlers, and with an end that loses no callback."""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from relay.server.connections import Guests
from relay.server.deadline import TURN
from relay.server.protocol import Protocol, ServerState
from relay.server.sockets import BACKLOG
from relay.server.tls import Certificate
from relay.server.tls_acceptor import Doorman

log = logging.getLogger("relay.server")

RENEWAL = 100
"""Every so many ticks of 0.1 s the certificate's files are looked at."""


class Server(uvicorn.Server):
    """One listener. Several can run in one event loop; signals are for who starts them."""

    settle = 0.5
    """Seconds for bytes on their way to connections that have just been accepted."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        protocol: type[Protocol],
        guests: Guests,
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self.server_state: ServerState = ServerState(guests)
        self._listener = listener
        self._protocol = protocol
        self._certificate = certificate
        self._ticking: asyncio.Task[None] | None = None

    @property
    def address(self) -> Any:
        """What the listener is bound to."""
        return self._listener.getsockname()

    async def start(self) -> None:
        """Return when callbacks are accepted. Raises OSError where it cannot start."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.on_tick(0)
        if self._certificate is None:
            await self.startup(sockets=[self._listener])
        else:
            self.servers = [self._doorman(self._certificate)]  # type: ignore[list-item]
            self.started = True
        self._ticking = asyncio.create_task(self.main_loop())

    def _doorman(self, certificate: Certificate) -> Doorman:
        state = self.lifespan.state
        make_protocol = partial(self._protocol, self.config, self.server_state, state)
        doorman = Doorman(self._listener, certificate, self.server_state.guests, make_protocol)
        doorman.start(BACKLOG)
        return doorman

    async def on_tick(self, counter: int) -> bool:
        if self._certificate is not None and counter % RENEWAL == 0:
            self._certificate.renew()
        return await super().on_tick(counter)

    async def drain(self, patience: float = 5.0) -> None:
        """Stop accepting, answer everything that has been accepted, and close.

        A request that has not come to its end after `patience` seconds is cut.
        """
        if self._ticking is None:  # it never started
            self._listener.close()
            return
        self.server_state.draining = True
        # Two turns of the loop, for the kernel's queue of connections that nobody accepted yet.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(TURN)  # for those that have just been accepted to be known
        if self.server_state.connections or len(self.server_state.guests):
            await asyncio.sleep(self.settle)
            await asyncio.sleep(TURN)  # for what came while the loop stood still
        self.should_exit = True
        try:
            async with asyncio.timeout(patience):
                await self.shutdown(sockets=[self._listener])
        except TimeoutError:
            log.warning("%d connections cut", len(self.server_state.connections))
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self._ticking
        self.server_state.refusal_log.flush()


def make_server(
    app: Callable[..., Any],
    listener: socket.socket,
    *,
    certificate: Certificate | None = None,
    guests: Guests | None = None,
    protocol: type[Protocol] = Protocol,
) -> Server:
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
    return Server(config, listener, protocol, Guests() if guests is None else guests, certificate)
