"""A crowd of slow connections: every good request is still answered, and the slow ones are cut."""

import asyncio
import resource
import time

import pytest
from listening import QUERIES, answers, listening

from relay.protocol import Protocol
from relay.sqlite import SqliteStore

GOOD = b"GET /callbacks/sumotext?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % QUERIES[0]
BEGINNINGS = (
    b"",
    b"G",
    b"GET /callbacks/sumotext?mobile=",
    b"GET /callbacks/sumotext HTTP/1.1\r\nHost: x\r\nX-Header: ",
    b"POST /callbacks/sumotext HTTP/1.1\r\nContent-Length: 9999\r\n\r\nmobile=",
    b"POST /callbacks/sumotext HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nmobile=",
)


class Brief(Protocol):
    """As patient as the short form of the test."""

    receive_timeout = 3.0


async def drip(relay, beginning: bytes, pause: float) -> tuple[bytes, float]:
    """Send a beginning, then a byte now and then; what came back, and after how long."""
    reader, writer = await relay.open()
    start = time.monotonic()
    received = asyncio.create_task(reader.read())
    writer.write(beginning)
    while not received.done():
        await asyncio.wait([received], timeout=pause)
        if beginning and not received.done():
            writer.write(b"2")
    writer.close()
    return await received, time.monotonic() - start


async def crowd(relay, slow: int, patience: float) -> None:
    dripping = [
        asyncio.create_task(drip(relay, BEGINNINGS[number % len(BEGINNINGS)], patience / 5))
        for number in range(slow)
    ]
    await asyncio.sleep(0.5)
    good, waits = 0, []
    while not all(task.done() for task in dripping):
        start = time.monotonic()
        (answer,) = answers(await relay.raw(GOOD))
        waits.append(time.monotonic() - start)
        assert answer.status == 200
        good += 1
    assert good > 100
    assert await relay.store.event_count() == good
    assert sorted(waits)[int(len(waits) * 0.99)] < 0.5
    for data, seconds in await asyncio.gather(*dripping):
        (answer,) = answers(data)
        assert answer.status == 408
        assert seconds < patience + 2
    print(f"{slow} slow connections, {good} good requests, slowest {max(waits) * 1e3:.0f} ms")


async def test_a_hundred_slow_connections(tmp_path):
    store = await SqliteStore.open(tmp_path / "relay.db")
    async with listening(store, protocol=Brief) as relay:
        await crowd(relay, 100, Brief.receive_timeout)
    await store.close()


@pytest.mark.faults
async def test_a_thousand_slow_connections(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    store = await SqliteStore.open(tmp_path / "relay.db")
    try:
        async with listening(store) as relay:
            await crowd(relay, 1000, Protocol.receive_timeout)
    finally:
        await store.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
