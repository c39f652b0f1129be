"""The server: it starts, serves TLS, and ends without losing what it has accepted."""

import asyncio
import os
import socket
import ssl
import time

import pytest
from certificates import certify
from listening import answers, serving
from standstill import stand_still

from relay.server.http_server import make_server
from relay.server.sockets import bind_tcp
from relay.units import HostPort

CLOSING = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
KEEPING = b"GET / HTTP/1.1\r\n\r\n"


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def slow(scope, receive, send):
    await asyncio.sleep(0.3)
    await hello(scope, receive, send)


async def endless(scope, receive, send):
    await asyncio.sleep(60)


async def test_two_servers_run_in_one_loop():
    async with serving(hello) as public, serving(slow) as admin:
        for running in (public, admin, public):
            (answer,) = answers(await running.raw(CLOSING))
            assert answer.body == b"hello"
            assert "date" in answer.headers
            assert "server" not in answer.headers


async def test_the_client_is_the_sockets_peer_whatever_headers_say():
    async def who(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = f"{scope['client'][0]} {scope['scheme']}".encode()
        await send({"type": "http.response.body", "body": body})

    forwarded = b"X-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n\r\n"
    async with serving(who) as running:
        (answer,) = answers(await running.raw(CLOSING[:-2] + forwarded))
    assert answer.body == b"127.0.0.1 http"


async def test_a_drain_answers_what_has_begun_and_closes_the_rest():
    async with serving(slow) as running:
        idle, idle_writer = await running.open()
        idle_writer.write(KEEPING)
        await idle.readuntil(b"hello")
        busy, busy_writer = await running.open()
        busy_writer.write(KEEPING)
        half, half_writer = await running.open()
        half_writer.write(KEEPING[:5])
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(running.server.drain())
        await asyncio.sleep(0.05)
        half_writer.write(KEEPING[5:])
        for reader in (busy, half):
            (answer,) = answers(await reader.read())
            assert answer.headers["connection"] == "close"
        assert await idle.read() == b""
        await draining
        with pytest.raises(ConnectionRefusedError):
            await running.open()


async def test_a_drain_is_bounded(caplog):
    async with serving(endless) as running:
        reader, writer = await running.open()
        writer.write(KEEPING)
        await asyncio.sleep(0.1)
        start = time.monotonic()
        await running.server.drain(grace=0.3)
        assert time.monotonic() - start < 10
        assert await reader.read() == b""
    assert "1 connections cut" in caplog.text


async def test_a_drain_waits_for_nobody_where_nobody_is_connected():
    async with serving(hello) as running:
        running.server.drain_delay = 60
        (answer,) = answers(await running.raw(CLOSING))
        assert answer.body == b"hello"
        async with asyncio.timeout(20):
            await running.server.drain()


async def test_connections_nobody_has_read_yet_are_answered():
    """All that has been connected before the drain is answered, however late it is accepted."""
    async with serving(hello) as running:
        running.server.drain_delay = 0.3
        opened = [await running.open() for _ in range(100)]
        for _, writer in opened:
            writer.write(KEEPING)
        await running.server.drain()
        for reader, _ in opened:
            assert len(answers(await reader.read())) == 1


async def test_a_drain_reads_what_came_during_a_standstill():
    async with serving(hello) as running:
        running.server.drain_delay = 0.3
        reader, writer = await running.open()
        writer.write(KEEPING)
        await reader.readuntil(b"hello")
        sending = writer.transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(sending.fileno())) as plain:
            draining = asyncio.create_task(running.server.drain())
            await asyncio.sleep(0.1)
            await stand_still(0.3, lambda: plain.sendall(KEEPING))
            (answer,) = answers(await reader.read())
            assert answer.headers["connection"] == "close"
            await draining


async def test_no_callback_is_lost_over_restarts_under_a_held_socket():
    """As systemd does it: the socket outlives the server, and what waits goes to the next."""
    held = bind_tcp(HostPort("127.0.0.1", 0))
    held.listen(512)
    port = held.getsockname()[1]
    answered, failed, stopping = 0, 0, asyncio.Event()

    async def client():
        nonlocal answered, failed
        while not stopping.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(CLOSING)
                data = await reader.read()
                writer.close()
            except OSError:
                data = b""
            answered += data.endswith(b"hello")
            failed += not data.endswith(b"hello")

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(client())
        for _ in range(5):
            server = make_server(hello, held.dup())
            server.drain_delay = 0.05
            await server.start()
            await asyncio.sleep(0.1)
            await server.drain()
        last = make_server(hello, held.dup())
        await last.start()
        stopping.set()
    await last.drain()
    held.close()
    assert failed == 0
    assert answered > 100


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost with its key."""
    return certify(tmp_path_factory.mktemp("tls"))


async def test_tls_of_its_own(certificate):
    context = ssl.create_default_context(cafile=certificate[0])
    async with serving(hello, tls=certificate) as running:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", running.port, ssl=context, server_hostname="localhost"
        )
        writer.write(b"GET /raw space HTTP/1.1\r\nConnection: close\r\n\r\n")
        (answer,) = answers(await reader.read())
        assert answer.body == b"hello"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", running.port, ssl=context, server_hostname="localhost"
        )
        writer.write(b"nonsense\r\n\r\n")
        (answer,) = answers(await reader.read())
        assert answer.status == 400


def test_an_address_in_use_is_an_error_at_once():
    taken = bind_tcp(HostPort("127.0.0.1", 0))
    taken.listen()
    with pytest.raises(OSError, match="in use"):
        bind_tcp(HostPort("127.0.0.1", taken.getsockname()[1]))
    taken.close()
