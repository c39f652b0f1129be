"""A status that has been read decides, whatever follows it, and all that follows is bounded."""

import asyncio
import contextlib
import gzip
import ipaddress
import socket
import time
import zlib
from pathlib import Path

import httpx
import hubspotsink
import pytest
import salesforcesink
from hypothesis import given
from hypothesis import strategies as st
from names import Names
from processortime import share
from rawserver import RawServer
from relaying import relaying

import relay.delivery.http
from relay.alerts.notifiers import WebhookNotifier
from relay.alerts.policy import Alert, Notification
from relay.config.model import AlertWebhook
from relay.delivery import http_message
from relay.delivery.classify import outcome_of
from relay.outcome import Retry

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
OK = b"HTTP/1.1 200 OK\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"a": 1}'

STRAY = {
    "204 with a chunk terminator": (NO_CONTENT + b"\r\n0\r\n\r\n",),
    "204 in chunks": (NO_CONTENT + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",),
    "204 with a body": (NO_CONTENT + b"\r\n" + BODY,),
    "204 with a length": (NO_CONTENT + b"Content-Length: 8\r\n\r\n" + BODY,),
    "304 with a body": (b"HTTP/1.1 304 Not Modified\r\n\r\n" + BODY,),
    "more than its length": (OK + b"Content-Length: 8\r\n\r\n" + BODY + b"stray",),
    "another answer behind": (OK + b"Content-Length: 8\r\n\r\n" + BODY + OK + b"\r\n",),
    "two equal lengths": (OK + b"Content-Length: 8\r\nContent-Length: 8\r\n\r\n" + BODY,),
    "a list of equal lengths": (OK + b"Content-Length: 8, 8\r\n\r\n" + BODY,),
    "a length and chunks": (
        OK
        + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n"
        + BODY
        + b"\r\n0\r\n\r\n",
    ),
    "a 20 kB header": (OK + b"X: " + b"x" * 20_000 + b"\r\nContent-Length: 8\r\n\r\n" + BODY,),
    "200 headers": (OK + b"X: x\r\n" * 200 + b"Content-Length: 8\r\n\r\n" + BODY,),
    "a header without a colon": (OK + b"nonsense\r\nContent-Length: 8\r\n\r\n" + BODY,),
    "a header with NUL": (OK + b"X: \0\r\nContent-Length: 8\r\n\r\n" + BODY,),
    "a space before the colon": (OK + b"Content-Length : 8\r\n\r\n" + BODY,),
    "lines that end in LF": (b"HTTP/1.1 200 OK\nContent-Length: 8\n\n" + BODY,),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 8\r\n\r\n" + BODY,),
    "a few interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * 4,
        OK + b"Content-Length: 8\r\n\r\n" + BODY,
    ),
    "chunks": (
        CHUNKED + b"3;a=b\r\n" + BODY[:3],
        b"\r\n5\r\n" + BODY[3:] + b"\r\n0\r\nX: y\r\n\r\n",
    ),
    "byte by byte": tuple(bytes([each]) for each in OK + b"Content-Length: 8\r\n\r\n" + BODY),
}
"""The body, where the status has one, is whole."""

SPOILT = {
    "a coding that was not asked for": (
        OK + b"Content-Encoding: br\r\nContent-Length: 8\r\n\r\n" + BODY,
    ),
    "two codings": (OK + b"Content-Encoding: gzip, gzip\r\nContent-Length: 8\r\n\r\n" + BODY,),
    "not packed as it says": (OK + b"Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\n" + BODY,),
    "half of the packed form": (
        OK + b"Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n" + gzip.compress(BODY)[:12],
    ),
    "a malformed first chunk": (CHUNKED + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",),
    "a malformed chunk": (CHUNKED + b"2\r\n" + BODY + b"\r\n0\r\n\r\n",),
    "an endless chunk line": (CHUNKED + b"2;" + b"x" * 1000,),
    "tiny chunks": (CHUNKED + b"1\r\nx\r\n" * 10_000,),
    "two lengths": (OK + b"Content-Length: 8\r\nContent-Length: 9\r\n\r\n" + BODY,),
    "a length that is none": (OK + b"Content-Length: -1\r\n\r\n" + BODY,),
    "an unknown transfer coding": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + BODY,),
}
"""The body is not to be trusted."""


