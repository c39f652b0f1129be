"""Malformed requests over a real socket: an event, quarantine, or a 4xx that says why."""

import asyncio
import itertools
import random

import pytest
from listening import answers, listening

from relay.config.loader import SourceConfig
from relay.server.protocol import Protocol
from relay.store.sqlite import SqliteStore

PATH = b"/callbacks/sumotext"
GOOD = b"mobile=2125551212&reply=A"
END = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
AS_IT_COMES = frozenset({200, 400, 408, 413, 414, 422, 431})


class Quick(Protocol):
    receive_timeout = 0.5
    idle_timeout = 0.5
    linger_timeout = 0.3


def get(query: bytes) -> bytes:
    return b"GET " + PATH + b"?" + query + END


def post(body: bytes, content_type: bytes = b"", query: bytes = b"") -> bytes:
    kind = b"Content-Type: " + content_type + b"\r\n" if content_type else b""
    head = b"POST %s%s HTTP/1.1\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
    return head % (PATH, query and b"?" + query, kind, len(body)) + body


def headed(lines: bytes, body: bytes = b"") -> bytes:
    return b"POST %s?%s HTTP/1.1\r\nConnection: close\r\n%s\r\n%s" % (PATH, GOOD, lines, body)


def chunked(body: bytes) -> bytes:
    return headed(b"Transfer-Encoding: chunked\r\n", body)


FORM, JSON = b"application/x-www-form-urlencoded", b"application/json"
MULTIPART = b"multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="mobile"\r\n\r\n2125551212\r\n'

EVENTS = {
    "bytes": [
        get(GOOD + b"&msg=" + bytes([byte])) for byte in range(256)
    ],
    "query": [
        get(GOOD + tail)
        for tail in (
            b"&msg=%zz", b"&msg=%", b"&msg=%4", b"&msg=100%", b"&msg=%00%00", b"&msg=%C3%28",
            b"&msg=%ED%A0%80", b"&msg=%F4%90%80%80", b"&msg=%FF%FE", b"&msg=\xff\xfe", b"&&&&",
            b"&=", b"&==&=", b"&msg", b"&msg==", b"&" + b"a" * 4000, b"&a=" + b"%41" * 4000,
            b"&a" * 900, b"&msg=have a nice day", b"& msg = x ", b"&msg=#1 & more", b"&msg=a\tb",
            b"&msg=a\rb", b"&msg=?/?;:@", b"&msg=%0d%0aX: y", b"&;a;b", b"&__proto__=1",
            b"&mobile=2125551212", b"&mobile=+1 (212) 555-1212", b"&mobile=", b"&country=Atlantis",
            b"&country=", b"&country=%00", b"&smsid=", b"&msg=" + b"\xf0\x9f\x98\x80" * 100,
            b"&msg=see HTTP/1.1 and HTTP/1.0", b"&msg={{7*7}}", b"&msg=<script>", b"&msg='--",
        )
    ],
    "body": [
        post(GOOD), post(GOOD, b"text/plain"), post(GOOD, b";;;=\xff"), post(GOOD, FORM + b"\x80"),
        post(GOOD + b"\r\n", FORM), post(b"\x00", b"", GOOD),
        post(PART + b"--b--", MULTIPART, b"reply=A"), post(b"\xff" * 1000, FORM, GOOD),
        post(b'{"mobile": 2125551212, "reply": ["A", "B", null, {"x": 1}]}', JSON),
        post(b'{"mobile": "2125551212", "reply": "\\ud800"}', JSON),
        post(b'{"mobile": "2125551212", "reply": "\\u0000"}', JSON),
        post(b'{"mobile": "2125551212", "reply": "\xe9"}', JSON),
        post(b'{"mobile": "2125551212", "reply": 1e999}', JSON),
    ],
    "head": [
        b"\r\n\r\n" + get(GOOD), get(GOOD).replace(b"\r\n", b"\n"),
        get(GOOD).replace(b"Host: x\r\n", b""),
        b"GET  " + get(GOOD)[4:], get(GOOD).replace(b"HTTP/1.1\r", b"HTTP/1.1  \r"),
        get(GOOD).replace(b"1.1", b"1.0", 1), headed(b"Upgrade: h2c\r\nConnection: upgrade\r\n"),
        headed(b"Expect: 100-continue\r\n"), headed(b"Expect: nonsense\r\n"),
        headed(b"Content-Length: 0\r\n"), headed(b"Content-Length: 000\r\n"),
        headed(b"X: \xff\xfe\r\n"), headed(b"X:\r\n"), headed(b"X: y\r\n" * 1000),
        headed(b"Content-Type: a\r\nContent-Type: b\r\n"), headed(b"Authorization: Basic !\r\n"),
        headed(b"X-Relay-Test: maybe\r\n"), headed(b"X-Relay-Token: \xff\r\n"),
        get(GOOD).replace(b"GET /", b"GET http://x/"), get(GOOD).replace(b"Host: x", b"Host: \xff"),
        get(GOOD).replace(b"?", b"/%FF%00/..?"), chunked(b"0\r\n\r\n"),
        headed(b"Transfer-Encoding:  CHUNKED \r\n", b"0\r\n\r\n"),
        chunked(b"0\r\n\r\n").replace(b"\r\n", b"\n", 3),
        chunked(b"1;a=b\r\nx\r\n0\r\nA: b\r\n\r\n"), chunked(b"00001\r\nx\r\n000\r\n\r\n"),
        chunked(b"0\r\n\r\n") + b"trailing rubbish",
    ],
}  # fmt: skip

