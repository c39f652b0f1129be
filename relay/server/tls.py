"""TLS of a listener: its certificate, renewed without a restart, and the acceptor of connections.

uvloop's own server gives each handshake a minute, accepts as many as there are descriptors, and
counts none of them. Here a handshake has a deadline, is a connection for the limiter from its first
moment, and uses the certificate of that moment.
"""

import asyncio
import contextlib
import logging
import math
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relay.server.connections import ConnectionLimiter, Deadline

log = logging.getLogger("relay.server")

MAX_ACCEPTS = 64
"""Connections accepted in one turn of the event loop."""
ACCEPT_PAUSE = 0.1
"""Seconds without accepting after the system has refused a descriptor."""
NO_CHAIN = (
    "{} holds the certificate alone: where no root has issued it, senders refuse it;"
    " name the file with the chain (fullchain.pem)"
)


class Certificate:
    """A certificate with its key, in two files. Raises OSError unless they match.

    `context` is for new connections; open ones keep their own.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._loaded = self._versions()
        self.context = self._load()

    def renew(self) -> bool:
        """Load new files, if there are any; where they are wrong, the old certificate stays."""
        versions = self._versions()
        if versions == self._loaded:
            return False
        self._loaded = versions
        try:
            self.context = self._load()
        except OSError as error:
            # It may be half of a renewal, the other half of which is still to come.
            log.error("the certificate stays as it was: %s", error)
            return False
        log.info("the certificate %s has been renewed", self._files[0])
        return True

    def _versions(self) -> list[tuple[int, int, int] | None]:
        return [_version(file) for file in self._files]

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        certificate, key = self._files
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as error:
            raise OSError(
                f"{certificate} and {key} are no certificate with its key: {error.reason or error}"
            ) from error
        return context


def missing_chain(certificate: Path) -> str | None:
    """The warning about a file without a chain; None where it has one or is self-signed.

    Raises OSError.
    """
    from cryptography import x509  # noqa: PLC0415  large, and only `check` and `doctor` get here

    try:
        found = x509.load_pem_x509_certificates(certificate.read_bytes())
    except ValueError:  # a form that OpenSSL alone reads, such as TRUSTED CERTIFICATE
        return None
    if len(found) > 1 or found[0].issuer == found[0].subject:
        return None
    return NO_CHAIN.format(certificate)


def _version(file: Path) -> tuple[int, int, int] | None:
    """What differs between two versions of a file; None where it is missing."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _no_password() -> str:
    """An empty password for an encrypted key: OpenSSL would ask the terminal, and wait."""
    return ""


class TlsAcceptor:
    """TLS server on one listening socket, with the methods that uvicorn calls on asyncio's."""

    handshake_timeout = 10.0
    shutdown_timeout = 1.0
    """Seconds for the other side to confirm the end of a TLS connection."""

    def __init__(
        self,
        listener: socket.socket,
        certificate: Certificate,
        limiter: ConnectionLimiter,
        make_protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        self.certificate = certificate
        self.limiter = limiter
        self.make_protocol = make_protocol
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[_Handshake] = set()
        self._closed = False

    def start(self, backlog: int) -> None:
        self._listener.listen(backlog)
        self._resume_accepting()

    def close(self) -> None:
        """Accept the connections that wait in the kernel now, and no more."""
        if not self._closed:
            self._accept()
            self._closed = True
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Cut the handshakes that are still going on, and return when all have ended."""
        for handshake in self._handshakes:
            handshake.evict()
        await asyncio.gather(*(handshake.task for handshake in self._handshakes))

    def _resume_accepting(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            for _ in range(MAX_ACCEPTS):
                accepted, peer = self._listener.accept()
                accepted.setblocking(False)
                self._start_handshake(accepted, peer)
        except (BlockingIOError, ConnectionAbortedError):
            pass  # no more wait; or one has gone again, and the next reading event has the rest
        except OSError as error:
            log.error("no connection can be accepted: %s", error.strerror)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(ACCEPT_PAUSE, self._resume_accepting)

    def _start_handshake(self, accepted: socket.socket, peer: Any) -> None:
        handshake = _Handshake(self, accepted, peer[0] if isinstance(peer, tuple) else "")
        self._handshakes.add(handshake)
        handshake.task.add_done_callback(lambda _: self._handshakes.discard(handshake))


class _Handshake:
    """One TLS handshake: a connection for the limiter until its HTTP connection is one."""

    def __init__(self, acceptor: TlsAcceptor, accepted: socket.socket, host: str) -> None:
        self._acceptor = acceptor
        self._socket = accepted
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self.evict)
        self._deadline.set(acceptor.handshake_timeout)
        self.task = self._loop.create_task(self._run())
        acceptor.limiter.add(self, host)

    def elapsed_share(self) -> float:
        """The part of the handshake's time that is used up."""
        return self._deadline.elapsed_share()

    def evict(self) -> None:
        """Cut the connection. No answer can be sent yet."""
        self._acceptor.limiter.remove(self, self._host)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _run(self) -> None:
        with contextlib.suppress(OSError):  # ssl.SSLError is one
            await self._loop.connect_accepted_socket(
                self._acceptor.make_protocol,
                self._socket,
                ssl=self._acceptor.certificate.context,
                ssl_handshake_timeout=math.inf,  # the deadline allows for stalls of the loop
                ssl_shutdown_timeout=self._acceptor.shutdown_timeout,
            )
        self._deadline.close()
        self._acceptor.limiter.remove(self, self._host)
