"""Slow, greedy and mute clients on real sockets: they make room, the good ones are answered.

Clients come from addresses of their own: all of 127.0.0.0/8 is this machine.
"""

import asyncio
import contextlib
import errno
import gc
import math
import socket
import ssl
import time
import weakref
from ipaddress import ip_network
from typing import ClassVar

import pytest
from certificates import certify
from listening import QUERIES, answers, listening, serving
from standstill import stand_still

from relay.address import Address
from relay.config.loader import SourceConfig
from relay.server.connections import Guests
from relay.server.http_server import make_server
from relay.server.protocol import Protocol
from relay.server.proxies import Proxies
from relay.server.sockets import bind_tcp
from relay.server.tls import Certificate
from relay.server.tls_acceptor import Doorman
from relay.store.sqlite import SqliteStore

GET = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
KEEPING = b"GET / HTTP/1.1\r\n\r\n"
BEGINNING = b"GET / HTTP/1.1\r\nX: "


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


class Crowd:
    """Connections to a listener, each from the address that is asked for."""

    def __init__(self, running) -> None:
        self.running = running
        self._writers = []

    async def open(self, number=1, *, sends=b"", **options):
        """A connection from 127.0.0.`number`."""
        streams = await asyncio.open_connection(
            "127.0.0.1", self.running.port, local_addr=(f"127.0.0.{number}", 0), **options
        )
        self._writers.append(streams[1])
        if sends:
            streams[1].write(sends)
        return streams

    async def ask(self, number=1, request=GET):
        """The one answer to a request on a connection of its own."""
        reader, _ = await self.open(number, sends=request)
        (answer,) = answers(await reader.read())
        return answer

    def close(self):
        for writer in self._writers:
            writer.close()


@contextlib.asynccontextmanager
async def crowd(application=hello, **options):
    async with serving(application, **options) as running:
        found = Crowd(running)
        try:
            yield found
        finally:
            found.close()


async def seen(running, count) -> None:
    """Wait until the server has that many connections."""
    async with asyncio.timeout(5):
        while len(running.server.server_state.guests) != count:
            await asyncio.sleep(0.005)


