"""Power cuts of the whole relay, its CSV included, on a file system that forgets."""

import random
import time

import amnesia
import pytest
from arrivals import arrival
from relays import RUN, Relay, crowd, live
from stubs.receiver import Receiver

from relay.store import StoreBroken
from relay.store.sqlite import SqliteStore

MOST = 4
"""How many times as many cuts there may be, until enough was acknowledged for them."""


@pytest.fixture(scope="module", autouse=True)
def fuse():
    amnesia.needed()


def spoil(relay, disk) -> None:
    """Let there be something in the store's place that is no store."""
    relay.store.parent.mkdir()
    relay.store.write_bytes(b"no store" * 1000)
    disk.keep()


def mend(relay, disk) -> None:
    relay.store.unlink()
    disk.keep()


async def replay_given_up(relay) -> None:
    """Replay what was alone in flight at three crashes, as an operator would.

    Such a delivery is dead (docs/delivery-states.md). In hundreds of cuts that happens by chance.
    """
    await relay.start()
    async with relay.control() as control:
        dead = (await control.get("/dead")).raise_for_status().json()["items"]
        for each in dead:
            assert "while only this was in flight" in each["error"]
            body = {"sink": each["sink"], "seqs": [each["seq"]]}
            (await control.post("/dead/replay", json=body)).raise_for_status()


async def cut_in_a_loop(folder, cuts, *, seed=0, command=RUN, spilled=False):
    """The power goes so often, under load; the oracle's word.

    `spilled`: there is no store meanwhile, so that all goes to the spill.
    """
    begun = time.monotonic()
    chance = random.Random(seed)
    forgotten = done = 0

    def shown(senders):
        return len(senders.acked) > 3 * cuts and (forgotten or spilled)

    with amnesia.mounted(folder / "disk") as disk:
        async with Receiver() as receiver:
            relay = Relay(disk.folder, receiver.url, command=command)
            relay.log = folder / "relay.log"  # so that one can read what it said before a cut
            disk.keep()
            if spilled:
                spoil(relay, disk)
            try:
                async with crowd(relay, size=16) as senders:
                    # A busy machine may stand still in most of a few lives.
                    while done < cuts or (done < MOST * cuts and not shown(senders)):
                        done += 1
                        await live(relay, chance)
                        forgotten += disk.cut(chance)
                        relay.kill()
                        disk.heal()
                if spilled:
                    mend(relay, disk)
                await replay_given_up(relay)
                await relay.finish(senders, patience=30 + cuts)
            finally:
                relay.close()
            verdict = await relay.verdict(senders, receiver)
    print(
        f"\n{done} cuts of {' '.join(command)}, {'with' if spilled else 'without'} a spill, seed"
        f" {seed}: {forgotten} writes not on disk, {len(senders.sent)} sent, {len(senders.acked)}"
        f" acknowledged, {verdict.found} stored, {verdict.lost()} lost in the store,"
        f" {len(verdict.missing['archive'])} in the archive,"
        f" {len(verdict.invented['store'])} invented, {time.monotonic() - begun:.0f} s"
    )
    assert len(senders.acked) > 3 * cuts
    # A spill is synced at once, so that a few cuts may find nothing: the control shows them well.
    assert forgotten or spilled, "there was nothing to forget: the cuts show nothing"
    return verdict


async def known_after_the_cut(folder) -> bool:
    """A callback's commit cannot be synced; the next start finds it, and then the power goes.

    Whether the store has it then: the next start has dropped it from the spill.
    """
    path = folder / "disk" / "relay.db"
    with amnesia.mounted(folder / "disk") as disk:
        store = await SqliteStore.open(path)
        await store.add(arrival(1))
        disk.keep()
        with disk.failing():
            with pytest.raises(StoreBroken):
                await store.add(unsure := arrival(2))
            await store.close()
        store = await SqliteStore.open(path)
        assert await store.known([unsure.event.id]), "it is not there: this shows nothing"
        disk.cut(random.Random(1))
        await store.close()
        disk.heal()
        store = await SqliteStore.open(path)
        known = await store.known([unsure.event.id])
        await store.close()
    return bool(known)


async def test_what_a_start_finds_in_the_log_is_there_after_a_power_cut(tmp_path):
    assert await known_after_the_cut(tmp_path)


async def test_without_writing_the_log_once_more_it_is_not(tmp_path, monkeypatch):
    """The control."""
    monkeypatch.setattr("relay.store.sqlite.migrate.harden", lambda *_: None)
    assert not await known_after_the_cut(tmp_path)


async def test_three_power_cuts_lose_and_invent_nothing(tmp_path):
    (await cut_in_a_loop(tmp_path, 3, seed=1)).sound(once=["archive"])


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_hundreds_of_power_cuts_lose_and_invent_nothing(tmp_path):
    seed = random.randrange(2**32)
    (await cut_in_a_loop(tmp_path, 200, seed=seed)).sound(once=["archive"])


async def test_power_cuts_lose_nothing_of_the_spill(tmp_path):
    (await cut_in_a_loop(tmp_path, 3, seed=1, spilled=True)).sound(once=["archive"])


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_many_power_cuts_lose_nothing_of_the_spill(tmp_path):
    seed = random.randrange(2**32)
    verdict = await cut_in_a_loop(tmp_path, 50, seed=seed, spilled=True)
    verdict.sound(once=["archive"])


async def test_power_cuts_lose_a_spill_that_was_not_synced(tmp_path):
    command = ["-m", "unsynced", "archive"]
    assert (await cut_in_a_loop(tmp_path, 3, seed=1, command=command, spilled=True)).lost()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ["store", "archive"])
async def test_power_cuts_lose_events_that_were_not_synced(tmp_path, place):
    """On a busy machine, few events reach the archive before a cut: then it takes more cuts."""
    command = ["-m", "unsynced", place]
    for seed in range(1, 1 + MOST):
        folder = tmp_path / str(seed)
        folder.mkdir()
        if (await cut_in_a_loop(folder, 5, seed=seed, command=command)).missing[place]:
            return
    pytest.fail(f"{MOST} rounds of cuts lost nothing")
