"""The guard and its ballast: who may take what of a disk that fills up."""

import pytest

from relay.spill.disk import Ballast, DiskGuard, DiskSpace
from relay.state_directory import StateDirectory
from relay.store import StoreFull

MIB = 1024 * 1024
WANTED = 64 * MIB
GIB = 1024 * MIB


class Disks:
    """What the disks look like, by the file that is asked for."""

    def __init__(self, monkeypatch, **free):
        self.free = free
        self.total = 100 * GIB
        monkeypatch.setattr(DiskSpace, "of", self.of)

    def of(self, path):
        free = self.free["spill" if path.suffix == ".spill" else "store"]
        if free is None:
            raise OSError(5, "Input/output error")
        return DiskSpace(self.total, free)


@pytest.fixture
def state_directory(tmp_path):
    return StateDirectory.around(tmp_path / "relay.db", tmp_path / "relay.spill")


@pytest.fixture
def guard(state_directory):
    return DiskGuard(state_directory, WANTED)


@pytest.fixture
def ballast(tmp_path):
    return tmp_path / "relay.db.ballast"


async def nothing():
    return 0


@pytest.mark.parametrize(
    ("store", "spill", "reusable", "low"),
    [
        (GIB, GIB, 0, (False, False)),
        (64 * MIB, 64 * MIB, 0, (False, False)),
        (64 * MIB - 1, GIB, 0, (True, False)),
        (63 * MIB, 16 * MIB, 0, (True, False)),
        (0, 16 * MIB - 1, 0, (True, True)),
        (20 * MIB, GIB, 44 * MIB, (False, False)),
        (20 * MIB, GIB, 43 * MIB, (True, False)),
    ],
)
async def test_what_is_low(guard, monkeypatch, store, spill, reusable, low):
    async def free_within():
        return reusable

    Disks(monkeypatch, store=store, spill=spill)
    await guard.check(free_within)
    assert (guard.store_low, guard.spill_low) == low


async def test_a_small_disk_keeps_a_part_of_itself(guard, monkeypatch, ballast):
    disks = Disks(monkeypatch, store=MIB + 1, spill=MIB)
    disks.total = 8 * MIB
    await guard.check(nothing)
    assert not guard.store_low
    assert ballast.stat().st_size == MIB // 8
    disks.free["store"] = MIB // 2 - 1
    await guard.check(nothing)
    assert guard.store_low


async def test_the_ballast_is_really_there_until_the_disk_is_full(
    guard, monkeypatch, ballast, caplog
):
    disks = Disks(monkeypatch, store=GIB, spill=GIB)
    await guard.check(nothing)
    found = ballast.stat()
    assert found.st_size == 16 * MIB
    assert found.st_blocks * 512 >= 16 * MIB
    disks.free["store"] = 16 * MIB
    await guard.check(nothing)
    assert ballast.exists()
    disks.free["store"] = 16 * MIB - 1
    await guard.check(nothing)
    assert not ballast.exists()
    assert "gave up" in caplog.text
    disks.free["store"] = 128 * MIB  # more than what it gave up itself
    await guard.check(nothing)
    assert not ballast.exists()
    disks.free["store"] += 1
    await guard.check(nothing)
    assert ballast.exists()


async def test_a_reserve_of_nothing_keeps_nothing(state_directory, monkeypatch, ballast):
    Disks(monkeypatch, store=0, spill=0)
    guard = DiskGuard(state_directory, 0)
    await guard.check(nothing)
    assert not ballast.exists()
    assert not guard.store_low
    assert not guard.spill_low


async def test_a_disk_or_store_that_does_not_answer_is_let_be(guard, monkeypatch):
    async def fails():
        raise StoreFull("no")

    disks = Disks(monkeypatch, store=None, spill=GIB)
    await guard.check(nothing)
    guard.release_ballast()
    disks.free["store"] = 0
    await guard.check(fails)
    assert not guard.store_low


async def test_a_ballast_that_cannot_be_made_hides_nothing(guard, monkeypatch, ballast):
    ballast.mkdir()
    Disks(monkeypatch, store=GIB, spill=0)
    await guard.check(nothing)
    assert guard.spill_low


def test_the_disk_is_that_of_the_folder_that_is_there(tmp_path):
    assert DiskSpace.of(tmp_path / "not" / "yet" / "relay.db").total > 0


def test_a_ballast_that_does_not_fit_leaves_nothing_behind(state_directory, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Ballast(state_directory.ballast).restore(MIB)
    assert not list(tmp_path.iterdir())
