"""The listeners: the sockets on which requests come in. They outlive a configuration."""

import contextlib
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Self

from relay.address import Address
from relay.server.activation import activated
from relay.server.http_server import listen

PUBLIC = "public"
ADMIN = "admin"

Handles = list[tuple[str, str | None, int]]


@dataclass(slots=True)
class Listeners:
    """What was there before relay.yaml was read, and what is bound for it.

    `given` were passed by systemd, by their use, and replace what relay.yaml says; `own` are the
    others, by their use and their address as in relay.yaml. Servers get copies, which they close;
    while the socket is open here, too, new connections wait in the kernel.
    """

    given: dict[str, list[socket.socket]] = field(default_factory=dict)
    own: dict[tuple[str, Address], socket.socket] = field(default_factory=dict)

    @classmethod
    def activated(cls, environ: MutableMapping[str, str]) -> Self:
        """Those that systemd passed."""
        public, admin = activated(environ)
        return cls({PUBLIC: public, ADMIN: admin})

    @classmethod
    def of_handles(cls, handles: Handles) -> Self:
        """Those that the last image of this process kept."""
        listeners = cls()
        for use, address, descriptor in handles:
            kept = socket.socket(fileno=descriptor)
            kept.set_inheritable(False)
            if address is None:
                listeners.given.setdefault(use, []).append(kept)
            else:
                listeners.own[use, Address.parse(address)] = kept
        return listeners

    def handles(self) -> Handles:
        """What the next image has to know of them: use, address unless given, descriptor."""
        given = [(use, None, each.fileno()) for use, some in self.given.items() for each in some]
        return given + [(use, str(at), each.fileno()) for (use, at), each in self.own.items()]

    def descriptors(self) -> list[int]:
        return [descriptor for _, _, descriptor in self.handles()]

    def bind(
        self, public: Address, admin: Address
    ) -> tuple[list[socket.socket], list[socket.socket]]:
        """Copies of the sockets for the two listeners. Raises OSError for what is not to be had."""
        for other in self.own.keys() - {(PUBLIC, public), (ADMIN, admin)}:
            self.own.pop(other).close()
        with contextlib.ExitStack() as copies:
            outside, inside = (
                [copies.enter_context(each.dup()) for each in self._for(use, address)]
                for use, address in ((PUBLIC, public), (ADMIN, admin))
            )
            copies.pop_all()  # all are to be had: from here on they are the servers' to close
        return outside, inside

    def _for(self, use: str, address: Address) -> list[socket.socket]:
        if given := self.given.get(use):
            return given
        if (use, address) not in self.own:
            self.own[use, address] = listen(address)
        return [self.own[use, address]]

    def close(self) -> None:
        """Let go of them: the system refuses connections as soon as the servers have closed."""
        for some in (self.own.values(), *self.given.values()):
            for each in some:
                each.close()
