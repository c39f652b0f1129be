"""Power cuts: the real store on a disk that forgets what was not synced."""

import asyncio
import os
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from arrivals import arrival, delivered
from forgetful import Disk
from oracle import Senders, in_store, integrity, judge

from relay.store import State
from relay.store.sqlite import SqliteStore, migrate

ROUNDS = 200
LATEST_CUT = 1000
"""Operations (writes and syncs), the first hundred of which make the schema."""


@dataclass
class Client:
    """What a client of the store was told."""

    senders: Senders = field(default_factory=Senders)
    settled: set[str] = field(default_factory=set)

    def copy(self) -> "Client":
        senders = Senders(set(self.senders.sent), dict(self.senders.acked))
        return Client(senders, set(self.settled))


@dataclass
class Tally:
    cuts: int = 0
    acked: int = 0
    settled: int = 0
    lost: int = 0
    undone: int = 0
    corrupt: int = 0
    forgotten: int = 0


async def one_cut(folder, chance, tally) -> None:
    """A life of the store up to the cut, and what the next one finds."""
    folder.mkdir()
    client = Client()
    disk = Disk(chance, chance.randrange(1, LATEST_CUT), client.copy)
    await live(folder / "before.db", disk, client, chance)
    after = folder / "after"
    after.mkdir()
    for name, content in disk.image.items():
        (after / name).write_bytes(content)
    await look(after / "before.db", disk.known, tally)
    shutil.rmtree(folder)
    tally.cuts += 1
    tally.forgotten += disk.forgotten


async def live(path, disk, client, chance) -> None:
    """Add, claim and settle, until the power goes."""
    store = await SqliteStore.open(path, vfs=disk.name)
    try:
        for _ in range(ROUNDS):
            await asyncio.gather(
                *(add(store, client, chance) for _ in range(chance.randrange(1, 6)))
            )
            if chance.random() < 0.5:
                claims = (await store.claim("crm", 5)).claims
                await store.settle([delivered(claim) for claim in claims])
                client.settled |= {claim.event.id for claim in claims}
            if disk.image is not None:
                return
        pytest.fail("the cut never came")
    finally:
        await store.close(clean=False)
        disk.close()


async def add(store, client, chance) -> None:
    message = str(len(client.senders.sent))
    made = arrival(consent="opt_out" if chance.random() < 0.05 else None)
    made.event.data["message"] = message
    made.event.data["fields"] = {"Name": "B" * chance.choice([1, 100, 5000])}
    client.senders.sent.add(message)
    receipt = await store.add(made)
    client.senders.acked[receipt.id] = message


async def look(path, client, tally) -> None:
    """Count what the cut has cost."""
    tally.acked += len(client.senders.acked)
    tally.settled += len(client.settled)
    if path.exists() and integrity(path) != "ok":
        tally.corrupt += 1
        return
    store = await SqliteStore.open(path)
    try:
        verdict = judge(client.senders, await in_store(store), {})
        landed = await store.deliveries([State.DELIVERED], limit=10_000)
        fresh = await store.add(arrival())
        assert await store.event(fresh.id)
    finally:
        await store.close()
    assert not verdict.invented["store"]
    assert not verdict.corrupted["store"]
    assert not verdict.twice["store"]
    tally.lost += verdict.lost()
    tally.undone += len(client.settled - {row.event_id for row in landed})


async def many_cuts(tmp_path, monkeypatch, cuts, *, seed, synchronous="FULL"):
    """Cut so often, with a checkpoint now and then; the tally of it all."""
    tally = Tally()
    begun = time.monotonic()
    for number in range(cuts):
        chance = random.Random(f"{seed}/{number}")
        pragmas = [
            pragma if "synchronous" not in pragma else f"synchronous = {synchronous}"
            for pragma in migrate.WRITER_PRAGMAS
        ]
        with monkeypatch.context() as patch:
            pragmas.append(f"wal_autocheckpoint = {chance.choice([10, 50, 1000])}")
            patch.setattr(migrate, "WRITER_PRAGMAS", pragmas)
            await one_cut(tmp_path / str(number), chance, tally)
    print(f"\n{synchronous}, seed {seed}: {tally}, {time.monotonic() - begun:.0f} s")
    assert tally.cuts == cuts
    assert tally.forgotten > cuts, "there was little to forget: the cuts show nothing"
    return tally


def nothing_lost(tally) -> None:
    assert tally.acked > 1000
    assert tally.settled > 100
    assert (tally.lost, tally.undone, tally.corrupt) == (0, 0, 0), tally


@pytest.mark.smoke
async def test_power_cuts_lose_nothing_that_was_acknowledged(tmp_path, monkeypatch):
    nothing_lost(await many_cuts(tmp_path, monkeypatch, 40, seed=1))


@pytest.mark.smoke
async def test_power_cuts_lose_events_without_a_sync_for_each_commit(tmp_path, monkeypatch):
    tally = await many_cuts(tmp_path, monkeypatch, 40, seed=1, synchronous="NORMAL")
    assert tally.lost


async def test_the_names_of_new_folders_are_on_disk_too(tmp_path, monkeypatch):
    synced = []

    def fsync(fd):
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    store = await SqliteStore.open(tmp_path / "new/data/relay.db")
    await store.close()
    assert synced == [tmp_path, tmp_path / "new"]


@pytest.mark.faults
@pytest.mark.timeout(3000)
async def test_thousands_of_power_cuts_lose_nothing_that_was_acknowledged(tmp_path, monkeypatch):
    nothing_lost(await many_cuts(tmp_path, monkeypatch, 3000, seed=random.randrange(2**32)))
