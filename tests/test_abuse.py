"""What an attacker can send to the public listener, and how little he learns from the answers."""

import re
from ipaddress import ip_network

import pytest
from listening import QUERIES, answers, listening

from relay.config.loader import SourceConfig
from relay.server.access import UNAUTHENTICATED_RATE, TrustedProxies
from relay.server.connections import ConnectionLimiter
from relay.store import EventFilter, StoreError, StoreFull
from relay.store.sqlite import SqliteStore

FIRST = b"/callbacks/sumotext?" + QUERIES[0]
POST = b"POST /callbacks/sumotext HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"


@pytest.fixture
async def store(tmp_path):
    opened = await SqliteStore.open(tmp_path / "relay.db")
    yield opened
    await opened.close()


def limited(**limit):
    return {"sumotext": SourceConfig(limit=limit)}


async def statuses(relay, requests):
    """The answers to requests in one connection each, one after the other."""
    return [(await relay.ask(request)).status for request in requests]


# limits of a source


async def test_above_the_rate_it_is_429_and_nothing_is_kept(store):
    async with listening(store, sources=limited(rate="3/1h")) as relay:
        assert await statuses(relay, [FIRST] * 5) == [200] * 3 + [429] * 2
        answer = await relay.ask(FIRST)
        assert answer.headers["content-type"] == "application/problem+json"
        assert 0 < int(answer.headers["retry-after"]) <= 3600
        assert (await relay.ask(b"/callbacks/sumotext?mobile=1")).status == 429
        assert await store.event_count() == 3
        assert await store.quarantine_count() == 0


async def test_above_the_bytes_it_is_429_whatever_they_are_in(store):
    async with listening(store, sources=limited(bytes="2KiB/1h")) as relay:
        body = QUERIES[0].replace(b" ", b"+") + b"&x=" + b"x" * 1000
        found = [answers(await relay.raw(POST % (len(body), body))) for _ in range(3)]
        assert [answer.status for (answer,) in found] == [200, 429, 429]
        found = await relay.ask(FIRST)  # small enough for what is left
        assert found.status == 200
        assert await store.event_count() == 2


async def test_after_a_while_it_takes_callbacks_again(store):
    async with listening(store, sources=limited(rate="2/100ms")) as relay:
        found = await statuses(relay, [FIRST] * 2)
        while 429 not in found:  # on a slow machine the bucket fills meanwhile
            found += await statuses(relay, [FIRST])
        while (await relay.ask(FIRST)).status == 429:
            pass
        assert await store.event_count() == found.count(200) + 1


async def test_one_source_takes_nothing_from_another(store):
    sources = {"greedy": SourceConfig(limit={"rate": "1/1h"}), "sumotext": SourceConfig()}
    async with listening(store, sources=sources) as relay:
        greedy = FIRST.replace(b"sumotext", b"greedy", 1)
        assert await statuses(relay, [greedy, greedy, FIRST, FIRST]) == [200, 429, 200, 200]


async def test_strangers_take_nothing_from_who_has_the_token(store):
    """However many guesses, the vendor's callbacks pass; what is kept of the guesses has an end."""
    sources = {"sumotext": SourceConfig(tokens=["right"], limit={"rate": "5/1h"})}
    guesses = UNAUTHENTICATED_RATE.count + 200
    async with listening(store, sources=sources) as relay:
        request = b"GET /callbacks/sumotext/wrong?mobile=1 HTTP/1.1\r\n\r\n"
        last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        found = answers(await relay.raw(request * (guesses - 1) + last, timeout=50))
        told = [answer.status for answer in found]
        assert set(told) == {401, 429}
        # One sender gets half of the bucket, and a few more for those that it gets meanwhile.
        assert UNAUTHENTICATED_RATE.count / 2 <= told.count(401) < UNAUTHENTICATED_RATE.count
        right = b"/callbacks/sumotext/right?" + QUERIES[0]
        assert await statuses(relay, [right] * 6) == [200] * 5 + [429]


@pytest.mark.parametrize("trusted", [True, False])
async def test_behind_a_proxy_that_is_trusted_each_client_is_a_sender(store, trusted):
    """Else whoever sends the header would be as many as it likes."""
    sources = {"sumotext": SourceConfig(tokens=["right"])}
    limiter = ConnectionLimiter(
        proxies=TrustedProxies([ip_network("127.0.0.0/8")] if trusted else [])
    )
    clients = [
        "203.0.113.9",
        "2001:db8::1",
        "::ffff:198.51.100.1",
        "nonsense",
        "fe80::1%" + "x" * 99,
    ]
    async with listening(store, sources=sources, limiter=limiter) as relay:
        for client in clients:
            header = b"X-Forwarded-For: 192.0.2.1, %s\r\n" % client.encode()
            assert (await relay.ask(FIRST, headers=header)).status == 401
    kept = [each.callback.sender for each in reversed(await store.quarantined())]
    if trusted:
        assert kept == ["203.0.113.9", "2001:db8::1", "198.51.100.1", "", ""]
    else:
        assert kept == ["127.0.0.1"] * len(clients)


async def test_what_strangers_send_fills_no_disk(store):
    """A thousand of theirs are kept, which is little as long as each is."""
    sources = {"sumotext": SourceConfig(tokens=["right"])}
    async with listening(store, sources=sources) as relay:
        for size in (16 * 1024, 16 * 1024 + 1, 256 * 1024):
            request = POST % (size, b"x" * size)
            (answer,) = answers(await relay.raw(request))
            assert answer.status == 401
    (kept,) = await store.quarantined()
    assert len(kept.callback.body) == 16 * 1024


REFUSED_BY_THE_HEAD = {
    b"POST /callbacks/sumotext/wrong": 401,
    b"POST /callbacks/sumotext": 401,
    b"POST /callbacks/near": 403,
    b"POST /callbacks/nothing": 404,
    b"PUT /callbacks/sumotext/right": 405,
}


