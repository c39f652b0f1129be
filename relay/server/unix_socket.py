"""The unix socket beside the store, through which commands reach the running service."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx

LONGEST_NAME = 80
"""Bytes: the address of a socket has 107, and the folder's descriptor takes some of them."""


def path_of(store: Path) -> Path:
    """Where the service that owns this store listens. A long name is told by its digest."""
    name = f"{store.name}.sock"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(store.name)).hexdigest()[:32]}.sock"
    return store.with_name(name)


def listen(store: Path) -> socket.socket:
    """A listening socket that only the store's owner may use.

    Call it under the store's lock: a socket that is there already is then a dead one's.
    """
    path_of(store).unlink(missing_ok=True)
    with _short(path_of(store)) as address:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Before it has a name, so that there is no moment in which others may connect.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(address)
    listener.listen()
    listener.setblocking(False)
    return listener


def answers(store: Path) -> bool:
    """Whether a service listens. Raises PermissionError where that is another user's business."""
    try:
        with _short(path_of(store)) as address, socket.socket(socket.AF_UNIX) as trial:
            trial.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


@contextlib.contextmanager
def transport(store: Path) -> Iterator[httpx.AsyncHTTPTransport]:
    """What carries httpx's requests to the service."""
    with _short(path_of(store)) as address:
        yield httpx.AsyncHTTPTransport(uds=address)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for `path` that fits into the 108 bytes of a socket's address.

    The folder may lie deep, so it is named by its descriptor.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
