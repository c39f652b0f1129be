"""The way out, against a real server on loopback. Nothing else is ever dialled."""

import asyncio
import gc
import gzip
import ipaddress
import logging
import socket
import time
import weakref
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from names import Names
from stubs.receiver import (
    Receiver,
    broken,
    drip,
    drop,
    endless,
    garbage,
    hang,
    redirect,
    status,
)
from workers import eventually

import relay.delivery.http
from relay.delivery.classify import outcome_of
from relay.outcome import Pause, Reject, Retry
from relay.rate_limit import Limiter
from relay.units import Rate

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def client():
    async with relay.delivery.http.client(timeout=5, allow_private=LOOPBACK) as client:
        yield client


async def test_a_connection_is_not_reused_beyond_a_minute(receiver):
    """So that a name is looked up again, however steady the requests are."""
    clock, used = SimpleNamespace(now=0.0), []
    async with relay.delivery.http.client(
        timeout=5, allow_private=LOOPBACK, now=lambda: clock.now
    ) as client:
        for clock.now in (0.0, 30.0, 55.0, 57.0, 58.0, 113.0, 115.0, 116.0):
            await client.post(receiver.url)
            used.append(receiver.connections)
    assert used == [1, 1, 1, 1, 2, 2, 2, 3]


async def failure(client, url, **options):
    """The error of a request that must fail, and the outcome that it means."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one is what is asked
        (await client.post(url, **options)).raise_for_status()
    return caught.value, outcome_of(caught.value, time.time())


# What is sent


async def test_a_request_arrives_as_httpx_built_it(client, receiver):
    answer = await client.post(
        f"{receiver.url}/a%2Fb%20c?q=%7E&q=1+2&é=☃", json={"a": 1}, headers={"X-One": "1"}
    )
    (got,) = receiver.requests
    assert answer.status_code == 200
    assert answer.json() == {}
    assert got.query == "q=%7E&q=1+2&%C3%A9=%E2%98%83"
    assert got.body == b'{"a":1}'
    assert got.headers["x-one"] == "1"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["user-agent"].startswith("sumotext-relay/")
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_forms_streams_files_and_empty_bodies_arrive(client, receiver):
    async def chunks():
        yield b"one "
        yield b"two"

    await client.post(receiver.url, data={"a": "1 2", "b": "é"})
    await client.put(receiver.url, content=chunks())
    await client.post(receiver.url, files={"f": ("n.txt", b"inside")})
    await client.post(receiver.url)
    await client.get(receiver.url)
    form, stream, files, empty, got = receiver.requests
    assert form.form == [("a", "1 2"), ("b", "é")]
    assert stream.body == b"one two"
    assert b"inside" in files.body
    assert (empty.body, empty.headers["content-length"]) == (b"", "0")
    assert "content-type" not in empty.headers
    assert got.method == "GET"


async def test_userinfo_becomes_a_header(client, receiver):
    await client.get(f"http://user:pass@127.0.0.1:{receiver.port}/x")
    assert receiver.requests[0].headers["authorization"] == "Basic dXNlcjpwYXNz"


async def test_cookies_are_not_kept(client, receiver):
    receiver.otherwise = status(200, {"set-cookie": "session=s3cret; Path=/"})
    await client.post(receiver.url)
    await client.post(receiver.url)
    assert not client.cookies
    assert all("cookie" not in request.headers for request in receiver.requests)


async def test_the_environment_has_no_say(receiver, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with relay.delivery.http.client(timeout=5, allow_private=LOOPBACK) as client:
        await client.post(receiver.url)
    assert "authorization" not in receiver.requests[0].headers


async def test_connections_are_used_again(client, receiver):
    for _ in range(5):
        await client.post(receiver.url)
    assert receiver.connections == 1


async def test_many_at_once(client, receiver):
    async def answer(scope, send):
        await eventually(lambda: receiver.most_at_once == 16)
        await status(200)(scope, send)

    receiver.otherwise = answer
    await asyncio.gather(*[client.post(receiver.url) for _ in range(16)])
    assert receiver.most_at_once == 16


async def test_every_request_passes_the_limiter(receiver, clock):
    limiter = Limiter(Rate(2, 10.0), clock)
    async with relay.delivery.http.client(
        timeout=5, allow_private=LOOPBACK, limiter=limiter
    ) as client:
        requests = [asyncio.create_task(client.post(receiver.url)) for _ in range(3)]
        await eventually(lambda: len(receiver.requests) == 2 and clock.sleeping)
        await asyncio.wait(requests, timeout=0.3)
        assert len(receiver.requests) == 2
        await clock.advance(10)
        await asyncio.gather(*requests)
    assert len(receiver.requests) == 3


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b"])
async def test_a_header_cannot_be_broken_open(client, receiver, value):
    _, outcome = await failure(client, receiver.url, headers={"x-text": value})
    assert type(outcome) is Reject
    await client.post(receiver.url)
    assert [request.headers.get("x-evil") for request in receiver.requests] == [None]


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "file:///etc/passwd", "/only/a/path", "http:///x"]
)
async def test_what_is_no_web_address_is_rejected(client, url):
    error, outcome = await failure(client, url)
    assert isinstance(error, httpx.UnsupportedProtocol)
    assert type(outcome) is Reject


# What comes back


async def test_redirects_are_not_followed_and_tell_the_host_alone(client, receiver):
    async with Receiver() as other:
        target = f"http://user:pw@localhost:{other.port}/a/b?token=s3cret"
        for code in (301, 302, 303, 307, 308):
            receiver.then(redirect(target, code))
            error, outcome = await failure(client, receiver.url)
            assert type(outcome) is Reject
            assert outcome.reason.endswith("sent on to localhost, which is not followed")
            assert "s3cret" not in str(error)
        assert other.connections == 0


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://a b/", "//", "é", "http://127.0.0.1:0/"]
)
async def test_a_redirect_to_nowhere_is_a_redirect(client, receiver, location):
    receiver.then(redirect(location))
    _, outcome = await failure(client, receiver.url)
    assert (type(outcome), outcome.status) == (Reject, 302)


async def test_location_of_something_created_stays(client, receiver):
    receiver.then(status(201, {"location": "/things/7?x=1"}))
    assert (await client.post(receiver.url)).headers["location"] == "/things/7?x=1"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (hang, httpx.ReadTimeout),
        (drop, httpx.RemoteProtocolError),
        (garbage(), httpx.RemoteProtocolError),
        (
            garbage(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
            httpx.RemoteProtocolError,
        ),
    ],
    ids=["hang", "drop", "garbage", "huge header"],
)
async def test_a_bad_answer_is_tried_again(receiver, answer, kind):
    """Each within the time of the whole request; no text holds the URL."""
    receiver.then(answer)
    longest = 2 if kind is httpx.ReadTimeout else 30
    async with relay.delivery.http.client(timeout=30, allow_private=LOOPBACK) as client:
        begin = time.monotonic()
        error, outcome = await failure(client, f"{receiver.url}?token=s3cret", timeout=longest)
        assert time.monotonic() - begin < 10
        assert type(error) is kind
        assert type(outcome) is Retry
        assert "s3cret" not in str(error)
        assert len(receiver.requests) == 1
        assert (await client.post(receiver.url)).status_code == 200


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (drip, httpx.ReadTimeout),
        (broken, httpx.ReadError),
        (endless, httpx.RemoteProtocolError),
    ],
)
async def test_a_bad_body_is_an_error_where_it_is_looked_at(receiver, answer, kind):
    receiver.then(answer(200), answer(400))
    longest = 2 if kind is httpx.ReadTimeout else 30
    async with relay.delivery.http.client(timeout=30, allow_private=LOOPBACK) as client:
        begin = time.monotonic()
        delivered = await client.post(receiver.url, timeout=longest)
        delivered.raise_for_status()
        with pytest.raises(kind) as caught:
            delivered.json()
        assert type(outcome_of(caught.value, time.time())) is Retry
        _, outcome = await failure(client, receiver.url, timeout=longest)
        assert (type(outcome), outcome.status, outcome.answer) == (Reject, 400, None)
        assert time.monotonic() - begin < 10
        assert (await client.post(receiver.url)).status_code == 200


async def test_nobody_listening_is_tried_again(client):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    error, outcome = await failure(client, f"http://127.0.0.1:{port}/p?token=s3cret")
    assert isinstance(error, httpx.ConnectError)
    assert type(outcome) is Retry
    assert f"127.0.0.1:{port}" in outcome.reason
    assert "s3cret" not in outcome.reason


async def test_a_name_without_address_is_tried_again():
    class Nobody(Names):
        async def resolve(self, *_, **__):
            raise OSError(-2, "Name or service not known")

    resolver = Nobody([])
    async with relay.delivery.http.client(timeout=5, resolver=resolver) as client:
        error, outcome = await failure(client, "http://receiver.test/p?token=s3cret")
    assert isinstance(error, httpx.ConnectError)
    assert type(outcome) is Retry
    assert "s3cret" not in outcome.reason


async def test_a_request_can_shorten_the_time_but_not_lengthen_it(receiver):
    receiver.otherwise = hang
    for given, asked in ((2, 60), (60, 2)):
        async with relay.delivery.http.client(timeout=given, allow_private=LOOPBACK) as client:
            begin = time.monotonic()
            with pytest.raises(httpx.ReadTimeout):
                await client.post(receiver.url, timeout=asked)
            assert time.monotonic() - begin < 20


async def test_an_answer_may_come_packed(client, receiver):
    packed = gzip.compress(b'{"a": 1}')
    receiver.then(
        status(200, {"content-encoding": "gzip", "content-length": str(len(packed))}, packed)
    )
    assert (await client.post(receiver.url)).json() == {"a": 1}


async def test_a_packed_bomb_is_cut(client, receiver):
    """50 MiB of zeros in 50 KiB: the limit is on what is unpacked."""
    bomb = gzip.compress(bytes(50 * 1024 * 1024))
    receiver.then(status(200, {"content-encoding": "gzip", "content-length": str(len(bomb))}, bomb))
    answer = await client.post(receiver.url)
    with pytest.raises(httpx.RemoteProtocolError, match="larger than 8 MiB"):
        answer.json()


@pytest.mark.parametrize("answer", [drip(503), endless(503), broken(503)])
async def test_the_beginning_of_an_answer_can_be_read(client, receiver, answer, monkeypatch):
    monkeypatch.setattr(relay.delivery.http, "ANSWER_TIME", 0.3)
    receiver.then(answer)
    request = client.build_request("POST", receiver.url)
    response = await client.send(request, stream=True)
    beginning = await relay.delivery.http.read_answer(response, limit=1000)
    assert response.status_code == 503
    assert 0 < len(beginning) <= 1000
    assert response.is_closed
    assert (await client.post(receiver.url)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_leaves_nothing_to_the_garbage_collector(client, receiver, stream):
    gc.disable()
    try:
        request = client.build_request("POST", f"{receiver.url}/", content=b"x")
        response = await client.send(request, stream=stream)
        if stream:
            await relay.delivery.http.read_answer(response)
        left = weakref.ref(response)
        del request, response
        assert left() is None
    finally:
        gc.enable()


async def test_urls_are_not_logged(client, receiver, caplog):
    caplog.set_level(logging.INFO)
    await client.post(f"{receiver.url}?token=s3cret")
    told = [record.getMessage() for record in caplog.records if "uvicorn" not in record.name]
    assert "s3cret" not in "".join(told)


# What is never dialled


@pytest.fixture
async def listener():
    """Counts connections to loopback; the tests below want none."""
    accepted = []

    async def accept(reader, writer):
        accepted.append(writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield SimpleNamespace(accepted=accepted, port=port)
    assert accepted == []


def at(host, listener):
    return f"http://{host}:{listener.port}/"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "public.test@127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fe80::1%25lo]",
        "[0:0:0:0:0:0:0:1]",
        "0.0.0.0",
        "0",
        "[::]",
        "10.0.0.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
    ],
)
async def test_a_way_to_spell_a_closed_address_is_no_way_in(listener, host):
    """Names are answered by a resolver that knows only loopback, as the system would answer."""
    resolver = Names(["127.0.0.1"])
    async with relay.delivery.http.client(timeout=5, resolver=resolver) as client:
        with pytest.raises((Pause, httpx.InvalidURL, httpx.UnsupportedProtocol)):
            await client.get(at(host, listener))
    assert listener.accepted == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["10.0.0.1", "127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["2606:4700::1", "::1"],
        ["2606:4700::1", "8.8.8.8", "169.254.169.254"],
        ["fe80::1%lo"],
    ],
)
async def test_a_name_is_refused_if_any_of_its_addresses_is_closed(listener, addresses):
    async with relay.delivery.http.client(timeout=5, resolver=Names(addresses)) as client:
        with pytest.raises(Pause, match="its network is not in allow_private"):
            await client.get(at("receiver.test", listener))


async def test_a_name_that_changes_its_address_is_judged_each_time(receiver):
    """Rebinding: open at the first look, closed at the second."""
    resolver = Names(["127.0.0.1"], ["127.0.0.2"])
    only_one = [ipaddress.ip_network("127.0.0.1/32")]
    receiver.otherwise = status(200, {"connection": "close"})
    url = f"http://receiver.test:{receiver.port}/"
    async with relay.delivery.http.client(
        timeout=5, allow_private=only_one, resolver=resolver
    ) as client:
        await client.get(url)
        client._transport._session.connector.clear_dns_cache()
        with pytest.raises(Pause, match=r"127\.0\.0\.2"):
            await client.get(url)
    assert receiver.connections == 1


async def test_a_name_without_an_address_cannot_be_reached():
    async with relay.delivery.http.client(timeout=5, resolver=Names([])) as client:
        with pytest.raises(httpx.ConnectError, match="the name has no address"):
            await relay.delivery.http.reach(client, "https://hook.example/")


async def test_the_socket_is_guarded_even_if_the_resolver_is_not(listener, monkeypatch):
    """The negative control of the resolver's guard: the last word is the socket factory's."""
    monkeypatch.setattr(
        relay.delivery.http._GuardedResolver, "resolve", Names(["127.0.0.1"]).resolve
    )
    async with relay.delivery.http.client(timeout=5, resolver=Names([])) as client:
        with pytest.raises(Pause, match=r"127\.0\.0\.1 is a loopback address"):
            await client.get(at("receiver.test", listener))


async def test_the_refusal_says_what_to_do(listener):
    async with relay.delivery.http.client(timeout=5) as client:
        _, outcome = await failure(client, at("127.0.0.1", listener))
    assert type(outcome) is Pause
    assert outcome.reason == (
        "refused: 127.0.0.1 is a loopback address; its network is not in allow_private"
    )


async def test_allow_private_lets_it_dial(receiver):
    """The control of all the above: the same listener is reached once its network is named."""
    names = Names(["127.0.0.1"])
    async with relay.delivery.http.client(
        timeout=5, allow_private=LOOPBACK, resolver=names
    ) as client:
        for host in ("127.0.0.1", "receiver.test"):
            assert (await client.get(f"http://{host}:{receiver.port}/")).status_code == 200
    assert names.asked == ["receiver.test"]


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of nobody's for receiver.test."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("receiver.test")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


async def test_tls_asks_for_the_name_and_trusts_what_the_machine_trusts(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.setattr(relay.delivery.http, "_trust", relay.delivery.http._trust.__wrapped__)
    names = Names(["127.0.0.1"])
    async with (
        Receiver(tls=certificate) as receiver,
        relay.delivery.http.client(timeout=5, allow_private=LOOPBACK, resolver=names) as client,
    ):
        await client.post(f"https://receiver.test:{receiver.port}/")
        assert receiver.names == ["receiver.test"]
        _, outcome = await failure(client, f"https://other.test:{receiver.port}/")
    assert type(outcome) is Retry
    assert "certificate" in outcome.reason.lower()


async def test_a_certificate_of_nobody_is_refused(certificate):
    names = Names(["127.0.0.1"])
    async with (
        Receiver(tls=certificate) as receiver,
        relay.delivery.http.client(timeout=5, allow_private=LOOPBACK, resolver=names) as client,
    ):
        error, outcome = await failure(client, f"https://receiver.test:{receiver.port}/?t=s3cret")
    assert isinstance(error, httpx.ConnectError)
    assert type(outcome) is Retry
    assert "s3cret" not in outcome.reason
    assert receiver.requests == []