@pytest.fixture
async def client():
    async with relay.delivery.http.client(timeout=5, allow_private=LOOPBACK) as client:
        yield client


@pytest.mark.parametrize("case", STRAY)
async def test_what_follows_a_whole_answer_changes_nothing(client, case):
    async with RawServer(*STRAY[case]) as server:
        for number in range(2):  # the second: a connection with stray bytes is not used again
            answer = await client.post(server.url, content=b"%d" % number)
            assert answer.status_code in (200, 204, 304)
            assert answer.content == (BODY if answer.status_code == 200 else b"")
        assert server.requests == [b"0", b"1"]


@pytest.mark.parametrize("case", SPOILT)
async def test_a_spoilt_body_is_told_to_those_who_look_at_it(client, case):
    async with RawServer(*SPOILT[case]) as server:
        for number in range(2):
            answer = await client.post(server.url, content=b"%d" % number)
            answer.raise_for_status()
            with pytest.raises(httpx.ReadError, match="cannot be read") as caught:
                answer.json()
            assert type(outcome_of(caught.value, 0.0)) is Retry
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((b"no HTTP at all\r\n\r\n",), "not valid HTTP"),
        ((b"HTTP/1.1 OK\r\n\r\n",), "not valid HTTP"),
        ((OK + b"X: " + b"x" * 100_000,), "more than 64 KiB"),
        ((OK + b"X: x\r\n" * 300 + b"\r\n",), "more than 256 headers"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + OK + b"\r\n",), "more than 8 interim answers"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", 0.01) * 9, "more than 8 interim answers"),
    ],
)
async def test_without_a_head_there_is_no_answer(client, pieces, reason):
    async with RawServer(*pieces) as server:
        with pytest.raises(httpx.RemoteProtocolError, match=reason):
            await client.post(server.url)
        server.pieces = (OK + b"Content-Length: 0\r\n\r\n",)
        await client.post(server.url)
        assert server.connections == 2


async def test_a_connection_is_used_again_when_the_answer_ended_as_it_should(client):
    async with RawServer(OK + b"Content-Length: 8\r\n\r\n", 0.01, BODY) as server:
        for pieces in (
            server.pieces,
            (NO_CONTENT + b"\r\n",),
            STRAY["chunks"],
            STRAY["two equal lengths"],
        ):
            server.pieces = pieces
            await client.post(server.url)
        assert server.connections == 1
        server.pieces = (OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",)
        await client.post(server.url)
        await client.post(server.url)
        assert server.connections == 2


async def test_who_sends_stray_bytes_later_gets_a_connection_for_each_request(client):
    """Else they might be taken for the beginning of the next answer."""
    async with RawServer(NO_CONTENT + b"\r\n", 0.05, b"stray") as server:
        await client.post(server.url)
        await asyncio.sleep(0.2)
        for _ in range(3):
            await client.post(server.url)
        assert (len(server.requests), server.connections) == (4, 4)


async def test_who_answers_and_takes_no_more_of_the_request_keeps_no_connection(client):
    """What is still to be sent would wait for it for ever."""
    taken = []

    async def answer(reader, writer):
        taken.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async def body():
        for _ in range(256):
            yield bytes(64 * 1024)

    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=1024)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        before = descriptors()
        try:
            for _ in range(5):
                answered = await client.post(url, content=body())
                assert answered.status_code == 503
            async with asyncio.timeout(5):
                while descriptors() > before + len(taken) + 1:
                    await asyncio.sleep(0.01)
        finally:
            for writer in taken:
                writer.transport.abort()


async def test_a_body_may_end_with_its_connection(client):
    async with RawServer(OK + b"\r\n" + BODY, closes=True) as server:
        assert (await client.post(server.url)).json() == {"a": 1}


