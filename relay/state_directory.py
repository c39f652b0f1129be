"""The state directory: the store's file, and what the relay keeps beside it under its name."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STORE = "data/relay.db"
"""The store's file where relay.yaml names none, relative to the folder of relay.yaml."""
LONGEST_NAME = 80
"""Bytes: the address of a unix socket has 107, and the folder's descriptor takes some of them."""


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """The places of a relay's state. `store` is SQLite's file, as relay.yaml names it.

    Two relays may share a folder, so each place has the name of the store's file before its own.
    """

    store: Path

    @property
    def folder(self) -> Path:
        return self.store.parent

    @property
    def control_socket(self) -> Path:
        """The socket through which commands reach the relay. A long name becomes its digest."""
        name = f"{self.store.name}.sock"
        if len(os.fsencode(name)) > LONGEST_NAME:
            name = f".{hashlib.sha256(os.fsencode(self.store.name)).hexdigest()[:32]}.sock"
        return self.store.with_name(name)

    @contextlib.contextmanager
    def control_address(self) -> Iterator[str]:
        """The control socket's address, which fits into the 108 bytes of a socket's address.

        The folder is named by its descriptor, because its path may be long.
        """
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/{self.control_socket.name}"
        finally:
            os.close(folder)

    def is_served(self) -> bool:
        """Whether a relay listens. Raises PermissionError where another user owns the socket."""
        try:
            with self.control_address() as address, socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True
