"""A relay that is stopped in its tracks (SIGSTOP) and goes on later, as on a machine that swaps."""

import asyncio
import contextlib
import signal
from collections import Counter
from pathlib import Path

import pytest
from oracle import Senders
from relays import PATIENCE, POLL, RUN, Relay, Sender, crowd
from stubs.receiver import Receiver, hang, status

from relay.server.protocol import Protocol
from relay.state_directory import StateDirectory

STOPS = 30
SILENT, IDLE, LATE = range(3)
"""A connection that was opened before the stop; one that was used, so that those before it are
accepted; one opened during the stop."""


@contextlib.asynccontextmanager
async def stopped(relay):
    """Not one step, while the block runs."""
    relay.process.send_signal(signal.SIGSTOP)
    while state(relay.process.pid) != "T":
        await asyncio.sleep(POLL)
    try:
        yield
    finally:
        relay.process.send_signal(signal.SIGCONT)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def senders_of(stack, relay, senders, kinds, *, each):
    """Connections in each of these states."""
    made = []
    for kind in kinds:
        for number in range(each):
            sender = await stack.enter_async_context(Sender(relay.port, senders))
            if kind == IDLE:
                assert await sender.send(f"before-{number}", number) == 200
            elif kind == SILENT:
                await sender.connect()
            made.append(sender)
    return made


async def sent_during_a_stop(folder, seconds, *, command=RUN, each=5):
    """The answers to what is sent to a stopped relay, on all kinds of connections."""
    senders = Senders()
    async with Receiver() as receiver, contextlib.AsyncExitStack() as stack:
        relay = Relay(folder, receiver.url, command=command)
        try:
            await relay.start()
            waiting = await senders_of(stack, relay, senders, (SILENT, IDLE, LATE), each=each)
            async with stopped(relay):
                sending = [
                    asyncio.create_task(sender.send(f"during-{number}", 100 + number))
                    for number, sender in enumerate(waiting)
                ]
                done, _ = await asyncio.wait(sending, timeout=seconds)
                assert not done, "it was not stopped"
            answers = await asyncio.gather(*sending, return_exceptions=True)
            await relay.finish(senders)
        finally:
            relay.close()
        verdict = await relay.verdict(senders, receiver)
    print(
        f"\nstopped for {seconds:g} s: {len(sending)} sent meanwhile, {Counter(map(str, answers))}"
    )
    # What was on its way when the stop began may come to the receiver a second time.
    verdict.sound(once=["archive"])
    return Counter(map(str, answers))


async def test_what_is_sent_to_a_stopped_relay_is_answered_afterwards(tmp_path):
    assert set(await sent_during_a_stop(tmp_path, 1.0)) == {"200"}


@pytest.mark.faults
@pytest.mark.timeout(120)
@pytest.mark.parametrize("patience", [Protocol.receive_timeout, Protocol.idle_timeout])
async def test_a_stop_longer_than_its_patience_fails_no_request(tmp_path, patience):
    assert set(await sent_during_a_stop(tmp_path, patience + 2.0)) == {"200"}


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_a_stop_fails_requests_where_deadlines_know_nothing_of_it(tmp_path):
    """Not each time: it depends on what the loop looks at first, its timers or its sockets."""
    command = ["-m", "curt", "run"]
    for number in range(8):
        seconds = Protocol.receive_timeout + 2.0
        answers = await sent_during_a_stop(tmp_path / str(number), seconds, command=command)
        if answers["408"]:
            return
    raise AssertionError("no request failed")


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_stops_under_load_lose_and_invent_nothing(tmp_path):
    async with Receiver() as receiver:
        relay = Relay(tmp_path, receiver.url)
        try:
            async with crowd(relay) as senders:
                await relay.start()
                for number in range(STOPS):
                    await asyncio.sleep(0.3)
                    async with stopped(relay):
                        await asyncio.sleep(0.05 * number)
            await relay.finish(senders)
        finally:
            relay.close()
        verdict = await relay.verdict(senders, receiver)
    print(f"\n{STOPS} stops: {len(senders.sent)} sent, {len(senders.acked)} acknowledged")
    assert len(senders.acked) > 10 * STOPS
    verdict.sound(once=["archive", "hook"])


# another is started meanwhile


async def taken_over(folder, command=RUN):
    """A second relay is started on the store of one that is stopped with a delivery in hand.

    How the second began, and how often the event came to the receiver.
    """
    senders = Senders()
    async with Receiver() as receiver:
        receiver.otherwise = hang
        relay = Relay(folder / "one", receiver.url, archive=False, command=command)
        other = Relay(folder / "two", receiver.url, archive=False, command=command)
        (folder / "two/data").symlink_to(folder / "one/data")
        try:
            await relay.start()
            await relay.fresh(senders)
            await reached(receiver)
            async with stopped(relay):
                receiver.otherwise = status(200)
                # Else the other's commands would go to it.
                StateDirectory.around(relay.store).control_socket.unlink()
                up = await other.up_or_ended()
                if up:
                    await other.delivered()
                    assert await other.stop() == 0
        finally:
            relay.close()
            other.close()
    return up, len(receiver.requests), other.last_words()


async def reached(receiver):
    async with asyncio.timeout(PATIENCE):
        while not receiver.requests:
            await asyncio.sleep(POLL)


async def test_nobody_takes_the_store_of_a_stopped_relay(tmp_path):
    up, times, words = await taken_over(tmp_path)
    assert not up
    assert times == 1
    assert "in use by another relay" in words


async def test_two_deliver_the_same_event_without_the_lock(tmp_path):
    up, times, _ = await taken_over(tmp_path, ["-m", "lockless"])
    assert up
    assert times == 2
