"""HTTP on a real socket: liberal in the request line, strict in size and time."""

import asyncio
import contextlib
import logging
import socket
import time

import pytest
from listening import answers, serving
from standstill import stand_still

from relay.server.connections import Deadline
from relay.server.protocol import MAX_BODY, MAX_HEAD, Protocol

GET = b"GET /a?b=1 HTTP/1.1\r\nHost: x\r\n\r\n"


class Quick(Protocol):
    """The same with little patience."""

    receive_timeout = 0.3
    idle_timeout = 0.4
    linger_timeout = 0.2


async def echo(scope, receive, send):
    """Answers with what it was asked."""
    message = await receive()
    assert not message["more_body"]
    text = b"|".join(
        (scope["method"].encode(), scope["raw_path"], scope["query_string"], message["body"])
    )
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
async def server():
    async with serving(echo) as running:
        yield running


@pytest.fixture
async def quick():
    async with serving(echo, protocol=Quick) as running:
        yield running


async def bodies(running, request: bytes, **options) -> list[bytes]:
    """What echo says to each request of a connection."""
    found = answers(await running.raw(request, **options))
    assert all(answer.status == 200 for answer in found), found
    return [answer.body for answer in found]


async def refusal(running, request: bytes, **options) -> int:
    """The one refusal that ends a connection."""
    (answer,) = answers(await running.raw(request, **options))
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.json()["status"] == answer.status
    assert answer.json()["detail"]
    return answer.status


LAST = b" HTTP/1.1\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "path", "query"),
    [
        (b"GET /a?b=have a nice day", b"/a", b"b=have%20a%20nice%20day"),
        (b"GET /a?b= 1 &c= ", b"/a", b"b=%201%20&c=%20"),
        (b"GET  /a?b=1", b"/a", b"b=1"),
        (b"GET /a?b=see HTTP/1.1 there", b"/a", b"b=see%20HTTP/1.1%20there"),
        (b"GET /a?b=\xc3\xa9\xe9", b"/a", b"b=%C3%A9%E9"),
        (b"GET /a?b=\x00\x01\x7f\t", b"/a", b"b=%00%01%7F%09"),
        (b"GET /a?b=\r1", b"/a", b"b=%0D1"),
        (b"GET /a?b=we are #1&c=2", b"/a", b"b=we%20are%20%231&c=2"),
        (b"GET /a?b=\"<>\\^`{|}'", b"/a", b"b=\"<>\\^`{|}'"),
        (b"GET /a?b=1?c=2", b"/a", b"b=1?c=2"),
        (b"GET /a b/c?d", b"/a%20b/c", b"d"),
        (b"GET /a?b=two\nlines", b"/a", b"b=two%0Alines"),
        (
            b"GET /a?b=two\r\nlines: so\r\nit is&c=3",
            b"/a",
            b"b=two%0D%0Alines:%20so%0D%0Ait%20is&c=3",
        ),
        (b"GET /a?", b"/a", b""),
        (b"GET /?b=%zz%", b"/", b"b=%zz%"),
        (b"GET http://relay.example/a?b=http://x/", b"/a", b"b=http://x/"),
        (b"GET http://relay.example?b", b"/", b"b"),
    ],
)
async def test_request_lines_are_taken_as_they_come(server, line, path, query):
    assert await bodies(server, line + LAST) == [b"GET|%s|%s|" % (path, query)]


