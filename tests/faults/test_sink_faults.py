"""Whatever stands where a receiver should be: each event arrives there once the fault is over.

The control is a sender as one writes it in an afternoon: one try each, and it believes what it
is told.
"""

import asyncio
import contextlib
import time
from collections import Counter

import httpx
import pytest
import sinkproxy
from relaying import relaying
from sinkproxy import SinkProxy, lies, passes, redirects, says
from stubs.receiver import Receiver
from workers import eventually

from relay.store import State

EVENTS = 8
CONCURRENCY = 4
"""By default."""
TIMEOUT = 0.4

NEVER_ARRIVE = {
    "resets": sinkproxy.reset,
    "closes without a word": sinkproxy.closes,
    "hangs": sinkproxy.hang,
    "drips the head": sinkproxy.drip_head,
    "drips an error": sinkproxy.drip_error,
    "a head without end": sinkproxy.endless_head,
    "a line without end": sinkproxy.endless_line,
    "an error without end": sinkproxy.endless_error,
    "no HTTP": says(b"SSH-2.0-OpenSSH_9.2"),
    "a TLS alert": says(b"\x15\x03\x01\x00\x02\x02\x46"),
    "an unknown status": says(b"HTTP/1.1 999 Who Knows", b"Content-Length: 0"),
    "no status": says(b"HTTP/1.1 ok", b"Content-Length: 0"),
    "two lengths": says(
        b"HTTP/1.1 503 Busy", b"Content-Length: 1", b"Content-Length: 2", body=b"x"
    ),
    "a length that is none": says(b"HTTP/1.1 503 Busy", b"Content-Length: -1"),
    "a chunk that is none": says(
        b"HTTP/1.1 503 Busy", b"Transfer-Encoding: chunked", body=b"zz\r\n"
    ),
    "packed rubbish": says(
        b"HTTP/1.1 503 Busy", b"Content-Encoding: gzip", b"Content-Length: 4", body=b"rubb"
    ),
    "early hints for ever": says(*[b"HTTP/1.1 103 Early Hints\r\n"] * 5000),
}
"""What becomes of requests that the receiver never sees."""

ARRIVE_ALL_THE_SAME = {
    "resets after": sinkproxy.reset_after,
    "hangs after": sinkproxy.hang_after,
    "promises more": lies(1000),
    "says more than it promised": lies(1),
    "another answer behind its own": lies(
        2, b"{}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 20
    ),
}
"""The receiver has them; what the sink gets to hear is another thing."""


@pytest.fixture
async def receiver():
    async with Receiver() as found:
        yield found


@pytest.fixture
async def proxy(receiver):
    async with SinkProxy(receiver.port) as found:
        yield found


@pytest.fixture
async def relay(tmp_path, proxy):
    sink = {"plugin": "webhook", "options": {"url": proxy.url}, "timeout": f"{TIMEOUT}s"}
    async with relaying(tmp_path, sink) as found:
        yield found


def got(receiver) -> Counter:
    """How often each event came."""
    return Counter(request.headers["webhook-id"] for request in receiver.requests)


async def sent_meanwhile(relay) -> list[str]:
    """Events taken while the sink's other side is in trouble; the ingress must not notice."""
    begun = time.monotonic()
    ids = await relay.send_many(range(EVENTS))
    assert time.monotonic() - begun < 5
    return ids


async def healed(relay, proxy, receiver, ids) -> Counter:
    """End the fault; give how often each event came when all is delivered, a fresh one too."""
    proxy.heal()
    await relay.reached(delivered=len(ids), pending=0, dead=0)
    ids = [*ids, await relay.send(99)]
    found = await relay.reached(delivered=len(ids), pending=0, dead=0)
    assert found["state"] == "running"
    assert set(got(receiver)) == set(ids)  # none is missing, and none is invented
    return got(receiver)


async def naive(proxy) -> int:
    """How many of so many a simple sender believes to have delivered."""
    async with httpx.AsyncClient(trust_env=False, timeout=5 * TIMEOUT) as http:

        async def one(number):
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(5 * TIMEOUT):
                    headers = {"webhook-id": f"naive-{number}"}
                    answer = await http.post(proxy.url, json={}, headers=headers)
                    return answer.status_code < 300
            return False

        return sum(await asyncio.gather(*map(one, range(EVENTS))))


@pytest.mark.parametrize("fault", NEVER_ARRIVE)
async def test_what_did_not_arrive_is_tried_until_it_does(relay, proxy, receiver, fault):
    proxy.fault = NEVER_ARRIVE[fault]
    ids = await sent_meanwhile(relay)
    await proxy.has_struck(EVENTS + 3)
    assert (await relay.status())["delivered"] == 0
    assert not receiver.requests
    await healed(relay, proxy, receiver, ids)


@pytest.mark.parametrize("fault", ARRIVE_ALL_THE_SAME)
async def test_what_arrived_comes_again_under_the_same_id_at_the_most(
    relay, proxy, receiver, fault
):
    proxy.fault = ARRIVE_ALL_THE_SAME[fault]
    ids = await sent_meanwhile(relay)
    await proxy.has_struck(EVENTS)
    await healed(relay, proxy, receiver, ids)


