"""The doorman: accepts connections and shakes hands over TLS, before they are ones of HTTP.

uvloop's own server waits a minute for each handshake, of as many as there are descriptors, and
tells nobody. Here a handshake has its time, counts as a connection from its first moment, and
uses the certificate of that moment.
"""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable
from typing import Any

from relay.server.connections import Guests
from relay.server.deadline import Deadline
from relay.server.tls import Certificate

log = logging.getLogger("relay.server")

AT_ONCE = 64
"""So many are accepted before others have their turn."""
REST = 0.1
"""Seconds without accepting after the system has refused a descriptor."""


class Doorman:
    """Stands at one listening socket. It has of asyncio's servers what uvicorn wants of them."""

    handshake_timeout = 10.0
    goodbye_timeout = 1.0
    """Seconds that a closed connection waits for the other side to say that it has heard."""

    def __init__(
        self,
        listener: socket.socket,
        certificate: Certificate,
        guests: Guests,
        make_protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        self.certificate = certificate
        self.guests = guests
        self.make_protocol = make_protocol
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._greetings: set[_Greeting] = set()
        self._closed = False

    def start(self, backlog: int) -> None:
        self._listener.listen(backlog)
        self._attend()

    def close(self) -> None:
        """Accept what waits by now, and no more."""
        if not self._closed:
            self._accept()
            self._closed = True
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Return when nobody's hand is being shaken; who has not let go by now is let go."""
        for greeting in self._greetings:
            greeting.send_away()
        await asyncio.gather(*(greeting.task for greeting in self._greetings))

    def _attend(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            for _ in range(AT_ONCE):
                accepted, peer = self._listener.accept()
                accepted.setblocking(False)
                self._greet(accepted, peer)
        except (BlockingIOError, ConnectionAbortedError):
            pass  # that was all; or one has gone again, and there may be more
        except OSError as error:
            log.error("no connection can be accepted: %s", error.strerror)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(REST, self._attend)

    def _greet(self, accepted: socket.socket, peer: Any) -> None:
        greeting = _Greeting(self, accepted, peer[0] if isinstance(peer, tuple) else "")
        self._greetings.add(greeting)
        greeting.task.add_done_callback(lambda _: self._greetings.discard(greeting))


class _Greeting:
    """One handshake."""

    def __init__(self, doorman: Doorman, accepted: socket.socket, host: str) -> None:
        self._doorman = doorman
        self._socket = accepted
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self.send_away)
        self._deadline.set(doorman.handshake_timeout)
        self.task = self._loop.create_task(self._shake())
        doorman.guests.join(self, host)

    def waited(self) -> float:
        """Which share of its time is up."""
        return self._deadline.waited()

    def send_away(self) -> None:
        """Make room for others. There is no way yet to say why."""
        self._doorman.guests.leave(self, self._host)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _shake(self) -> None:
        with contextlib.suppress(OSError):  # ssl.SSLError is one
            await self._loop.connect_accepted_socket(
                self._doorman.make_protocol,
                self._socket,
                ssl=self._doorman.certificate.context,
                ssl_handshake_timeout=math.inf,  # the deadline knows of standstills
                ssl_shutdown_timeout=self._doorman.goodbye_timeout,
            )
        self._deadline.cancel()
        self._doorman.guests.leave(self, self._host)
