"""A spill that cannot be opened or read counts as one that is there, and holds up nothing."""

import asyncio
import errno
import os

import pytest
from spills import PATIENCE, Trouble, callback, failover_parts, passed_by, until, with_a_spill

from relay.api.maintenance import Erasure, JobRefused
from relay.redact import NumberMatcher
from relay.spill.failover import FailoverStore
from relay.spill.file import SpillFile
from relay.spill.queue import SpillQueue
from relay.spill.records import Spilled, encode
from relay.spill.replayer import Replayer
from relay.store import StoreFull

START = 1_800_000_000_000_000
CONTACT = "+12125550001"


def said(second: int, message: str):
    """What the contact says, so many seconds after the start."""
    return callback(1, message)._replace(received=START + second * 1_000_000)


def leave(folder, *callbacks) -> list[str]:
    """A spill as an earlier process left it; the ids in it."""
    ids = [f"0000000{each}-0000-7000-8000-000000000000" for each in range(len(callbacks))]
    file = SpillFile(folder / "relay.db.spill")
    file.append([encode(Spilled(*each)) for each in zip(ids, callbacks, strict=True)])
    file.close()
    return ids


class Harm:
    """What cannot be opened, until it is mended."""

    def __init__(self, folder) -> None:
        self._path = folder / "relay.db.spill"
        self._good = folder / "good"
        self._path.rename(self._good)
        self._path.mkdir()

    def mend(self):
        self._path.rmdir()
        self._good.rename(self._path)


async def last_word(store) -> bool:
    return await store.opted_out("sumotext", CONTACT)


# one that cannot be opened


async def test_it_is_told_and_callbacks_go_to_the_store_meanwhile(tmp_path):
    leave(tmp_path, said(1, "hello"))
    Harm(tmp_path)
    async with failover_parts(tmp_path) as parts:
        sent = await parts.send(2)
        assert await parts.stored() == [sent]
        assert parts.failover.facts() == {"relay_spill_records": 1, "relay_spill_readable": 0.0}
        (notice,) = parts.failover.notices()
        assert notice.startswith("spill: what")
        assert "Is a directory" in notice
        assert "Is a directory" in parts.failover.unreadable()
        assert not parts.failover.refusal()


async def test_it_is_tried_again_and_taken_in_without_a_restart(tmp_path, caplog):
    left = leave(tmp_path, said(1, "hello"), said(2, "there"))
    harm = Harm(tmp_path)
    async with failover_parts(tmp_path) as parts:
        sent = await parts.send(2)
        harm.mend()
        await parts.home()
        assert await parts.stored() == [sent, *left]
        assert parts.failover.facts() == {"relay_spill_records": 0, "relay_spill_readable": 1.0}
        async with asyncio.timeout(PATIENCE):
            while await parts.store.spill_is_older():
                await asyncio.sleep(0.005)
    assert caplog.text.count("has to wait, callbacks go to the store") == 1


async def test_what_is_well_again_before_the_store_is_open_comes_first(tmp_path):
    left = leave(tmp_path, said(1, "STOP"))
    harm = Harm(tmp_path)
    spill = await SpillQueue.open(tmp_path / "relay.db.spill")
    assert spill.unopened
    harm.mend()
    await spill.reopen()
    assert not spill.unopened
    await spill.close()
    async with failover_parts(tmp_path) as parts:
        await parts.home()
        assert await parts.stored() == left


async def after_all(folder, spilled, direct, *, restart: bool):
    """The words in the spill come after those that went to the store; the last word then."""
    leave(folder, *(said(*each) for each in spilled))
    harm = Harm(folder)
    async with failover_parts(folder) as parts:
        for each in direct:
            await parts.failover.receive(said(*each))
        if not restart:
            harm.mend()
            await parts.home()
            return await last_word(parts.store)
    harm.mend()
    async with failover_parts(folder) as parts:
        await parts.home()
        return await last_word(parts.store)


@pytest.mark.parametrize("restart", [False, True])
async def test_an_older_word_is_not_the_last_one(tmp_path, restart):
    assert await after_all(tmp_path, [(1, "STOP"), (2, "START")], [(3, "STOP")], restart=restart)


@pytest.mark.parametrize("restart", [False, True])
async def test_nor_is_an_older_stop(tmp_path, restart):
    assert not await after_all(
        tmp_path, [(1, "START"), (2, "STOP")], [(3, "START")], restart=restart
    )


async def test_without_the_note_an_older_word_is_the_last_one(tmp_path, monkeypatch):
    """The control: as before, the next start takes what it finds for the newest."""

    async def nothing(*_):
        pass

    monkeypatch.setattr("relay.store.sqlite.SqliteStore.note_spill_is_older", nothing)
    words = [(1, "STOP"), (2, "START")], [(3, "STOP")]
    assert not await after_all(tmp_path, *words, restart=True)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_newer_word_that_waits_in_the_spill_counts(tmp_path, restart):
    """It is not the spill that is older, but each callback by itself."""
    assert not await after_all(
        tmp_path, [(1, "STOP"), (4, "START")], [(3, "STOP")], restart=restart
    )


