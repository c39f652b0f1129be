"""TLS: a certificate renewed under an open listener, and handshakes with a deadline."""

import asyncio
import contextlib
import errno
import socket
import ssl
import time

import pytest
from certificates import certify
from crowd import GET, KEEPING, crowd, gone, hello, seen
from cryptography.hazmat.primitives import serialization
from listening import answers, serving
from standstill import stand_still

from relay.server.connections import ConnectionLimiter
from relay.server.http_server import make_server
from relay.server.sockets import bind_tcp
from relay.server.tls import Certificate, TlsAcceptor
from relay.units import HostPort


async def shown(running) -> bytes:
    """The certificate that a new connection is shown, which answers besides."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.write(GET)
    (answer,) = answers(await reader.read())
    writer.close()
    assert answer.body == b"hello"
    return found


def der(cert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(cert.read_text())


async def test_new_connections_are_shown_the_new_certificate(tmp_path, caplog):
    caplog.set_level("INFO")
    files = certify(tmp_path)
    async with serving(hello, tls=files) as running:
        first = der(files[0])
        assert await shown(running) == first
        context = ssl.create_default_context(cafile=files[0])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", running.port, ssl=context, server_hostname="localhost"
        )
        certify(tmp_path)
        assert await shown(running) == first  # it has not looked yet
        await running.server.on_tick(0)
        assert await shown(running) == der(files[0]) != first
        writer.write(GET)  # the connection that was there goes on
        assert (await reader.read()).endswith(b"hello")
        writer.close()
    assert "has been renewed" in caplog.text


def without_key(cert, key):
    key.unlink()


def of_another(cert, key):
    certify_another = cert.parent / "another"
    certify_another.mkdir()
    other, _ = certify(certify_another)
    cert.write_bytes(other.read_bytes())


def cut_short(cert, key):
    cert.write_text(cert.read_text()[:200])


def empty(cert, key):
    key.write_text("")


def with_a_password(cert, key):
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


MISTAKES = [without_key, of_another, cut_short, empty, with_a_password]


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_broken_pair_changes_nothing_and_is_told_once(tmp_path, mistake, caplog):
    files = certify(tmp_path)
    async with serving(hello, tls=files) as running:
        first = der(files[0])
        mistake(*files)
        for _ in range(3):
            await running.server.on_tick(0)
        assert await shown(running) == first
        assert len([each for each in caplog.messages if "stays as it was" in each]) == 1
        certify(tmp_path)
        await running.server.on_tick(0)
        assert await shown(running) == der(files[0]) != first


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_broken_pair_is_an_error_at_the_start(tmp_path, mistake):
    files = certify(tmp_path)
    mistake(*files)
    with pytest.raises(OSError, match=r"certificate|No such file"):
        Certificate(*files)


def test_files_that_stay_as_they_are_are_not_read_again(tmp_path):
    certificate = Certificate(*certify(tmp_path))
    context = certificate.context
    assert not certificate.renew()
    assert certificate.context is context


# handshakes


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return certify(tmp_path_factory.mktemp("tls"))


def trusting(certificate):
    return {
        "ssl": ssl.create_default_context(cafile=certificate[0]),
        "server_hostname": "localhost",
    }


async def test_a_handshake_that_does_not_come_is_cut(certificate, monkeypatch):
    monkeypatch.setattr(TlsAcceptor, "handshake_timeout", 0.3)
    async with crowd(tls=certificate) as clients:
        mute, _ = await clients.open(2)
        half, _ = await clients.open(2, sends=b"\x16\x03\x01\x02\x00")
        await seen(clients.running, 2)
        start = time.monotonic()
        assert await gone(mute) == await gone(half) == b""
        assert time.monotonic() - start < 10
        await seen(clients.running, 0)


async def test_a_handshake_that_came_during_a_standstill_is_taken(certificate, monkeypatch):
    monkeypatch.setattr(TlsAcceptor, "handshake_timeout", 0.3)
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
    async with crowd(
        tls=certificate, limiter=ConnectionLimiter(total=100, per_client=5)
    ) as clients:
        slow = [await clients.open(2, sends=b"\x16") for _ in range(30)]
        for _ in range(5):
            reader, _ = await clients.open(1, sends=GET, **trusting(certificate))
            assert (await gone(reader)).endswith(b"hello")
        for reader, _ in slow[:25]:
            assert await gone(reader) == b""
        await seen(clients.running, 5)


async def test_a_connection_over_tls_counts_once(certificate):
    async with crowd(tls=certificate, limiter=ConnectionLimiter()) as clients:
        reader, writer = await clients.open(sends=KEEPING, **trusting(certificate))
        await reader.readuntil(b"hello")
        assert len(clients.running.server.server_state.limiter) == 1
        writer.close()
        await seen(clients.running, 0)


async def test_a_drain_lets_handshakes_come_to_their_end_and_cuts_the_slow_ones(certificate):
    async with crowd(tls=certificate) as clients:
        clients.running.server.drain_delay = 0.3
        mute, _ = await clients.open(2)
        await seen(clients.running, 1)
        draining = asyncio.create_task(clients.running.server.drain(grace=1))
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


async def test_an_acceptor_without_descriptors_pauses_and_goes_on(certificate, caplog):
    listener = Poor(fileno=bind_tcp(HostPort("127.0.0.1", 0)).detach())
    server = make_server(hello, listener, certificate=Certificate(*certificate))
    server.drain_delay = 0.01
    await server.start()
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(*server.address, **trusting(certificate))
            writer.write(GET)
            assert (await reader.read()).endswith(b"hello")
            writer.close()
    finally:
        await server.drain(grace=1)
    told = [each for each in caplog.messages if "Too many open files" in each]
    assert len(told) == 3
