"""Whatever happens to the store and the spill, in whatever order: each callback is there once.

And each contact's last word is the last one that was acknowledged.

A callback that was refused after the store hung may be there, too: its sender does not know.
"""

import asyncio
import contextlib
import random
from collections import Counter

import pytest
from spills import PATIENCE, Hang, Trouble, callback, failover_parts

from relay.store import StoreFull

START = 1_800_000_000_000_000
CONTACTS = 3
STEPS = 40
BOUND = 0.1
"""Seconds that a disk is waited for."""
FULL = StoreFull("the disk is full")


class Chaos:
    """The disks, what is wrong with them, and what the senders know."""

    def __init__(self, folder, chance: random.Random) -> None:
        self._path = folder / "relay.db.spill"
        self._good = folder / "good"
        self._chance = chance
        self._second = 0
        self.full = False
        self.acked: list[str] = []
        self.last: dict[int, str | None] = {}
        """None where the last one was refused."""
        self.seen: Counter[str] = Counter()

    @property
    def away(self) -> bool:
        return self._path.is_dir()

    def take_away(self) -> None:
        """What stands in the spill's place cannot be opened."""
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(self._good)
        self._path.mkdir()
        self.seen["away"] += 1

    def bring_back(self) -> None:
        self._path.rmdir()
        with contextlib.suppress(FileNotFoundError):
            self._good.rename(self._path)

    async def say(self, parts) -> None:
        contact = self._chance.randrange(CONTACTS)
        word = self._chance.choice(["STOP", "START"])
        self._second += 1
        said = callback(contact, word)._replace(received=START + self._second * 1_000_000)
        try:
            self.acked.append((await parts.failover.receive(said)).id)
        except StoreFull:
            self.last[contact] = None
            self.seen["refused"] += 1
        else:
            self.last[contact] = word
            self.seen["spilled" if parts.failover.records() else "stored"] += 1

    async def life(self, folder) -> None:
        """Some steps of one process."""
        made = []

        def wrap(store):
            made.append(Trouble(store, FULL if self.full else None))
            return made[0]

        async with failover_parts(folder, wrap=wrap, timeout=BOUND) as parts:
            for _ in range(self._chance.randrange(STEPS)):
                match self._chance.choice(["say"] * 8 + ["full", "away", "hang", "wait", "wait"]):
                    case "say":
                        await self.say(parts)
                    case "full":
                        self.full = not self.full
                        made[0].error = FULL if self.full else None
                    case "away":
                        self.bring_back() if self.away else self.take_away()
                    case "hang":
                        hang = Hang(parts)
                        seconds = self._chance.uniform(0, 3 * BOUND)
                        asyncio.get_running_loop().call_later(seconds, hang.end)
                        self.seen["hung"] += seconds > BOUND
                    case "wait":
                        await asyncio.sleep(0.03)

    async def end(self, folder) -> None:
        """All is well again: what is where?"""
        if self.away:
            self.bring_back()
        async with failover_parts(folder) as parts:
            await parts.home()
            stored = Counter(await parts.stored())
            assert set(self.acked) <= set(stored)
            assert set(stored.values()) <= {1}
            assert len(stored) <= len(self.acked) + self.seen["refused"]
            assert await parts.store.quarantine_count() == 0
            for contact, word in self.last.items():
                number = f"+1212555{contact:04}"
                opted_out = await parts.store.opted_out("sumotext", number)
                assert word is None or opted_out == (word == "STOP"), number


async def chaos(folder, seed) -> Counter[str]:
    there = Chaos(folder, random.Random(seed))
    async with asyncio.timeout(6 * PATIENCE):
        for _ in range(3):
            await there.life(folder)
        await there.end(folder)
    return there.seen


@pytest.mark.parametrize("seed", [100, 102, 124, 130, 133, 137])
async def test_whatever_happens_each_is_there_once_and_the_last_word_counts(tmp_path, seed):
    seen = await chaos(tmp_path, seed)
    assert seen["stored"] + seen["spilled"] > 5, seen


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_whatever_happens_for_long(tmp_path):
    seen: Counter[str] = Counter()
    for seed in range(100, 300):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        seen += await chaos(folder, seed)
    print(f"\n{dict(seen)}")
    assert min(seen[each] for each in ("stored", "spilled", "refused", "away", "hung")) > 50


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_control_without_the_note_an_older_word_is_the_last_one_now_and_then(
    tmp_path, monkeypatch
):
    async def nothing(*_):
        pass

    monkeypatch.setattr("relay.store.sqlite.SqliteStore.note_spill_is_older", nothing)
    wrong = 0
    for seed in range(100, 140):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        try:
            await chaos(folder, seed)
        except AssertionError:
            wrong += 1
    print(f"\nwrong in {wrong} of 40")
    assert wrong