async def test_what_comes_by_itself_while_callbacks_go_to_the_store_is_older(tmp_path):
    """As with a disk that is mounted late."""
    away = tmp_path / "away"
    away.mkdir()
    left = leave(away, said(1, "STOP"), said(2, "START"))
    async with failover_parts(tmp_path) as parts:
        sent = (await parts.failover.receive(said(3, "STOP"))).id
        (away / "relay.db.spill").rename(tmp_path / "relay.db.spill")
        await until(lambda: not (tmp_path / "relay.db.spill").exists())
        assert await parts.stored() == [sent, *left]
        assert await last_word(parts.store)


async def test_where_the_store_fails_too_it_is_refused_until_it_can_be_opened(tmp_path):
    left = leave(tmp_path, said(1, "hello"))
    harm = Harm(tmp_path)
    made = []

    def wrap(store):
        made.append(Trouble(store))
        return made[0]

    async with failover_parts(tmp_path, wrap=wrap) as parts:
        made[0].error = StoreFull("the disk is full")
        with pytest.raises(StoreFull, match="the spill cannot be written: Is a directory"):
            await parts.send(2)
        assert parts.failover.refusal()
        harm.mend()
        sent = await parts.send(3)
        await until(lambda: not parts.failover.refusal())
        assert parts.failover.records() == 2
        made[0].error = None
        await parts.home()
        assert await parts.stored() == [*left, sent]


async def test_another_process_that_has_it_is_waited_for(tmp_path):
    left = leave(tmp_path, said(1, "hello"))
    harm = Harm(tmp_path)
    async with failover_parts(tmp_path) as parts:
        other = SpillFile(tmp_path / "good")
        other.open()
        harm.mend()
        await until(lambda: "in use by another" in parts.failover.unreadable())
        await parts.send(2)
        other.close()
        await parts.home()
        assert (await parts.stored())[1:] == left


async def test_erasing_does_not_say_that_nothing_is_in_it(tmp_path):
    leave(tmp_path, said(1, "hello"))
    harm = Harm(tmp_path)
    async with failover_parts(tmp_path) as parts:
        erasure = Erasure(parts.store, None, None, None, None, parts.failover.erase)
        with pytest.raises(JobRefused, match="the spill cannot be read"):
            await erasure._erase_from_spill(NumberMatcher(CONTACT))
        harm.mend()
        assert (
            await parts.failover.erase(
                lambda found: None if b"2125550001" in found.query else found
            )
            == 1
        )


# one that cannot be read


class BadRead:
    """A spill's file that cannot be read, so often."""

    def __init__(self, monkeypatch, times: float) -> None:
        self._left = times
        self._read = os.pread
        monkeypatch.setattr(os, "pread", self)

    def __call__(self, descriptor, size, at):
        if self._left > 0 and size:
            self._left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._read(descriptor, size, at)


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_an_error_that_passes_costs_nothing(tmp_path, monkeypatch, times):
    async with with_a_spill(tmp_path) as (parts, sent, disk):
        BadRead(monkeypatch, times)
        disk.has_room()
        await passed_by(parts)
        assert "Input/output error" in parts.failover.notices()[0]
        new = await parts.send(5)
        assert new in await parts.stored()
        await parts.home()
        assert sorted(await parts.stored()) == sorted([*sent, new])
        assert not parts.failover.unreadable()


async def test_one_that_can_never_be_read_holds_up_nothing_and_is_kept(tmp_path, monkeypatch):
    async with with_a_spill(tmp_path) as (parts, _, disk):
        BadRead(monkeypatch, float("inf"))
        disk.has_room()
        await until(lambda: not parts.spill.path.exists())
        new = await parts.send(5)
        assert await parts.stored() == [new]
        await until(lambda: not parts.failover.notices())
    assert (tmp_path / "relay.db.spill.damaged").exists()


async def fails(*_):
    raise ZeroDivisionError


async def test_a_defect_in_the_importer_holds_up_nothing(tmp_path, monkeypatch, caplog):
    async with with_a_spill(tmp_path) as (parts, sent, disk):
        with monkeypatch.context() as patch:
            patch.setattr(Replayer, "_store_round", fails)
            disk.has_room()
            await passed_by(parts)
            new = await parts.send(5)
            assert await parts.stored() == [new]
        await parts.home()
        assert await parts.stored() == [new, *sent]
    assert "ZeroDivisionError" in caplog.text


async def test_without_passing_by_such_a_defect_stops_all_delivery(tmp_path, monkeypatch):
    """The control: as before, all callbacks wait in the spill."""
    tries = []

    async def wait(_, error):
        tries.append(error)

    async with with_a_spill(tmp_path) as (parts, sent, disk):
        monkeypatch.setattr(Replayer, "_store_round", fails)
        monkeypatch.setattr(FailoverStore, "_spill_failed", wait)
        disk.has_room()
        await until(lambda: len(tries) > 1)
        await parts.send(5)
        assert await parts.stored() == []
        assert parts.failover.records() == len(sent) + 1


async def test_one_that_cannot_be_removed_or_emptied_is_removed_later(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with with_a_spill(tmp_path) as (parts, sent, disk):
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", fails)
            patch.setattr(os, "ftruncate", fails)
            disk.has_room()
            await until(lambda: parts.failover._leftover)
            sent.append(await parts.send(5))
            assert parts.spill.path.exists()
        await until(lambda: not parts.spill.path.exists())
        assert await parts.stored() == sent