async def test_every_printable_character_reaches_the_application(server):
    query = bytes(byte for byte in range(0x21, 0x7F) if byte not in b"#")
    assert await bodies(server, b"GET /a?" + query + LAST) == [b"GET|/a|" + query + b"|"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\nGET /a HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /a HTTP/1.1\nConnection: close\n\n",
        b"GET /a HTTP/1.1\r\nConnection: close\n\r\n",
        b"GET /a HTTP/1.1 \r\nConnection: close\r\n\r\n",
        b"GET /a HTTP/1.0\r\n\r\n",
        b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /a HTTP/1.1\r\nConnection: close\r\nX: \xe9\r\n\r\n",
        b"GET /a HTTP/1.1\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /a HTTP/1.1\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_heads_of_many_tastes_are_taken(server, request_bytes):
    assert await bodies(server, request_bytes) == [b"GET|/a||"]


async def test_an_upgrade_offered_with_a_body_is_ignored(server):
    request = (
        b"POST /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"Content-Length: 3\r\n\r\nabcGET /b" + LAST
    )
    assert await bodies(server, request) == [b"POST|/a||abc", b"GET|/b||"]


CHUNKED = (
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
)
PIPELINE = (
    GET
    + b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /"
    + CHUNKED
    + b"GET /raw space?\xe9 HTTP/1.1\r\n\r\n"
    + b"GET /last"
    + LAST
)
PIPELINED = [b"GET|/a|b=1|", b"POST|/p||GET /", b"POST|/a||abcde", b"GET|/raw%20space|%E9|"]
PIPELINED.append(b"GET|/last||")


async def test_pipelined_requests_are_answered_in_order(server):
    assert await bodies(server, PIPELINE) == PIPELINED


@pytest.mark.parametrize("size", [1, 2, 7, 50])
async def test_it_does_not_matter_how_the_bytes_are_cut(server, size):
    reader, writer = await server.open()
    for start in range(0, len(PIPELINE), size):
        writer.write(PIPELINE[start : start + size])
        await asyncio.sleep(0)
    assert [answer.body for answer in answers(await reader.read())] == PIPELINED


async def test_a_connection_serves_many_requests(server):
    reader, writer = await server.open()
    for _ in range(20):
        writer.write(GET)
        (answer,) = answers(await reader.readuntil(b"|b=1|"))
        assert "connection" not in answer.headers


async def test_a_sender_that_waits_for_100_is_invited(server):
    reader, writer = await server.open()
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    (answer,) = answers(await reader.readuntil(b"abc"))
    assert answer.status == 200


async def test_a_sender_of_http_1_0_is_not_invited(server):
    """It does not know the interim answer; the control above is HTTP/1.1."""
    request = b"POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"
    assert await bodies(server, request) == [b"POST|/||abc"]


async def test_a_sender_that_half_closes_is_answered(server):
    assert await bodies(server, GET, half_close=True) == [b"GET|/a|b=1|"]


async def test_a_request_cut_short_is_400(server):
    for cut in (
        b"GET",
        b"GET / HTTP/1.1\r\nHost",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
    ):
        assert await refusal(server, cut, half_close=True) == 400


# size


def head_of(size: int) -> bytes:
    start, end = b"GET / HTTP/1.1\r\nX: ", b"\r\nConnection: close\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


async def test_a_header_block_has_a_limit(server):
    assert await bodies(server, head_of(MAX_HEAD)) == [b"GET|/||"]
    assert await refusal(server, head_of(MAX_HEAD + 1)) == 431
    assert await refusal(server, head_of(20_000_000)) == 431
    assert await refusal(server, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000) == 431


async def test_a_request_line_has_a_limit(server):
    assert await refusal(server, b"GET /" + b"x" * MAX_HEAD + LAST) == 414
    assert await refusal(server, b"GET /" + b"x" * 5_000_000) == 414
    assert await refusal(server, b"GET /?" + b"a&" * 100_000 + LAST) == 414


async def test_a_body_has_a_limit(server):
    post = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    whole = b"x" * MAX_BODY
    assert await bodies(server, post % MAX_BODY + whole) == [b"POST|/||" + whole]
    assert await refusal(server, post % (MAX_BODY + 1) + whole + b"x") == 413
    assert await refusal(server, post % 10**15 + whole * 40) == 413


async def test_a_chunked_body_has_a_limit(server):
    post = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = b"x" * MAX_BODY
    chunk = b"%x\r\n%s\r\n" % (MAX_BODY, whole)
    assert await bodies(server, post + chunk + b"0\r\n\r\n") == [b"POST|/||" + whole]
    assert await refusal(server, post + chunk + b"1\r\nx\r\n0\r\n\r\n") == 413
    assert await refusal(server, post + chunk * 40) == 413
    assert await refusal(server, post + b"1\r\nx\r\n" * 300_000) == 413
    assert await refusal(server, post + b"0\r\n" + b"X: y\r\n" * 300_000) == 413


# time


async def took(running, request: bytes) -> tuple[bytes, float]:
    start = time.monotonic()
    return await running.raw(request), time.monotonic() - start


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\r\n",
        b"G",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
async def test_a_request_that_does_not_come_is_408_and_cut(quick, request_bytes):
    data, seconds = await took(quick, request_bytes)
    (answer,) = answers(data)
    assert answer.status == 408
    assert 0.25 < seconds < 10
    assert quick.server.server_state.refusals == {408: 1}


async def test_a_request_that_drips_is_cut_all_the_same(quick):
    reader, writer = await quick.open()
    start = time.monotonic()
    received = asyncio.create_task(reader.read())
    for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 1000:
        if received.done():
            break
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)
    assert time.monotonic() - start < 8
    (answer,) = answers(await received)
    assert answer.status == 408


