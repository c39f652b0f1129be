"""Reloads under load, on sockets that the relay has bound itself or was passed: no request fails,
and no delivery is lost or made twice.
"""

import asyncio
import contextlib
import signal
import socket
import time

import pytest
from manager import listening
from oracle import Senders
from pressing import press, sent
from relays import RUN, Relay, activated
from stubs.receiver import Receiver

UNHELD = ["-m", "unheld", "run"]
LATER = """
  later{number}:
    plugin: csv
    enabled: false
    options: {{path: out/later.csv}}
"""


@contextlib.contextmanager
def sockets(passed):
    """What a relay needs to be started on a socket that it is passed; or nothing."""
    if not passed:
        yield {}
        return
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        yield {
            "under": activated({"relay.socket": listener}),
            "descriptors": [listener.fileno()],
            "port": listener.getsockname()[1],
        }


async def reload_under_load(folder, reloads, *, every, passed=False, command=RUN):
    """Reload so often, each time after `every` requests; the relay, and what became of them."""
    begun = time.monotonic()
    senders, failures, stop = Senders(), [], asyncio.Event()
    with sockets(passed) as given:
        async with Receiver() as receiver, listening(folder) as manager:
            relay = Relay(folder, receiver.url, command=command, **given)
            relay.environment |= manager.environ
            await relay.start()
            await manager.hear("READY", 1)
            number = relay.process.pid
            crowd = press(relay, senders, failures, stop)
            try:
                for count in range(1, reloads + 1):
                    await sent(senders, every * count)
                    with relay.config.open("a") as file:
                        file.write(LATER.format(number=count))
                    relay.process.send_signal(signal.SIGHUP)
                    await manager.hear("READY", count + 1)
                await sent(senders, every * (reloads + 1))
                stop.set()
                await asyncio.gather(*crowd)
                print(
                    f"\n{reloads} reloads: {len(senders.sent)} sent, {len(failures)} failed,"
                    f" {time.monotonic() - begun:.0f} s"
                )
                sinks = (await relay.status())["sinks"]
                assert f"later{reloads}" in sinks, "the last reload was none"
                assert relay.process.pid == number
                assert manager.count("RELOADING") == reloads
                await relay.finish(senders, patience=30 + len(senders.sent) / 50)
            finally:
                for task in crowd:
                    task.cancel()
                relay.close()
            verdict = await relay.verdict(senders, receiver)
    print(f"{verdict.found} stored, {time.monotonic() - begun:.0f} s")
    assert "connections cut" not in relay.log.read_text()
    return senders, failures, verdict


async def none_fails(folder, reloads, *, every, passed=False):
    senders, failures, verdict = await reload_under_load(
        folder, reloads, every=every, passed=passed
    )
    assert not failures, failures[:5]
    assert len(senders.acked) == len(senders.sent)
    verdict.sound(once=["archive", "hook"])


async def test_two_reloads_fail_no_request(tmp_path):
    await none_fails(tmp_path, 2, every=200)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("passed", [False, True], ids=["bound", "passed"])
async def test_twenty_reloads_fail_no_request(tmp_path, passed):
    await none_fails(tmp_path, 20, every=2500, passed=passed)


@pytest.mark.faults
@pytest.mark.timeout(3600)
async def test_reloads_fail_requests_where_the_sockets_are_not_held(tmp_path):
    _, failures, verdict = await reload_under_load(tmp_path, 5, every=500, command=UNHELD)
    assert failures
    verdict.sound(once=["archive"])
