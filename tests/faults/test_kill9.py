"""kill -9 under load, again and again: what was acknowledged is there, once, and nothing else."""

import json
import random
import time

import pytest
from relays import Relay, crowd, live
from stubs.receiver import Receiver

MOST = 10
"""Lives, for each that is asked for."""
LEAST = 10
"""Acknowledged for each life on average; a slow machine gets more lives until it has that many."""


async def kill_in_a_loop(folder, cycles, *, seed=0, **options):
    """The relay, its senders and its receiver, after so many kills or more, and a clean end."""
    begun = time.monotonic()
    chance = random.Random(seed)
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url, **options)
        try:
            async with crowd(relay) as senders:
                kills = 0
                while kills < cycles or len(senders.acked) <= LEAST * cycles:
                    kills += 1
                    assert kills <= MOST * cycles, f"{len(senders.acked)} acknowledged by then"
                    await live(relay, chance)
                    assert relay.process.poll() is None, relay.last_words()
                    relay.kill()
            await relay.finish(senders, patience=30 + cycles)
        finally:
            relay.close()
        verdict = await relay.verdict(senders, receiver)
        assert not out_of_order(receiver.requests)
    print(
        f"\n{kills} kills: {len(senders.sent)} sent, {len(senders.acked)} acknowledged,"
        f" {verdict.found} stored, {verdict.lost()} lost,"
        f" {len(verdict.invented['store'])} invented,"
        f" {len(verdict.twice['hook'])} more than once at the receiver,"
        f" {time.monotonic() - begun:.0f} s"
    )
    return senders, verdict


def out_of_order(requests) -> list[str]:
    """Messages that first came after a later one of their contact; senders count theirs up."""
    latest, seen, wrong = {}, set(), []
    for data in (json.loads(request.body)["data"] for request in requests):
        contact, message = data["mobile"], data["message"]
        count = int(message.partition("-")[2])
        if message not in seen and count < latest.get(contact, 0):
            wrong.append(message)
        latest[contact] = max(count, latest.get(contact, 0))
        seen.add(message)
    return wrong


@pytest.mark.smoke
async def test_three_kills_lose_and_invent_nothing(tmp_path):
    senders, verdict = await kill_in_a_loop(tmp_path, 3, seed=1)
    assert len(senders.acked) > 30
    verdict.sound(once=["archive"])


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_a_hundred_kills_lose_and_invent_nothing(tmp_path):
    senders, verdict = await kill_in_a_loop(tmp_path, 100, seed=random.randrange(2**32))
    assert len(senders.acked) > 10_000
    assert verdict.twice["hook"], "no kill came between a delivery and its settlement"
    verdict.sound(once=["archive"])


@pytest.mark.smoke
async def test_kills_lose_events_that_are_acknowledged_before_the_commit(tmp_path):
    command = ["-m", "hasty"]
    senders, verdict = await kill_in_a_loop(tmp_path, 3, seed=1, command=command)
    assert len(senders.acked) > 30
    assert verdict.lost()