async def test_where_nobody_listens_all_waits(relay, proxy, receiver):
    await proxy.refuse()
    ids = await sent_meanwhile(relay)
    async with asyncio.timeout(20):
        while "cannot be reached" not in await relay.command("events", "show", ids[0], "--json"):
            await asyncio.sleep(0.05)
    await relay.reached(pending=EVENTS, delivered=0)
    await proxy.listen()
    await healed(relay, proxy, receiver, ids)


async def test_faults_by_turns(relay, proxy, receiver):
    """All of them, one after the other, while callbacks keep coming."""
    ids = []
    for fault in (*NEVER_ARRIVE.values(), *ARRIVE_ALL_THE_SAME.values()):
        proxy.fault = fault
        ids += await relay.send_many(range(4))
        await proxy.has_struck(proxy.struck + 2)
    await healed(relay, proxy, receiver, ids)


async def test_a_redirect_into_this_machine_is_not_followed(relay, proxy, receiver):
    """It is refused as the mistake that it is; the trap behind it stays untouched."""
    async with Receiver() as trap:
        proxy.fault = redirects(f"http://127.0.0.1:{trap.port}/admin")
        await relay.send_many(range(3))
        await proxy.has_struck(3)
        await relay.reached(dead=3, pending=0)
        assert trap.connections == 0
        # The control: whoever follows gets there.
        async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as http:
            await http.post(proxy.url, json={})
        assert trap.connections == 1
    assert not receiver.requests


@pytest.mark.parametrize("fault", NEVER_ARRIVE)
async def test_control_a_simple_sender_loses_them(proxy, receiver, fault):
    proxy.fault = NEVER_ARRIVE[fault]
    await naive(proxy)
    assert proxy.struck == EVENTS
    proxy.heal()
    assert not receiver.requests


@pytest.mark.parametrize("fault", ["resets after", "hangs after"])
async def test_control_a_simple_sender_does_not_know_what_arrived(proxy, receiver, fault):
    proxy.fault = ARRIVE_ALL_THE_SAME[fault]
    assert await naive(proxy) == 0
    assert len(got(receiver)) == EVENTS


async def test_control_without_a_time_limit_a_hung_receiver_holds_its_events(tmp_path, proxy):
    sink = {"plugin": "webhook", "options": {"url": proxy.url}, "timeout": "1h"}
    async with relaying(tmp_path, sink) as relay:
        proxy.fault = sinkproxy.hang
        await relay.send_many(range(EVENTS))
        await proxy.has_struck(CONCURRENCY)
        await asyncio.sleep(3 * TIMEOUT)
        assert proxy.struck == CONCURRENCY
        proxy.fault = passes


# Retry-After


def busy(value: str):
    return says(
        b"HTTP/1.1 429 Too Many Requests",
        b"Retry-After: " + value.encode("latin-1"),
        b"Content-Length: 0",
    )


async def put_off(clock, relay, proxy, value: str, seconds: float) -> None:
    """The delivery has to wait; then so many seconds of the relay's clock pass."""
    proxy.fault = busy(value)
    event = await relay.send(1)

    async def settled() -> bool:
        (delivery,) = (await relay.event(event)).deliveries
        return delivery.state is State.WAITING and delivery.attempts == 1

    await eventually(settled)
    proxy.heal()
    passed = 0.0
    while passed < seconds:
        await clock.advance(min(1.0, seconds - passed))
        passed += 1.0
        await asyncio.sleep(0.02)


async def delivered_soon(relay) -> bool:
    await asyncio.sleep(0.1)
    return (await relay.status())["delivered"] == 1


@pytest.fixture
async def timed(tmp_path, proxy, clock):
    """The same relay with a clock that is moved by hand."""
    sink = {"plugin": "webhook", "options": {"url": proxy.url}, "timeout": "5s"}
    async with relaying(tmp_path, sink, clock=clock) as found:
        yield found


@pytest.mark.parametrize("value", ["30", " 30 ", "30.0", "Fri, 15 Jan 2027 08:00:30 GMT"])
async def test_retry_after_is_obeyed(clock, timed, proxy, value):
    await put_off(clock, timed, proxy, value, 28)
    assert not await delivered_soon(timed)
    await clock.advance(5)
    await timed.reached(delivered=1)


@pytest.mark.parametrize(
    "value",
    ["soon", "1e99", "-30", "0", "", "nan", "inf", "30, 60", "0x1e", "\xff\xfe", "9" * 300 + "x"],
)
async def test_what_is_no_retry_after_is_not(clock, timed, proxy, value):
    """The sink's own back-off holds, which here is below a second."""
    await put_off(clock, timed, proxy, value, 2)
    await timed.reached(delivered=1)


@pytest.mark.parametrize("value", ["9" * 300, "31536000", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_nobody_makes_a_sink_wait_longer_than_a_day(clock, timed, proxy, value):
    await put_off(clock, timed, proxy, value, 60)
    assert not await delivered_soon(timed)
    await clock.advance(86_400)
    await timed.reached(delivered=1)
