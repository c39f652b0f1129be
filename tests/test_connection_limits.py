"""Slow, greedy and mute clients on real sockets: they are evicted, and the good ones answered."""

import asyncio
import gc
import math
import time
import weakref
from ipaddress import ip_network
from typing import ClassVar

import pytest
from crowd import BEGINNING, GET, KEEPING, Crowd, crowd, gone, hello, seen
from listening import QUERIES, answers, listening

from relay.config.loader import SourceConfig
from relay.server.access import TrustedProxies
from relay.server.connections import ConnectionLimiter
from relay.server.protocol import Protocol
from relay.store.sqlite import SqliteStore


async def test_a_slow_client_makes_room_and_is_told_why():
    async with crowd(limiter=ConnectionLimiter(total=3)) as clients:
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


async def test_good_ones_are_answered_while_a_slow_crowd_keeps_coming():
    """Far more slow connections than there is room for, and they come back at once."""

    async def pesters(number):
        while True:
            reader, writer = await clients.open(number, sends=BEGINNING)
            await gone(reader)
            writer.transport.abort()  # a process may have a thousand files open

    async with crowd(limiter=ConnectionLimiter(total=20)) as clients:
        pests = [asyncio.create_task(pesters(2 + number)) for number in range(60)]
        await asyncio.sleep(0.3)
        for _ in range(50):
            assert (await clients.ask(1)).status == 200
        assert clients.running.server.server_state.refusals[503] > 50
        for pest in pests:
            assert not pest.done() or pest.exception()
            pest.cancel()
        await asyncio.gather(*pests, return_exceptions=True)


async def test_one_address_takes_its_connections_from_itself():
    async with crowd(limiter=ConnectionLimiter(total=100, per_client=3)) as clients:
        good, writer = await clients.open(1, sends=KEEPING)
        await good.readuntil(b"hello")
        opened = [await clients.open(2, sends=BEGINNING) for _ in range(10)]
        await seen(clients.running, 4)
        told = [answers(await gone(reader))[0].status for reader, _ in opened[:7]]
        assert told == [503] * 7
        writer.write(GET)
        assert (await gone(good)).endswith(b"hello")


async def test_an_idle_connection_leaves_without_a_word():
    async with crowd(limiter=ConnectionLimiter(total=2)) as clients:
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

    async with crowd(waits, limiter=ConnectionLimiter(total=2)) as clients:
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
        assert not clients.running.server.server_state.refusals


# memory


ROOM = 2**20
WHOLE, PART = 200_000, b"x" * 100_000
POST = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % WHOLE


def closing(head: bytes) -> bytes:
    return head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def kept(running) -> list[int]:
    """How many bytes the server keeps of each request that is not whole."""
    connections = running.server.server_state.connections
    return [len(each.request_cycle.body) for each in connections if each.request_cycle is not None]


def refused(running) -> int:
    """How many requests were answered with 503 to make room."""
    return running.server.server_state.refusals[503]


async def slow_bodies(clients, count):
    """So many bodies, of each a half; their readers and writers, when all have been read."""
    limiter = clients.running.server.server_state.limiter
    opened = []
    for number in range(count):
        opened.append(await clients.open(2 + number, sends=POST + PART))
        async with asyncio.timeout(5):
            while kept(clients.running).count(len(PART)) + refused(clients.running) <= number:
                await asyncio.sleep(0.002)
        assert sum(kept(clients.running)) <= limiter.memory <= limiter.max_memory
    return opened


async def test_bodies_that_are_not_whole_share_the_memory():
    """Those that are slowest make room; the others come to their end, and good ones pass."""
    async with crowd(limiter=ConnectionLimiter(max_memory=ROOM)) as clients:
        limiter = clients.running.server.server_state.limiter
        opened = await slow_bodies(clients, 40)
        assert refused(clients.running) == 40 - ROOM // len(PART)
        assert (await clients.ask(1)).status == 200
        assert (await clients.ask(1, closing(POST) + PART + PART)).status == 200
        evicted = refused(clients.running)
        for reader, _ in opened[:evicted]:
            (answer,) = answers(await gone(reader))
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        for reader, writer in opened[evicted:]:
            writer.write(PART)
            await reader.readuntil(b"hello")
        assert limiter.memory == 0


async def test_control_without_a_limit_they_take_all_that_they_want():
    async with crowd(limiter=ConnectionLimiter(max_memory=math.inf)) as clients:
        await slow_bodies(clients, 40)
        assert sum(kept(clients.running)) == 40 * len(PART)
        assert not clients.running.server.server_state.refusals


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
        limiter = clients.running.server.server_state.limiter
        opened = [await clients.open(sends=beginning) for _ in range(3)]
        async with asyncio.timeout(5):
            while limiter.memory < 4000 * len(opened):
                await asyncio.sleep(0.005)
        for _, writer in opened:
            writer.transport.abort()
        await seen(clients.running, 0)
        assert limiter.memory == 0


async def test_what_is_pipelined_counts_while_it_waits():
    release = asyncio.Event()

    async def waits(scope, receive, send):
        await release.wait()
        await hello(scope, receive, send)

    async with crowd(waits) as clients:
        limiter = clients.running.server.server_state.limiter
        reader, _ = await clients.open(sends=KEEPING * 100 + GET)
        async with asyncio.timeout(5):
            while limiter.memory < len(KEEPING * 99 + GET):
                await asyncio.sleep(0.005)
        release.set()
        assert len(answers(await reader.read())) == 101
        await seen(clients.running, 0)
        assert limiter.memory == 0


def evicted(running) -> int:
    """How many connections end with the response that is being made."""
    connections = running.server.server_state.connections
    return sum(not each.request_cycle.keep_alive for each in connections if each.request_cycle)


async def test_what_is_pipelined_shares_the_memory_too():
    """Each gets the answer that is being made, whatever it has sent behind its request."""
    release = asyncio.Event()

    async def waits(scope, receive, send):
        await release.wait()
        await hello(scope, receive, send)

    async with crowd(waits, limiter=ConnectionLimiter(max_memory=100_000)) as clients:
        limiter = clients.running.server.server_state.limiter
        opened = [await clients.open(sends=KEEPING + BEGINNING + b"x" * 9000) for _ in range(20)]
        async with asyncio.timeout(5):
            while limiter.memory + 9000 * evicted(clients.running) < 9000 * 20:
                await asyncio.sleep(0.005)
        assert limiter.memory <= limiter.max_memory
        assert len(limiter) == 20
        release.set()
        last = [answers(await reader.readuntil(b"hello"))[0] for reader, _ in opened]
        assert {answer.status for answer in last} == {200}
        closing = [answer for answer in last if "connection" in answer.headers]
        assert len(closing) > 0
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
    limiter = ConnectionLimiter(
        total=10, per_client=2, proxies=TrustedProxies([ip_network("127.0.0.9/32")])
    )
    async with listening(store, sources=sources, limiter=limiter) as running:
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
    limiter = ConnectionLimiter(
        total=100, per_client=2, proxies=TrustedProxies([ip_network("127.0.0.9/32")])
    )
    post = b"POST / HTTP/1.1\r\nX-Forwarded-For: %s\r\nContent-Length: 9\r\n\r\n"
    async with crowd(limiter=limiter) as clients:
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
        assert refused(clients.running) == 1
        assert len(limiter) == 8


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
