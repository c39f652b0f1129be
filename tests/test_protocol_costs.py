"""Heads of requests cost time in proportion to their size, however their bytes come in."""

import asyncio
import time

import pytest
import uvicorn
from processortime import form_of_the_library, seconds

from relay.server.connections import ConnectionLimiter
from relay.server.protocol import MAX_HEAD, Protocol, ServerState

pytestmark = pytest.mark.alone

MOST = 1.0
"""As a share of the library's form, for a head of the largest size; usual is a tenth of that."""
RATIO = 2.5
RUNS = 5
TRIES = 3
"""A busy machine seldom seems to be slow in one half of the runs alone."""
TOO_SHORT = 0.01
"""Seconds; what takes less says nothing of how it grows."""
START = b"GET /callbacks/sumotext HTTP/1.1\r\n"
HEADS = {
    "short headers": b"a:\r\n",
    "long headers": b"x-header: " + b"y" * 500 + b"\r\n",
    "upgrades": b"upgrade: \t x\r\n",
    "forwarded": b"x-forwarded-for: fe80::1%z, 10.0.0.1\r\n",
    "lengths": b"content-length: 0\r\n",
    "a line without an end": b"y",
}


class Transport(asyncio.Transport):
    """A connection that nobody is at the other end of."""

    def __init__(self):
        super().__init__()
        self.written = b""

    def get_extra_info(self, name, default=None):
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data):
        self.written += data

    def is_closing(self):
        return False

    def can_write_eof(self):
        return False

    def close(self):
        pass

    abort = pause_reading = resume_reading = close


async def unanswered(_scope, _receive, _send):
    """An application that a head alone does not keep busy."""
    await asyncio.Event().wait()


@pytest.fixture
def connection():
    """Makes a connection to the relay's side of HTTP."""
    config = uvicorn.Config(unanswered, http=Protocol, lifespan="off", log_config=None)
    config.load()
    made = []

    def connect():
        protocol = Protocol(
            config, ServerState(ConnectionLimiter()), {}, asyncio.get_running_loop()
        )
        protocol.connection_made(Transport())
        made.append(protocol)
        return protocol

    yield connect
    for protocol in made:
        for task in protocol.tasks:
            task.cancel()


def taken_in(connect, header, size, step):
    """How long it takes to take in a head that comes in pieces of this size."""
    head = (START + header * (size // len(header) + 1))[: size - 4] + b"\r\n\r\n"
    protocol = connect()
    begun = time.process_time()
    for at in range(0, len(head), step):
        protocol.data_received(head[at : at + step])
    taken = time.process_time() - begun
    protocol.connection_lost(None)
    return taken


def growth(connect, header, step):
    """The time of the largest head, by the library's form and by a head of half the size."""
    sizes = (MAX_HEAD, MAX_HEAD // 2)
    runs = [
        [*(taken_in(connect, header, size, step) for size in sizes), seconds(form_of_the_library)]
        for _ in range(RUNS)
    ]
    whole, half, library = map(min, zip(*runs, strict=True))
    return whole / library, whole / half if whole > TOO_SHORT else 0.0


@pytest.mark.parametrize("step", [1, 16, MAX_HEAD])
@pytest.mark.parametrize("name", HEADS)
async def test_a_head_costs_in_proportion_to_its_size(connection, name, step):
    for _ in range(TRIES):
        cost, ratio = growth(connection, HEADS[name], step)
        if cost < MOST and ratio <= RATIO:
            break
    assert cost < MOST
    assert ratio <= RATIO


async def test_control_a_head_that_is_looked_through_again_with_each_byte(connection):
    class Forgetful(Protocol):
        """Searches all that has come for the end."""

        _scanned = property(lambda _: 0, lambda _, __: None)

    def connect():
        protocol = connection()
        protocol.__class__ = Forgetful
        return protocol

    for _ in range(TRIES):
        cost, ratio = growth(connect, b"a:\r\n", 1)
        if cost > MOST and ratio > RATIO:
            break
    assert cost > MOST
    assert ratio > RATIO
