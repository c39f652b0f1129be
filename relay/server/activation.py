"""Activation: the listening sockets that systemd passes to a service (sd_listen_fds' protocol)."""

import logging
import os
import socket
from collections.abc import MutableMapping

FIRST = 3
"""The number of the first descriptor that is passed."""
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
ADMIN = "admin"
UNNAMED = ("", "unknown", "public")
"""Of these, as of the name of a socket unit, the public listener is made."""

log = logging.getLogger("relay")


def activated(
    environ: MutableMapping[str, str], first: int = FIRST
) -> tuple[list[socket.socket], list[socket.socket]]:
    """The sockets of the public listener and of the admin listener that were passed, if any.

    The variables are removed: they are meant for this process, and for none that it starts.
    """
    given = {name: environ.pop(name, "") for name in VARIABLES}
    public: list[socket.socket] = []
    admin: list[socket.socket] = []
    if given["LISTEN_PID"] != str(os.getpid()):
        return public, admin
    number = int(given["LISTEN_FDS"]) if given["LISTEN_FDS"].isdecimal() else 0
    names = given["LISTEN_FDNAMES"].split(":") if given["LISTEN_FDNAMES"] else []
    for index in range(number):
        name = names[index] if index < len(names) else ""
        if listener := _listener(first + index, name):
            (admin if name == ADMIN else public).append(listener)
    return public, admin


def _listener(descriptor: int, name: str) -> socket.socket | None:
    """The descriptor as a listening socket; None for anything else, which is told of."""
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
