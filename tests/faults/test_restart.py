"""Restarts under load, with the listening socket held by another: no request fails."""

import asyncio
import itertools
import random
import socket
import time

import pytest
from oracle import Senders
from relays import RUN, Relay, Sender, activated
from stubs.receiver import Receiver

SENDERS = 8
REST = 0.005
"""Seconds between the requests of a sender: far less than a drain waits before it closes
connections that rest, as otherwise one might be closed just when a request sets out."""


async def sends(relay, senders, failures, number, stop):
    """Half of the senders open a connection for each request."""
    chance = random.Random(number)
    close = bool(number % 2)
    async with Sender(relay.port, senders) as sender:
        for count in itertools.count():
            if stop.is_set():
                return
            try:
                async with asyncio.timeout(20):
                    status = await sender.send(
                        f"{number}-{count}", number * 50 + count % 50, close=close
                    )
            except (OSError, EOFError) as error:
                failures.append(repr(error))
            else:
                if status != 200:
                    failures.append(status)
            await asyncio.sleep(chance.uniform(0, 2 * REST))


async def restart_under_load(folder, restarts, command=RUN):
    """Restart so often; the senders, their failures, and the oracle's word."""
    begun = time.monotonic()
    senders, failures, stop = Senders(), [], asyncio.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        handle = listener.fileno()
        async with Receiver() as receiver:
            relay = Relay(
                folder,
                receiver.url,
                command=command,
                under=activated({"relay.socket": listener}),
                descriptors=[handle],
                port=listener.getsockname()[1],
            )
            crowd = [
                asyncio.create_task(sends(relay, senders, failures, number, stop))
                for number in range(SENDERS)
            ]
            try:
                for _ in range(restarts):
                    await relay.start()
                    await asyncio.sleep(random.uniform(0.3, 1.0))
                    assert await relay.stop() == 0, relay.last_words()
                await relay.start()
                stop.set()
                await asyncio.gather(*crowd)
                await relay.finish(senders, patience=30 + 4 * restarts)
            finally:
                for task in crowd:
                    task.cancel()
                relay.close()
            verdict = await relay.verdict(senders, receiver)
    print(
        f"\n{restarts} restarts: {len(senders.sent)} sent, {len(failures)} failed,"
        f" {verdict.found} stored, {time.monotonic() - begun:.0f} s"
    )
    assert len(senders.sent) > 50 * restarts
    assert "connections cut" not in relay.log.read_text()
    return senders, failures, verdict


async def none_fails(folder, restarts):
    senders, failures, verdict = await restart_under_load(folder, restarts)
    assert not failures, failures[:5]
    assert len(senders.acked) == len(senders.sent)
    verdict.sound(once=["archive", "hook"])


async def test_three_restarts_fail_no_request(tmp_path):
    await none_fails(tmp_path, 3)


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_twenty_restarts_fail_no_request(tmp_path):
    await none_fails(tmp_path, 20)


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_restarts_fail_requests_without_the_drain(tmp_path):
    _, failures, verdict = await restart_under_load(tmp_path, 20, ["-m", "abrupt", "run"])
    assert failures
    verdict.sound(once=["archive"])
