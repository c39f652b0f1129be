"""Power cuts of the whole relay, its CSV included, on a file system that forgets."""

import random
import time

import amnesia
import pytest
from relays import RUN, Relay, crowd, live
from stubs.receiver import Receiver


@pytest.fixture(scope="module", autouse=True)
def fuse():
    amnesia.needed()


async def cut_in_a_loop(folder, cuts, *, seed=0, command=RUN):
    """The power goes so often, under load; what the senders know, and the oracle's word."""
    begun = time.monotonic()
    chance = random.Random(seed)
    forgotten = 0
    with amnesia.mounted(folder / "disk") as disk:
        async with Receiver() as receiver:
            relay = Relay(disk.folder, receiver.url, command=command)
            relay.log = folder / "relay.log"  # so that one can read what it said before a cut
            disk.keep()
            try:
                async with crowd(relay, size=16) as senders:
                    for _ in range(cuts):
                        await live(relay, chance)
                        forgotten += disk.cut(chance)
                        relay.kill()
                        disk.heal()
                await relay.finish(senders, patience=30 + cuts)
            finally:
                relay.close()
            verdict = await relay.verdict(senders, receiver)
    print(
        f"\n{cuts} cuts of {' '.join(command)}, seed {seed}: {forgotten} writes not on disk,"
        f" {len(senders.sent)} sent, {len(senders.acked)} acknowledged, {verdict.found} stored,"
        f" {verdict.lost()} lost in the store, {len(verdict.missing['archive'])} in the archive,"
        f" {len(verdict.invented['store'])} invented, {time.monotonic() - begun:.0f} s"
    )
    assert len(senders.acked) > 10 * cuts
    assert forgotten > cuts, "there was little to forget: the cuts show nothing"
    return verdict


async def test_three_power_cuts_lose_and_invent_nothing(tmp_path):
    (await cut_in_a_loop(tmp_path, 3, seed=1)).sound(once=["archive"])


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_hundreds_of_power_cuts_lose_and_invent_nothing(tmp_path):
    seed = random.randrange(2**32)
    (await cut_in_a_loop(tmp_path, 200, seed=seed)).sound(once=["archive"])


@pytest.mark.parametrize("place", ["store", "archive"])
async def test_power_cuts_lose_events_that_were_not_synced(tmp_path, place):
    verdict = await cut_in_a_loop(tmp_path, 3, seed=1, command=["-m", "unsynced", place])
    assert verdict.missing[place]