QUARANTINED = [
    *(
        get(query)
        for query in (
            b"&", b"=", b"%", b"\xff", b"reply=A", b"mobile=2125551212", b"mobile=&reply=A",
            b"mobile=1&reply=A", b"mobile=%00&reply=A", b"mobile=\xff&reply=A", b"reply=A&mobile=x",
            b"mobile=5551212&reply=A", b"mobile=" + b"2" * 3000 + b"&reply=A", GOOD + b"&mobile=1",
            GOOD + b"&MOBILE=2125551213", b"mobile[]=2125551212&reply=A", b"mobile=911&reply=A",
            b"%6dobile=2125551213&" + GOOD, GOOD + b"&a" * 1100, b"mobile=-1&reply=A",
            b"mobile=2125551212.0&reply", b"mobile=nan&reply=A", b"mobile=+&reply=A",
        )
    ),
    post(b"\x00"), post(b"{", JSON), post(b"[]", JSON), post(b"null", JSON),
    post(b"{}", JSON), post(GOOD, JSON), post(b"{" * 200_000, JSON), post(b"\xff\xfe", JSON),
    post(b"<mobile>2125551212</mobile>", b"text/xml"), post(PART, MULTIPART),
    post(PART, b"multipart/form-data"), post(PART, MULTIPART + b"x" * 300),
    post(b"--b--", MULTIPART), post(b"a&" * 120_000, FORM), post(b"&" * 200_000, FORM),
    post(b"a=" + b"%41" * 80_000, FORM), post(PART * 2000 + b"--b--", MULTIPART),
    # What cannot be read may say anything, whatever stands in the query.
    post(b"{", JSON, GOOD), post(b"[]", JSON, GOOD), post(b"--b", MULTIPART, GOOD),
    post(b"x", MULTIPART[:19], GOOD),
]  # fmt: skip