@pytest.mark.parametrize("timeout", [2, 60])
async def test_a_body_that_drips_on_is_given_up_in_time(timeout):
    async with (
        RawServer(OK + b"Content-Length: 100000\r\n\r\n", forever=b"x", pause=0.02) as server,
        relay.delivery.http.client(timeout=62 - timeout, allow_private=LOOPBACK) as client,
    ):
        begun = time.monotonic()
        answer = await client.post(server.url, timeout=timeout)
        assert time.monotonic() - begun < 20
        answer.raise_for_status()
        with pytest.raises(httpx.ReadTimeout):
            answer.json()


# The running relay


def sinks(server, **settings):
    return {"plugin": "webhook", "options": {"url": server.url}} | settings


async def test_an_opt_out_is_accepted_exactly_once(tmp_path):
    cases = {name: each for name, each in (STRAY | SPOILT).items() if "304" not in name}
    async with RawServer() as server, relaying(tmp_path, sinks(server)) as running:
        for number, (name, pieces) in enumerate(cases.items(), 1):
            server.pieces = pieces
            await running.send(number, "STOP")
            await running.reached(delivered=number, pending=0, dead=0)
            assert len(server.requests) == number, name
        told = await running.command("consent", "export")
    accepted = [line for line in told.splitlines() if "crm" in line]
    assert len(accepted) == len(cases)


@pytest.mark.parametrize("plugin", ["webhook", "posting"])
async def test_a_short_timeout_does_not_make_a_dripping_body_a_failure(tmp_path, plugin):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "posting.py").write_text(POSTING)
    async with RawServer(CHUNKED, forever=b"1\r\nx\r\n", pause=0.05) as server:
        sink = sinks(server, plugin=plugin, timeout="1s")
        async with relaying(tmp_path, sink) as running:
            await running.send(1, "STOP")
            await running.reached(delivered=1, pending=0)
            assert len(server.requests) == 1


POSTING = """
import relay


class Options(relay.Options):
    url: str


class Posting(relay.Sink):
    Options = Options

    async def send(self, delivery):
        (await self.http.post(self.options.url, json=delivery.record)).raise_for_status()


@relay.hookimpl
def register_sinks(register):
    register("posting", Posting)
"""


# The others who read answers


@pytest.mark.parametrize("case", ["204 in chunks", "two equal lengths", "a malformed first chunk"])
async def test_an_alert_is_taken_with_its_status(case):
    settings = {"allow_private": ["127.0.0.0/8"]}
    alert = Alert("spill", "", "Callbacks go to the spill file.", 0.0, 0.0)
    async with RawServer(*(STRAY | SPOILT)[case]) as server:
        channel = WebhookNotifier(AlertWebhook.model_validate(settings | {"url": server.url}))
        await channel.send(Notification(0.0, [alert], [], []))
        await channel.close()
        assert len(server.requests) == 1


@pytest.mark.parametrize("case", SPOILT)
async def test_a_crm_whose_answer_is_spoilt_is_asked_again(case):
    """It says of each record what became of it, so its status alone tells nothing."""
    async with RawServer(*SPOILT[case]) as server:
        async with hubspotsink.opened(server.origin) as hubspot:
            (outcome,) = await hubspot.send_batch([hubspotsink.delivery(1)])
            assert type(outcome) is Retry
            assert "cannot be read" in outcome.reason
        options = salesforcesink.options(server.origin)
        async with relay.delivery.http.client(timeout=5, allow_private=LOOPBACK) as http:
            salesforce = salesforcesink.Salesforce("crm", options, http, hubspotsink.LOG, ())
            await salesforce.open()
            (outcome,) = await salesforce.send_batch([salesforcesink.delivery(1)])
        assert type(outcome) is Retry
        assert "cannot be read" in outcome.reason