async def test_an_idle_connection_is_closed_without_a_word(quick):
    data, seconds = await took(quick, GET)
    assert len(answers(data)) == 1
    assert 0.35 < seconds < 10


class Patient(Quick):
    """With connections that may be idle for long."""

    idle_timeout = 30.0


async def test_a_late_second_request_has_its_own_time():
    """The one timer, set for the idle connection, comes early enough for a slow request."""
    async with serving(echo, protocol=Patient) as running:
        reader, writer = await running.open()
        writer.write(GET)
        await reader.readuntil(b"|b=1|")
        start = time.monotonic()
        writer.write(b"GET")
        (answer,) = answers(await reader.read())
        assert answer.status == 408
        assert time.monotonic() - start < 10


async def test_a_slow_answer_is_not_cut():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.8)
        await echo(scope, receive, send)

    async with serving(slow, protocol=Quick) as running:
        assert await bodies(running, b"GET /a" + LAST) == [b"GET|/a||"]


# a standstill of the loop


class Client:
    """A connection whose bytes are sent and in the other side's kernel when `send` returns."""

    def __init__(self, running) -> None:
        self._loop = asyncio.get_running_loop()
        self._running = running
        self._socket = socket.create_connection(("127.0.0.1", running.port))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_some(self, data: memoryview) -> int:
        return self._socket.send(data)

    async def send_all(self, data: memoryview) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def read(self, count: int) -> bytes:
        return await self._loop.sock_recv(self._socket, count)

    async def accepted(self) -> None:
        async with asyncio.timeout(5):
            while not self._running.server.server_state.connections:
                await asyncio.sleep(0.005)

    async def told(self) -> list[int]:
        """The statuses until the connection ends."""
        data = b""
        async with asyncio.timeout(5):
            while part := await self.read(65536):
                data += part
        return [answer.status for answer in answers(data)]


PIECES = [
    (b"", b"GET /a" + LAST),
    (b"GET /a HTTP/1.1\r\nX: ", b"y\r\nConnection: close\r\n\r\n"),
    (b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 6\r\n\r\nabc", b"def"),
]


async def told_after_a_standstill(running, before, meanwhile) -> list[int]:
    """What is answered where one part came before, and another while the loop stood still."""
    with Client(running) as client:
        client.send(before)
        await client.accepted()
        await stand_still(Quick.receive_timeout + 0.3, lambda: client.send(meanwhile))
        return await client.told()


@pytest.mark.parametrize(("before", "meanwhile"), PIECES)
async def test_what_came_during_a_standstill_is_read_before_it_is_late(quick, before, meanwhile):
    assert await told_after_a_standstill(quick, before, meanwhile) == [200]


async def told_on_an_idle_connection(running) -> list[int]:
    with Client(running) as client:
        client.send(GET)
        assert answers(await client.read(65536))[0].status == 200
        await stand_still(Quick.idle_timeout + 0.3, lambda: client.send(b"GET /a" + LAST))
        return await client.told()


async def test_no_connection_is_closed_for_idleness_before_its_request_is_read(quick):
    assert await told_on_an_idle_connection(quick) == [200]


@pytest.fixture
def hasty(monkeypatch):
    """Deadlines that are never put off."""
    ring = Deadline._on_timer
    monkeypatch.setattr(Deadline, "_on_timer", lambda self, _: ring(self, self._at))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("before", "meanwhile"), PIECES)
async def test_control_without_another_look_it_is_408(quick, before, meanwhile):
    assert await told_after_a_standstill(quick, before, meanwhile) == [408]


@pytest.mark.usefixtures("hasty")
async def test_control_without_another_look_a_request_has_no_answer(quick):
    with contextlib.suppress(ConnectionResetError):
        assert await told_on_an_idle_connection(quick) == []


@pytest.mark.parametrize("before", [b"", b"GET /a HTTP/1.1\r\nX: "])
async def test_a_slow_client_gains_nothing_by_a_standstill(quick, before):
    assert await told_after_a_standstill(quick, before, b"G") == [408]


