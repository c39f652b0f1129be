"""Listening sockets: TCP sockets that outlive a reload, systemd's, and the control socket.

The control socket is a unix socket beside the store; through it commands reach the running service.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Self

from relay.state_directory import StateDirectory
from relay.units import HostPort

PUBLIC = "public"
ADMIN = "admin"

BACKLOG = 2048

FIRST_DESCRIPTOR = 3
"""The lowest descriptor that systemd passes."""
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
UNNAMED = ("", "unknown", "public")
"""Sockets with these names, or with the name of a socket unit, are the public listener."""


Handles = list[tuple[str, str | None, int]]

log = logging.getLogger("relay")


@dataclass(slots=True)
class Listeners:
    """The listening TCP sockets of the process.

    `activated` were passed by systemd, by their use; they replace the addresses in relay.yaml.
    `bound` are the others, by their use and their address in relay.yaml. A server gets a copy and
    closes it. As long as the socket is open here, new connections wait in the kernel.
    """

    activated: dict[str, list[socket.socket]] = field(default_factory=dict)
    bound: dict[tuple[str, HostPort], socket.socket] = field(default_factory=dict)

    @classmethod
    def from_systemd(cls, environ: MutableMapping[str, str]) -> Self:
        """The sockets that systemd passed to this process."""
        public, admin = activated_sockets(environ)
        return cls({PUBLIC: public, ADMIN: admin})

    @classmethod
    def from_handles(cls, handles: Handles) -> Self:
        """The sockets that the previous image of this process left open."""
        listeners = cls()
        for use, address, descriptor in handles:
            listener = socket.socket(fileno=descriptor)
            listener.set_inheritable(False)
            if address is None:
                listeners.activated.setdefault(use, []).append(listener)
            else:
                listeners.bound[use, HostPort.parse(address)] = listener
        return listeners

    def handles(self) -> Handles:
        """Use, address in relay.yaml (None if activated) and descriptor of each socket."""
        activated = [(use, None, each.fileno()) for use, each in self._activated()]
        return activated + [(use, str(at), each.fileno()) for (use, at), each in self.bound.items()]

    def descriptors(self) -> list[int]:
        return [descriptor for _, _, descriptor in self.handles()]

    def bind(
        self, public: HostPort, admin: HostPort
    ) -> tuple[list[socket.socket], list[socket.socket]]:
        """Copies of the sockets for the two listeners. Raises OSError for an address in use."""
        for other in self.bound.keys() - {(PUBLIC, public), (ADMIN, admin)}:
            self.bound.pop(other).close()
        with contextlib.ExitStack() as copies:
            public_sockets, admin_sockets = (
                [copies.enter_context(each.dup()) for each in self._sockets(use, address)]
                for use, address in ((PUBLIC, public), (ADMIN, admin))
            )
            copies.pop_all()  # all could be bound: the servers close the copies
        return public_sockets, admin_sockets

    def listen(self) -> None:
        """Listen on all sockets. Connections wait in the kernel until the servers are started."""
        for each in self._all():
            each.listen(BACKLOG)

    def close(self) -> None:
        """Close all sockets. The kernel refuses connections once the servers' copies are closed."""
        for each in self._all():
            each.close()

    def _sockets(self, use: str, address: HostPort) -> list[socket.socket]:
        if activated := self.activated.get(use):
            return activated
        if (use, address) not in self.bound:
            self.bound[use, address] = bind_tcp(address)
        return [self.bound[use, address]]

    def _activated(self) -> Iterator[tuple[str, socket.socket]]:
        return ((use, each) for use, sockets in self.activated.items() for each in sockets)

    def _all(self) -> Iterator[socket.socket]:
        yield from self.bound.values()
        yield from (each for _, each in self._activated())


def bind_tcp(address: HostPort) -> socket.socket:
    """A socket bound to the address, not yet listening. Raises OSError."""
    family, kind, protocol, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


# socket activation: the protocol of sd_listen_fds(3)


def activated_sockets(
    environ: MutableMapping[str, str], first: int = FIRST_DESCRIPTOR
) -> tuple[list[socket.socket], list[socket.socket]]:
    """The sockets that systemd passed for the public listener and for the admin listener.

    The variables are removed: they are for this process, not for its children.
    """
    values = {name: environ.pop(name, "") for name in VARIABLES}
    public: list[socket.socket] = []
    admin: list[socket.socket] = []
    if values["LISTEN_PID"] != str(os.getpid()):
        return public, admin
    number = int(values["LISTEN_FDS"]) if values["LISTEN_FDS"].isdecimal() else 0
    names = values["LISTEN_FDNAMES"].split(":") if values["LISTEN_FDNAMES"] else []
    for index in range(number):
        name = names[index] if index < len(names) else ""
        if listener := _activated_socket(first + index, name):
            (admin if name == ADMIN else public).append(listener)
    return public, admin


def _activated_socket(descriptor: int, name: str) -> socket.socket | None:
    """The descriptor as a listening socket; None, with a warning, for anything else."""
    if name not in (*UNNAMED, ADMIN) and not name.endswith(".socket"):
        log.warning(
            "the descriptor %r that was passed is neither the public listener nor admin",
            name,
        )
        return None
    try:
        listener = socket.socket(fileno=descriptor)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        log.warning("the descriptor %d that was passed is no socket: %s", descriptor, error)
        return None
    if not listens or listener.family not in (socket.AF_INET, socket.AF_INET6):
        log.warning("the descriptor %d that was passed is no listening TCP socket", descriptor)
        listener.close()
        return None
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


# the control socket


def listen_control(state: StateDirectory) -> socket.socket:
    """A listening control socket that only the store's owner may use.

    Call it under the store's lock: an existing socket then belongs to a dead process.
    """
    state.control_socket.unlink(missing_ok=True)
    with state.control_address() as address:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Before it has a name, so that there is no moment in which others may connect.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(address)
    listener.listen()
    listener.setblocking(False)
    return listener