async def gone(reader) -> bytes:
    """What a connection says until it ends, which has to be soon."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def test_a_slow_client_makes_room_and_is_told_why():
    async with crowd(guests=Guests(total=3)) as clients:
        slow, _ = await clients.open(2, sends=BEGINNING)
        await seen(clients.running, 1)
        await asyncio.sleep(0.05)
        for number in (3, 4):
            await clients.open(number, sends=BEGINNING)
        await seen(clients.running, 3)
        assert (await clients.ask(5)).status == 200
        (answer,) = answers(await gone(slow))
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert clients.running.server.server_state.refusals == {503: 1}
        assert clients.running.server.server_state.guests.sent_away == 1


async def test_good_ones_are_answered_while_a_slow_crowd_keeps_coming():
    """Far more slow connections than there is room for, and they come back at once."""

    async def pesters(number):
        while True:
            reader, _ = await clients.open(number, sends=BEGINNING)
            await gone(reader)

    async with crowd(guests=Guests(total=20)) as clients:
        pests = [asyncio.create_task(pesters(2 + number)) for number in range(60)]
        await asyncio.sleep(0.3)
        for _ in range(50):
            assert (await clients.ask(1)).status == 200
        assert clients.running.server.server_state.guests.sent_away > 50
        for pest in pests:
            assert not pest.done() or pest.exception()
            pest.cancel()
        await asyncio.gather(*pests, return_exceptions=True)


async def test_one_address_takes_its_connections_from_itself():
    async with crowd(guests=Guests(total=100, each=3)) as clients:
        good, writer = await clients.open(1, sends=KEEPING)
        await good.readuntil(b"hello")
        opened = [await clients.open(2, sends=BEGINNING) for _ in range(10)]
        await seen(clients.running, 4)
        told = [answers(await gone(reader))[0].status for reader, _ in opened[:7]]
        assert told == [503] * 7
        writer.write(GET)
        assert (await gone(good)).endswith(b"hello")


async def test_an_idle_connection_leaves_without_a_word():
    async with crowd(guests=Guests(total=2)) as clients:
        idle, _ = await clients.open(2, sends=KEEPING)
        await idle.readuntil(b"hello")
        await asyncio.sleep(0.05)
        await clients.open(3, sends=BEGINNING)
        await seen(clients.running, 2)
        assert (await clients.ask(4)).status == 200
        assert await gone(idle) == b""


async def test_what_is_being_answered_is_never_cut():
    """Where all are being answered, the newcomer is refused; nobody else notices."""
    release = asyncio.Event()

    async def waits(scope, receive, send):
        await release.wait()
        await hello(scope, receive, send)

    async with crowd(waits, guests=Guests(total=2)) as clients:
        busy = [await clients.open(2, sends=GET), await clients.open(2, sends=GET)]
        await seen(clients.running, 2)
        await asyncio.sleep(0.05)
        reader, _ = await clients.open(3)
        (answer,) = answers(await gone(reader))
        assert answer.status == 503
        release.set()
        for reader, _ in busy:
            assert (await gone(reader)).endswith(b"hello")


async def test_control_without_limits_they_all_stay():
    async with crowd() as clients:
        for number in range(40):
            await clients.open(2 + number, sends=BEGINNING)
        await seen(clients.running, 40)
        assert (await clients.ask(1)).status == 200
        assert clients.running.server.server_state.guests.sent_away == 0


# memory


ROOM = 2**20
WHOLE, PART = 200_000, b"x" * 100_000
POST = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % WHOLE


def closing(head: bytes) -> bytes:
    return head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def kept(running) -> list[int]:
    """How many bytes the server keeps of each request that is not whole."""
    connections = running.server.server_state.connections
    return [len(each.exchange.body) for each in connections if each.exchange is not None]


async def slow_bodies(clients, count):
    """So many bodies, of each a half; their readers and writers, when all have been read."""
    guests = clients.running.server.server_state.guests
    opened = []
    for number in range(count):
        opened.append(await clients.open(2 + number, sends=POST + PART))
        async with asyncio.timeout(5):
            while kept(clients.running).count(len(PART)) + guests.sent_away <= number:
                await asyncio.sleep(0.002)
        assert sum(kept(clients.running)) <= guests.held <= guests.memory
    return opened


async def test_bodies_that_are_not_whole_share_the_memory():
    """Those that are slowest make room; the others come to their end, and good ones pass."""
    async with crowd(guests=Guests(memory=ROOM)) as clients:
        guests = clients.running.server.server_state.guests
        opened = await slow_bodies(clients, 40)
        assert guests.sent_away == 40 - ROOM // len(PART)
        assert (await clients.ask(1)).status == 200
        assert (await clients.ask(1, closing(POST) + PART + PART)).status == 200
        for reader, _ in opened[: guests.sent_away]:
            (answer,) = answers(await gone(reader))
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        for reader, writer in opened[guests.sent_away :]:
            writer.write(PART)
            await reader.readuntil(b"hello")
        assert guests.held == 0


async def test_control_without_a_limit_they_take_all_that_they_want():
    async with crowd(guests=Guests(memory=math.inf)) as clients:
        await slow_bodies(clients, 40)
        assert sum(kept(clients.running)) == 40 * len(PART)
        assert clients.running.server.server_state.guests.sent_away == 0


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /" + b"x" * 10_000,
        b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000,
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n" + b"a: \r\n" * 1000 + b"\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + b"x" * 4000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 4000,
    ],
)
async def test_all_parts_of_a_request_count(beginning):
    """And no longer than they are there."""
    async with crowd() as clients:
        guests = clients.running.server.server_state.guests
        opened = [await clients.open(sends=beginning) for _ in range(3)]
        async with asyncio.timeout(5):
            while guests.held < 4000 * len(opened):
                await asyncio.sleep(0.005)
        for _, writer in opened:
            writer.transport.abort()
        await seen(clients.running, 0)
        assert guests.held == 0


async def test_what_is_pipelined_counts_while_it_waits():
    release = asyncio.Event()

    async def waits(scope, receive, send):
        await release.wait()
        await hello(scope, receive, send)

    async with crowd(waits) as clients:
        guests = clients.running.server.server_state.guests
        reader, _ = await clients.open(sends=KEEPING * 100 + GET)
        async with asyncio.timeout(5):
            while guests.held < len(KEEPING * 99 + GET):
                await asyncio.sleep(0.005)
        release.set()
        assert len(answers(await reader.read())) == 101
        await seen(clients.running, 0)
        assert guests.held == 0


async def test_what_is_pipelined_shares_the_memory_too():
    """Each gets the answer that is being made, whatever it has sent behind its request."""
    release = asyncio.Event()

    async def waits(scope, receive, send):
        await release.wait()
        await hello(scope, receive, send)

    async with crowd(waits, guests=Guests(memory=100_000)) as clients:
        guests = clients.running.server.server_state.guests
        opened = [await clients.open(sends=KEEPING + BEGINNING + b"x" * 9000) for _ in range(20)]
        async with asyncio.timeout(5):
            while guests.held + 9000 * guests.sent_away < 9000 * 20:
                await asyncio.sleep(0.005)
        assert guests.held <= guests.memory
        assert len(guests) == 20
        release.set()
        last = [answers(await reader.readuntil(b"hello"))[0] for reader, _ in opened]
        assert {answer.status for answer in last} == {200}
        closing = [answer for answer in last if "connection" in answer.headers]
        assert len(closing) == guests.sent_away > 0
        assert (await clients.ask(2)).status == 200


# who does not read


class Brief(Protocol):
    receive_timeout = 0.5
    idle_timeout = 0.5
    linger_timeout = 0.2


async def large(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(400):
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize(
    "request_bytes", [KEEPING, GET, KEEPING * 1000], ids=["kept", "closing", "pipelined"]
)
async def test_a_client_that_does_not_read_is_cut(request_bytes):
    async with crowd(large, protocol=Brief) as clients:
        reader, writer = await clients.open()
        reader._transport.pause_reading()
        writer.write(request_bytes)
        await seen(clients.running, 1)
        start = time.monotonic()
        await seen(clients.running, 0)
        assert time.monotonic() - start < 10


async def test_a_client_that_reads_slowly_gets_all_of_it():
    async def middling(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 8_000_000})

    async with crowd(middling, protocol=Brief) as clients:
        reader, writer = await clients.open(sends=KEEPING)
        size = 0
        while size < 8_000_000:
            size += len(await reader.read(400_000))
            await asyncio.sleep(0.04)
        writer.close()


# behind a proxy


FORWARDED = b"GET /callbacks/sumotext?%s HTTP/1.1\r\nConnection: %s\r\nX-Forwarded-For: %s\r\n\r\n"


def forwarded(address: bytes, *, connection: bytes = b"close") -> bytes:
    return FORWARDED % (QUERIES[0], connection, address)


@pytest.fixture
async def store(tmp_path):
    opened = await SqliteStore.open(tmp_path / "relay.db")
    yield opened
    await opened.close()


@pytest.fixture
async def proxied(store):
    """Lets in 203.0.113.0/24 alone, and trusts 127.0.0.9."""
    sources = {"sumotext": SourceConfig(allow_from=["203.0.113.0/24"])}
    guests = Guests(total=10, each=2, proxies=Proxies([ip_network("127.0.0.9/32")]))
    async with listening(store, sources=sources, guests=guests) as running:
        found = Crowd(running)
        yield found
        found.close()


@pytest.mark.parametrize(
    ("number", "address", "status"),
    [
        (9, b"203.0.113.7", 200),
        (9, b"198.51.100.1, 203.0.113.7, 127.0.0.9", 200),
        (9, b"198.51.100.1", 403),
        (9, b"203.0.113.7, 198.51.100.1", 403),
        (9, b"203.0.113.7, rubbish", 403),
        (9, b"", 403),
        # The control: who is no proxy of ours may claim what it likes.
        (8, b"203.0.113.7", 403),
        (1, b"203.0.113.7, 127.0.0.9", 403),
    ],
)
async def test_allow_from_is_about_the_client_behind_a_trusted_proxy(
    proxied, number, address, status
):
    assert (await proxied.ask(number, forwarded(address))).status == status


async def test_connections_count_for_the_client_while_its_request_is_there(store):
    """Three slow bodies of one client are one too many; the proxy's idle connections are not."""
    guests = Guests(total=100, each=2, proxies=Proxies([ip_network("127.0.0.9/32")]))
    post = b"POST / HTTP/1.1\r\nX-Forwarded-For: %s\r\nContent-Length: 9\r\n\r\n"
    async with crowd(guests=guests) as clients:
        idle = [await clients.open(9, sends=KEEPING) for _ in range(5)]
        for reader, _ in idle:
            await reader.readuntil(b"hello")
        greedy = []
        for _ in range(3):
            greedy.append(await clients.open(9, sends=post % b"203.0.113.7"))
            await asyncio.sleep(0.05)
        other, writer = await clients.open(9, sends=post % b"203.0.113.8")
        (answer,) = answers(await gone(greedy[0][0]))
        assert answer.status == 503
        for _, stream in greedy[1:]:
            stream.write(b"123456789")
        for reader, _ in greedy[1:]:
            await reader.readuntil(b"hello")  # and it counts for the proxy again
        writer.write(b"123456789")
        await other.readuntil(b"hello")
        assert guests.sent_away == 1
        assert len(guests) == 8


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return certify(tmp_path_factory.mktemp("tls"))


