"""A listener's certificate is read anew when its files change; where they are wrong, it stays."""

import asyncio
import ssl

import pytest
from certificates import certify
from cryptography.hazmat.primitives import serialization
from listening import answers, serving

from relay.server.tls import Certificate

GET = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


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
