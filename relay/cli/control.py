"""The control socket of the running relay: its requests and answers, and a GET that blocks.

`relay status` asks one question, and importing asyncio would take it longer than all else.
"""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import click
import httptools
import orjson

from relay import fsutil
from relay.api import ROOT
from relay.ownership import user_name
from relay.state_directory import StateDirectory

TIMEOUT = 90.0
"""Seconds without a byte of the answer. A reload tries out the configuration for up to 60 s."""
CHUNK = 64 * 1024


class ResponseReader:
    """The answer to a request, as httptools reads it."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.complete = False

    @property
    def status(self) -> int:
        status: int = self._parser.get_status_code()
        return status

    def feed(self, data: bytes) -> None:
        """Read on. Raises EOFError where the answer ends too early."""
        if not data:
            raise EOFError
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


def served(state: StateDirectory) -> bool:
    """Whether the service runs."""
    try:
        return state.is_served()
    except PermissionError as error:
        owner = user_name(fsutil.existing(state.store).stat().st_uid)
        raise click.ClickException(f"the store belongs to {owner}: sudo -u {owner} …") from error


def get(state: StateDirectory, path: str) -> Any:
    """The JSON of an answer. Raises ClickException."""
    reader = ResponseReader()
    with (
        answers_expected(),
        state.control_address() as address,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(TIMEOUT)
        connection.connect(address)
        connection.sendall(encode("GET", f"{ROOT}{path}", b""))
        while not reader.complete:
            reader.feed(connection.recv(CHUNK))
    return decode(reader.status, reader.body)


def encode(method: str, path: str, body: bytes) -> bytes:
    """A request, the only one of its connection."""
    head = f"{method} {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def decode(status: int, content: bytes) -> Any:
    """The JSON of an answer. Raises ClickException, with its detail, for an error."""
    if 200 <= status < 300:
        return orjson.loads(content)
    try:
        detail = str(orjson.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"the relay answered {status}"
    raise click.ClickException(detail)


@contextlib.contextmanager
def answers_expected() -> Iterator[None]:
    """Raises ClickException where the connection ends before the answer does."""
    try:
        yield
    except (OSError, EOFError, httptools.HttpParserError) as error:
        raise click.ClickException(
            "the relay stopped before it answered; see `relay status` before you ask again"
        ) from error