def trusting(certificate):
    return {
        "ssl": ssl.create_default_context(cafile=certificate[0]),
        "server_hostname": "localhost",
    }


async def test_a_handshake_that_does_not_come_is_cut(certificate, monkeypatch):
    monkeypatch.setattr(Doorman, "handshake_timeout", 0.3)
    async with crowd(tls=certificate) as clients:
        mute, _ = await clients.open(2)
        half, _ = await clients.open(2, sends=b"\x16\x03\x01\x02\x00")
        await seen(clients.running, 2)
        start = time.monotonic()
        assert await gone(mute) == await gone(half) == b""
        assert time.monotonic() - start < 10
        await seen(clients.running, 0)


async def test_a_handshake_that_came_during_a_standstill_is_taken(certificate, monkeypatch):
    monkeypatch.setattr(Doorman, "handshake_timeout", 0.3)
    hello_of_tls = ssl.MemoryBIO()
    context = trusting(certificate)["ssl"]
    shaking = context.wrap_bio(ssl.MemoryBIO(), hello_of_tls, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    async with crowd(tls=certificate) as clients:
        with socket.create_connection(("127.0.0.1", clients.running.port)) as client:
            client.setblocking(False)
            await seen(clients.running, 1)
            await stand_still(0.6, lambda: client.sendall(hello_of_tls.read()))
            async with asyncio.timeout(5):
                assert await asyncio.get_running_loop().sock_recv(client, 1)


async def test_what_is_no_handshake_is_closed_without_a_word_in_the_log(certificate, caplog):
    async with crowd(tls=certificate) as clients:
        for sent in (GET, b"\x00" * 100, b"\x16\x03\x01\x00\x05hello"):
            reader, _ = await clients.open(sends=sent)
            await gone(reader)
        reader, writer = await clients.open(sends=b"\x16")
        writer.close()
        await seen(clients.running, 0)
    assert not caplog.messages


async def test_slow_handshakes_make_room_too(certificate):
    async with crowd(tls=certificate, guests=Guests(total=100, each=5)) as clients:
        slow = [await clients.open(2, sends=b"\x16") for _ in range(30)]
        for _ in range(5):
            reader, _ = await clients.open(1, sends=GET, **trusting(certificate))
            assert (await gone(reader)).endswith(b"hello")
        for reader, _ in slow[:25]:
            assert await gone(reader) == b""
        await seen(clients.running, 5)


async def test_a_connection_over_tls_counts_once(certificate):
    async with crowd(tls=certificate, guests=Guests()) as clients:
        reader, writer = await clients.open(sends=KEEPING, **trusting(certificate))
        await reader.readuntil(b"hello")
        assert len(clients.running.server.server_state.guests) == 1
        writer.close()
        await seen(clients.running, 0)


async def test_a_drain_lets_handshakes_come_to_their_end_and_cuts_the_slow_ones(certificate):
    async with crowd(tls=certificate) as clients:
        clients.running.server.settle = 0.3
        mute, _ = await clients.open(2)
        await seen(clients.running, 1)
        draining = asyncio.create_task(clients.running.server.drain(patience=1))
        reader, _ = await clients.open(1, sends=GET, **trusting(certificate))
        assert (await gone(reader)).endswith(b"hello")
        async with asyncio.timeout(10):
            await draining
        assert await gone(mute) == b""


class Poor(socket.socket):
    """A listening socket of a process that may open no more, for a while."""

    refusals = 3

    def accept(self):
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_doorman_without_descriptors_rests_and_goes_on(certificate, caplog):
    listener = Poor(fileno=bind_tcp(Address("127.0.0.1", 0)).detach())
    server = make_server(hello, listener, certificate=Certificate(*certificate))
    server.settle = 0.01
    await server.start()
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(*server.address, **trusting(certificate))
            writer.write(GET)
            assert (await reader.read()).endswith(b"hello")
            writer.close()
    finally:
        await server.drain(patience=1)
    told = [each for each in caplog.messages if "Too many open files" in each]
    assert len(told) == 3


# what is left of a connection


class Remembered(Protocol):
    """As patient as the short form, and known after it has gone."""

    receive_timeout = 0.3
    linger_timeout = 0.1
    made: ClassVar[list[weakref.ref]] = []

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.made.append(weakref.ref(self))


async def test_a_connection_that_has_gone_leaves_nothing_to_the_garbage_collector():
    """What lives for seconds is collected after hours: slow clients would fill the memory."""
    Remembered.made.clear()
    gc.disable()
    try:
        async with crowd(hello, protocol=Remembered) as clients:
            assert (await clients.ask()).body == b"hello"
            mute, _ = await clients.open(2)
            slow, _ = await clients.open(3, sends=BEGINNING)
            for reader in (mute, slow):
                assert (await gone(reader)).startswith(b"HTTP/1.1 408")
            _, writer = await clients.open(4, sends=KEEPING)
            await seen(clients.running, 1)
            writer.transport.abort()
            await seen(clients.running, 0)
            async with asyncio.timeout(10):
                while any(made() for made in Remembered.made):
                    await asyncio.sleep(0.01)
            assert len(Remembered.made) == 4
    finally:
        gc.enable()