REFUSED = {
    400: [
        b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n",
        b" GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"GET / http/1.1\r\n\r\n", b"GET / HTTP/1.12\r\n\r\n", b"GET x HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100, b"\xff" * 100, b"SSH-2.0-x\r\n\r\n", b"get / HTTP/1.1\r\n\r\n",
        b"FOO / HTTP/1.1\r\n\r\n", b"G\xc9T / HTTP/1.1\r\n\r\n", b'{"json": 1}\r\n\r\n',
        b"GET /\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n",
        b"GET /callbacks/sumotext?" + GOOD + b"\r\n\r\n",
        headed(b"Host: x\r\nhost: y\r\n"), headed(b"Upgrade : x\r\n"),
        headed(b"Upgrade: \x00\r\n"), headed(b"Upgrade: x\r\n y\r\n"),
        get(GOOD)[:-2], get(GOOD)[:20], b"GET", post(GOOD, FORM)[:-5], headed(b"X\r\n"),
        headed(b": y\r\n"), headed(b"X y: z\r\n"), headed(b"X : y\r\n"), headed(b"X: \x00\r\n"),
        headed(b"X: \x01\r\n"), headed(b"\x00: y\r\n"), headed(b"X\x7f: y\r\n"),
        headed(b"Content-Length: -1\r\n"), headed(b"Content-Length: x\r\n"),
        headed(b"Content-Length: +3\r\n", b"abc"), headed(b"Content-Length: 1 2\r\n"),
        headed(b"Content-Length: 0x3\r\n"), headed(b"Content-Length: 3, 3\r\n"),
        headed(b"Content-Length:\r\n"), headed(b"Content-Length: 3\r\nContent-Length: 4\r\n"),
        headed(b"Content-Length: 99999999999999999999999\r\n"),
        headed(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        headed(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
        headed(b"Transfer-Encoding: x\r\n", b"0\r\n\r\n"),
        *(
            headed(b"Transfer-Encoding: " + coding + b"\r\n", b"0\r\n\r\n")
            for coding in (
                b"", b"gzip", b"chunked, gzip", b"chunked, chunked", b", chunked,", b"chunked;a=b",
                b"chunked\r\nTransfer-Encoding: chunked", b"chunked\r\nTransfer-Encoding: x",
                b"xchunked", b"chunked x",
            )
        ),
        *(
            chunked(body)
            for body in (
                b"\r\n\r\n", b"x\r\n\r\n", b"-1\r\n\r\n", b"+1\r\nx\r\n", b"0x1\r\nx\r\n",
                b"1_0\r\nx\r\n", b"1\r\nxy\r\n0\r\n\r\n", b"1\r\nx0\r\n\r\n", b"g\r\n",
                b"fffffffffffffffff\r\nx", b"1 1\r\nx\r\n", b";a\r\n", b"\xff\r\n", b"\x00\r\n",
                b"1" * 5000, b"1;a\nx\r\n0\r\n\r\n", b"1\nx\r\n0\r\n\r\n", b"1\r\nx\n0\r\n\r\n",
                b"1\r\nx\r\n0\n\r\n", b"1\r\nx\r\n0;a\n\r\n", b"0\r\n\n", b"0\n\n",
                b"0\r\nA: b\n\r\n", b"0\r\nA: b\r\n\n", b"0\r\nA: b\rC: d\r\n\r\n",
                b"1;a\rb\r\nx\r\n0\r\n\r\n", b"1\r\r\nx\r\n0\r\n\r\n", b"0\r\n \r\n\r\n",
                b"1\r\nx\r\r\n0\r\n\r\n", b"1;\n1\r\nx\r\n0\r\n\r\n",
            )
        ),
    ],
    404: [
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"GET //" + get(GOOD)[5:],
        b"GET /callbacks" + END, b"GET /callbacks/" + END, b"GET /callbacks/\xff?" + GOOD + END,
        b"GET /callbacks/%73umotex" + END, b"GET /callbacks/SUMOTEXT" + END,
        b"GET /callbacks/../callbacks/sumotext?" + GOOD + END, b"GET /?" + GOOD + END,
        b"CONNECT x:80" + END, b"OPTIONS *" + END, b"GET /healthz/" + END,
    ],
    405: [
        method + get(GOOD)[3:]
        for method in (b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"PROPFIND")
    ],
    413: [
        post(b"x" * 300_000, FORM), headed(b"Content-Length: 262145\r\n"),
        headed(b"Content-Length: 9999999999\r\n", b"x" * 100),
        chunked(b"50000\r\n" + b"x" * 0x50000 + b"\r\n0\r\n\r\n"), chunked(b"1\r\nx\r\n" * 200_000),
    ],
    414: [get(b"a&" * 100_000), b"GET /" + b"x" * 20_000, b"x" * 20_000, get(b" " * 17_000)],
    431: [
        headed(b"X: y\r\n" * 5_000), headed(b"X: " + b"y" * 20_000 + b"\r\n"),
        headed(b"y" * 20_000),
    ],
    501: [
        headed(b"Transfer-Encoding: " + coding + b"\r\n", b"3\r\nabc\r\n0\r\n\r\n")
        for coding in (
            b"gzip, chunked", b"gzip,Chunked", b"identity, chunked", b"x;a=b, chunked",
            b"gzip\r\nTransfer-Encoding: chunked", b", chunked",
        )
    ],
}  # fmt: skip

CASES = [
    *((200, case) for case in itertools.chain(*EVENTS.values())),
    *((422, case) for case in QUARANTINED),
    *((status, case) for status, cases in REFUSED.items() for case in cases),
]


@pytest.fixture
async def relay(tmp_path):
    store = await SqliteStore.open(tmp_path / "relay.db")
    async with listening(store, protocol=Quick) as running:
        yield running
    await store.close()


async def statuses(relay, request: bytes) -> list[int]:
    """The statuses of the answers to what one connection sent."""
    head = request.startswith(b"HEAD")
    data = await relay.raw(request, half_close=True, timeout=5)
    return [answer.status for answer in answers(data, head=head)]


def nothing_leaked(caplog) -> None:
    assert not [record for record in caplog.records if record.exc_info]
    for forbidden in ("Traceback", "212555", "Invalid HTTP"):
        assert forbidden not in caplog.text


def test_the_corpus_is_large():
    assert len({case for _, case in CASES}) >= 400


@pytest.mark.parametrize("cases", [CASES[at : at + 50] for at in range(0, len(CASES), 50)])
async def test_each_ends_as_it_should(relay, cases, caplog):
    wrong = []
    for expected, request in cases:
        got = await statuses(relay, request)
        if got[:1] != [expected]:
            wrong.append((expected, got, request[:120]))
    assert not wrong
    assert await relay.store.event_count() == sum(status == 200 for status, _ in cases)
    assert await relay.store.quarantine_count() == sum(status == 422 for status, _ in cases)
    nothing_leaked(caplog)


async def test_a_wrong_token_does_not_make_malformed_requests_worse(tmp_path, caplog):
    store = await SqliteStore.open(tmp_path / "relay.db")
    sources = {"sumotext": SourceConfig(tokens=["t"])}
    async with listening(store, sources=sources, protocol=Quick) as relay:
        for expected, request in CASES[::7]:
            # A body that is too large is refused for that, or for the token before it is read.
            wanted = {200: {401}, 422: {401}, 413: {413, 401}}.get(expected, {expected})
            (status, *_) = await statuses(relay, request)
            assert status in wanted, request[:120]
    await store.close()
    nothing_leaked(caplog)


async def test_all_at_once_and_mixed_with_good_ones(relay, caplog):
    async def one(number, request):
        if number % 3 == 0:
            assert await statuses(relay, get(GOOD)) == [200]
        return await statuses(relay, request)

    found = await asyncio.gather(*(one(*each) for each in enumerate(case for _, case in CASES)))
    assert all(got and 500 not in got for got in found)
    nothing_leaked(caplog)


@pytest.mark.parametrize("seed", range(5))
async def test_mutations_of_good_requests_never_end_in_silence_or_500(relay, seed, caplog):
    """Bytes changed, cut out and doubled at random places."""
    rng = random.Random(seed)
    for _ in range(60):
        request = bytearray(
            rng.choice((get(GOOD), post(GOOD, FORM), chunked(b"1\r\nx\r\n0\r\n\r\n")))
        )
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(request))
            match rng.randrange(3):
                case 0:
                    request[place] = rng.randrange(256)
                case 1:
                    del request[place : place + rng.randint(1, 9)]
                case 2:
                    request[place:place] = request[place : place + rng.randint(1, 30)]
        got = await statuses(relay, bytes(request))
        assert got, bytes(request)
        assert 500 not in got, bytes(request)
    assert "Traceback" not in caplog.text