@pytest.mark.parametrize("length", [b"Content-Length: 17000", b"Transfer-Encoding: chunked"])
async def test_what_the_head_refuses_is_answered_before_the_body_comes(store, length):
    """A sender with a wrong token holds no memory and costs no time with what it sends."""
    sources = {
        "sumotext": SourceConfig(tokens=["right"]),
        "near": SourceConfig(allow_from=["203.0.113.0/24"]),
    }
    async with listening(store, sources=sources) as relay:
        for request, status in REFUSED_BY_THE_HEAD.items():
            head = request + b" HTTP/1.1\r\n" + length + b"\r\n\r\n"
            if status == 401 and b"chunked" in length:
                head += b"4268\r\n" + b"x" * 0x4268  # more than may be kept, without an end
            (answer,) = answers(await relay.raw(head))
            assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert await store.quarantine_count() == 0


async def test_a_right_token_has_the_whole_body_read(store):
    body = b"mobile=2125551212&reply=A&x=" + b"x" * 200_000
    post = b"POST /callbacks/sumotext/right HTTP/1.1\r\nConnection: close\r\n"
    chunks = b"".join(b"1000\r\n%s\r\n" % body[at : at + 4096] for at in range(0, 196_608, 4096))
    rest = body[196_608:]
    async with listening(store, sources={"sumotext": SourceConfig(tokens=["right"])}) as relay:
        for request in (
            post + b"Content-Length: %d\r\n\r\n%s" % (len(body), body),
            post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
            + b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest),
        ):  # fmt: skip
            (answer,) = answers(await relay.raw(request))
            assert answer.status == 200
    assert [row.callback.body for row in await store.events(EventFilter())] == [body, body]


async def test_the_answer_is_read_by_who_sends_on(store):
    """The connection is not reset while the rest of an unread body comes in."""
    sources = {"sumotext": SourceConfig(tokens=["right"])}
    async with listening(store, sources=sources) as relay:
        for size in (20_000, 256 * 1024):
            reader, writer = await relay.open()
            writer.write(POST % (size, b""))
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"x" * size)
            await writer.drain()
            await reader.read()


async def test_a_request_guesses_no_more_than_a_few_tokens(store):
    """A head has room for hundreds of them, and who guesses is limited by the request."""
    sources = {"sumotext": SourceConfig(tokens=["right"])}
    wrong, right = b"X-Relay-Token: wrong\r\n", b"X-Relay-Token: right\r\n"
    async with listening(store, sources=sources) as relay:
        found = [await relay.ask(FIRST, headers=wrong * number + right) for number in (1, 500)]
    assert [answer.status for answer in found] == [200, 401]


async def test_the_log_is_not_flooded(store, caplog):
    async with listening(store, sources=limited(rate="1/1h")) as relay:
        await statuses(relay, [FIRST] * 50)
    assert len(caplog.messages) == 1


# what answers tell


class Broken:
    """A store, or whatever keeps callbacks, that fails with all the details."""

    def __init__(self, error) -> None:
        self._error = error

    def __getattr__(self, name):
        async def fails(*_, **__):
            raise self._error

        return fails


SECRETS = "/var/lib/relay/relay.db: SQLITE_IOERR_FSYNC 212-555-1212 apsw"
TELLING = re.compile(
    r"Traceback|File \"|line \d|\.py|/var|/work|sqlite|apsw|uvicorn|starlette|httptools|python|"
    r"Exception|\w+Error|token [\"']|right|2125551212|127\.0\.0\.1|relay\.db|disk|\d+\.\d+\.\d+",
    re.IGNORECASE,
)
REQUESTS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /callbacks/nobody HTTP/1.1\r\n\r\n",
    b"GET /callbacks/sumotext/wrong?%s HTTP/1.1\r\n\r\n" % QUERIES[0],
    b"GET /callbacks/open?mobile=2125551212 HTTP/1.1\r\n\r\n",
    b"GET /callbacks/open?%s HTTP/1.1\r\n\r\n" % QUERIES[0],
    b"GET /callbacks/far?%s HTTP/1.1\r\n\r\n" % QUERIES[0],
    b"DELETE /callbacks/open HTTP/1.1\r\n\r\n",
    b"HEAD /healthz HTTP/1.1\r\n\r\n",
    b"GET /readyz HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"GET /api/v1/events HTTP/1.1\r\n\r\n",
    b"GET /console HTTP/1.1\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
    b"GET /callbacks/open/..%2f..%2fetc%2fpasswd HTTP/1.1\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /callbacks/open HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
    b"POST /callbacks/open HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
]


@pytest.mark.parametrize("error", [None, StoreError(SECRETS), StoreFull(SECRETS)])
async def test_answers_tell_nothing_of_what_is_inside(store, error):
    sources = {
        "sumotext": SourceConfig(tokens=["right"]),
        "open": SourceConfig(),
        "far": SourceConfig(allow_from=["203.0.113.0/24"]),
    }
    async with listening(Broken(error) if error else store, sources=sources) as relay:
        for request in REQUESTS:
            data = await relay.raw(request, half_close=True)
            (answer,) = answers(data, head=request.startswith(b"HEAD"))
            assert not TELLING.search(data.decode()), data
            allowed = {"content-type", "content-length", "connection", "date", "allow"}
            assert answer.headers.keys() <= allowed | {"www-authenticate", "retry-after"}


async def test_what_is_for_operators_is_not_on_the_public_listener(store):
    async with listening(store) as relay:
        for path in (b"/metrics", b"/console", b"/api/v1/status", b"/docs", b"/openapi.json"):
            assert (await relay.ask(path)).status == 404