async def test_a_body_that_had_to_wait_for_us_can_follow(quick):
    """The kernels take a part of it while nobody reads; the rest comes a moment later."""
    post = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % MAX_BODY
    left = memoryview(b"x" * MAX_BODY)

    def fill():
        nonlocal left
        with contextlib.suppress(BlockingIOError):
            while left:
                left = left[client.send_some(left) :]

    with Client(quick) as client:
        client.send(post)
        await client.accepted()
        await stand_still(Quick.receive_timeout + 0.3, fill)
        assert left, "the kernels took all of it"
        await asyncio.sleep(0.1)
        await client.send_all(left)
        assert await client.told() == [200]


async def test_who_connected_during_a_standstill_has_his_full_time(quick):
    clients = []
    await stand_still(Quick.receive_timeout + 0.3, lambda: clients.append(Client(quick)))
    with clients[0] as client:
        await client.accepted()
        await asyncio.sleep(Quick.receive_timeout / 3)
        client.send(b"GET /a" + LAST)
        assert await client.told() == [200]


# the application's part


async def test_an_answer_in_parts_is_chunked():
    async def parts(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"a", b"", b"bc"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})
        await send({"type": "http.response.body", "body": b"too late"})

    async with serving(parts) as running:
        data = await running.raw(GET.replace(b"Host: x", b"Connection: close"))
    assert data.endswith(b"\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
    assert b"transfer-encoding: chunked\r\n" in data


@pytest.mark.parametrize("begun", [False, True])
async def test_an_application_that_fails_tells_nothing(begun, caplog):
    async def fails(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        raise ZeroDivisionError("secret")

    async with serving(fails) as running:
        data = await running.raw(GET.replace(b"Host: x", b"Connection: close"))
    assert b"secret" not in data
    assert "ZeroDivisionError" in caplog.messages[0]
    if not begun:
        (answer,) = answers(data)
        assert answer.status == 500


def failing(step):
    """A protocol with an error of ours in one of its steps."""

    def fail(*_):
        raise ZeroDivisionError("secret")

    return type("Failing", (Protocol,), {step: fail})


@pytest.mark.parametrize(
    "step",
    [
        "on_message_begin",
        "on_url",
        "on_header",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "_read_head",
        "_read_body",
    ],
)
async def test_an_error_of_ours_while_a_request_is_read_is_500_and_logged(step, caplog):
    request = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nX: y\r\n\r\nabc"
    async with serving(echo, protocol=failing(step)) as running:
        (answer,) = answers(await running.raw(request))
    assert answer.status == 500
    assert answer.headers["connection"] == "close"
    assert b"secret" not in answer.body
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "ZeroDivisionError" in record.getMessage()
    assert record.exc_info[2] is not None


async def test_an_error_of_ours_in_a_second_request_leaves_the_first_its_answer(caplog):
    class Once(Protocol):
        count = 0

        def on_headers_complete(self):
            self.count += 1
            assert self.count == 1
            super().on_headers_complete()

    async with serving(echo, protocol=Once) as running:
        first, second = answers(await running.raw(GET + GET))
    assert (first.status, second.status) == (200, 500)
    assert "AssertionError" in caplog.text


async def test_an_application_that_says_nothing_is_500():
    async def silent(scope, receive, send):
        pass

    async with serving(silent) as running:
        (answer,) = answers(await running.raw(b"GET /" + LAST))
        assert answer.status == 500


async def test_the_application_learns_that_the_sender_has_gone():
    gone = asyncio.Event()

    async def waits(scope, receive, send):
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        gone.set()

    async with serving(waits) as running:
        _, writer = await running.open()
        writer.write(GET)
        await asyncio.sleep(0.1)
        writer.transport.abort()
        async with asyncio.timeout(10):
            await gone.wait()


async def test_no_line_break_gets_into_a_header(caplog):
    async def injects(scope, receive, send):
        headers = [(b"location", b"/\r\nx: y")]
        await send({"type": "http.response.start", "status": 302, "headers": headers})
        await send({"type": "http.response.body"})

    async with serving(injects) as running:
        (answer,) = answers(await running.raw(b"GET /" + LAST))
    assert answer.status == 500
    assert "x" not in answer.headers


async def test_nothing_is_logged_of_what_is_refused(server, caplog):
    caplog.set_level(logging.DEBUG)
    await server.raw(b"\x16\x03\x01secret\r\n\r\n")
    await server.raw(b"GET /secret\r\n\r\n")
    assert "secret" not in caplog.text
