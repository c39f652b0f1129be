"""Restarts under load, with the listening socket held by another: no request fails."""

import asyncio
import socket
import time

import pytest
from oracle import Senders
from pressing import press, sent
from relays import RUN, Relay, activated
from stubs.receiver import Receiver


async def restart_under_load(folder, restarts, *, every, command=RUN):
    """Restart so often, each time after `every` requests; what the senders know, what failed of
    them, and the oracle's word.
    """
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
            crowd = press(relay, senders, failures, stop)
            try:
                for count in range(1, restarts + 1):
                    await relay.start()
                    await sent(senders, every * count)
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
    assert "connections cut" not in relay.log.read_text()
    return senders, failures, verdict


async def none_fails(folder, restarts, *, every):
    senders, failures, verdict = await restart_under_load(folder, restarts, every=every)
    assert not failures, failures[:5]
    assert len(senders.acked) == len(senders.sent)
    verdict.sound(once=["archive", "hook"])


async def test_three_restarts_fail_no_request(tmp_path):
    await none_fails(tmp_path, 3, every=200)


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_twenty_restarts_fail_no_request(tmp_path):
    await none_fails(tmp_path, 20, every=2500)


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_restarts_fail_requests_without_the_drain(tmp_path):
    command = ["-m", "abrupt", "run"]
    _, failures, verdict = await restart_under_load(tmp_path, 20, every=200, command=command)
    assert failures
    verdict.sound(once=["archive"])