async def test_of_a_thousand_addresses_a_few_are_tried(monkeypatch):
    dialled = []

    def counted(transport, info):
        dialled.append(info)
        return guarded(transport, info)

    guarded = relay.delivery.http.Transport._guarded_socket
    monkeypatch.setattr(relay.delivery.http.Transport, "_guarded_socket", counted)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    names = Names([f"127.0.{number // 200}.{number % 200 + 1}" for number in range(1000)])
    async with relay.delivery.http.client(
        timeout=5, allow_private=LOOPBACK, resolver=names
    ) as client:
        with pytest.raises(httpx.ConnectError):
            await client.post(f"http://receiver.test:{port}/")
    assert len({address for *_, address in dialled}) == relay.delivery.http.MOST_ADDRESSES
    assert len(dialled) <= 36


# The parts


@given(st.data())
def test_pieces_do_not_matter(data):
    body = data.draw(st.binary(max_size=500))
    sizes = data.draw(st.lists(st.integers(1, 100), max_size=20))
    coded, rest = b"", body
    for size in sizes:
        if piece := rest[:size]:
            coded += b"%X\r\n%b\r\n" % (len(piece), piece)
            rest = rest[size:]
    coded += (b"%x\r\n%b\r\n" % (len(rest), rest) if rest else b"") + b"0\r\n\r\n"
    stray = data.draw(st.binary(max_size=20))
    chunks, got, behind = http_message.ChunkedResponseDecoder(), b"", b""
    whole = coded + stray
    while whole:
        cut = data.draw(st.integers(1, len(whole)))
        piece, left = chunks.feed(whole[:cut]) if not chunks.ended else (b"", whole[:cut])
        got, behind, whole = got + piece, behind + left, whole[cut:]
    assert (got, behind, chunks.ended) == (body, stray, True)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_none(text):
    try:
        head = http_message.parse_head(OK + text.replace(b"\n\n", b"") + b"\r\n\r\n")
    except http_message.BadHead:
        return
    assert http_message.body_of(head, to_head=False)[1] >= 0
    assert head.status == 200
    httpx.Response(head.status, headers=list(head.headers))


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "raw deflate", "GZIP", "members"])
def test_what_was_asked_for_is_unpacked(coding):
    body = bytes(200_000)
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "deflate": zlib.compress(body),
        "raw deflate": raw.compress(body) + raw.flush(),
        "members": gzip.compress(body[:1000]) + gzip.compress(body[1000:]) + b"junk",
    }.get(coding, gzip.compress(body))
    unpacker = http_message.ContentDecoder(
        [{"raw deflate": "deflate", "members": "gzip"}.get(coding, coding)]
    )
    pieces = [
        piece for at in range(0, len(packed), 7) for piece in unpacker.feed(packed[at : at + 7])
    ]
    unpacker.end()
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= http_message.PIECE


def test_gzip_members_are_bounded():
    unpacker = http_message.ContentDecoder(["gzip"])
    with pytest.raises(http_message.BadCoding, match="too many parts"):
        list(unpacker.feed(gzip.compress(b"x") * 100))


def test_tiny_chunks_cost_little():
    """Half of what the library needs for a form, for as many tiny chunks as are taken."""

    def feed():
        with pytest.raises(http_message.BadChunks, match="tiny"):
            http_message.ChunkedResponseDecoder().feed(b"1\r\nx\r\n" * 100_000)

    assert share(feed, 0.5) < 0.5


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        ((http_message, "parse_head"), httpx.RemoteProtocolError),
        ((http_message.ChunkedResponseDecoder, "feed"), None),
    ],
)
async def test_an_error_of_ours_while_an_answer_is_read_is_in_the_log(
    client, broken, caught, monkeypatch, caplog
):
    """aiohttp would take it for the other side's. A status that has been read decides even so."""

    def fail(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(*broken, fail)
    async with RawServer(CHUNKED + b"8\r\n" + BODY + b"\r\n0\r\n\r\n") as server:
        with (
            pytest.raises(caught, match="the relay failed") if caught else contextlib.nullcontext()
        ):
            answer = await client.post(server.url)
            assert answer.status_code == 200
            with pytest.raises(httpx.ReadError, match="the relay failed with ZeroDivisionError"):
                answer.json()
    assert "the relay failed with ZeroDivisionError" in caplog.messages[0]
    assert caplog.records[0].exc_info[2] is not None
