"""The csv sink, ended at every step of its work: no row missing, none invented, none twice."""

import errno
import itertools
import json
import os
import random
import subprocess
import sys
import time

import csvdisk
import csvsink
import pytest
from csvdisk import BATCHES
from csvsink import delivered, event_id, ids, sink

import relay

ALL = sorted(set(itertools.chain(*BATCHES)))
FRESH = max(ALL) + 1


@pytest.fixture(scope="module")
def nursery(root):
    """Runs a job in a process of its own and returns how it ended."""
    process = subprocess.Popen(
        [sys.executable, root / "tests/csvdisk.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
    )

    def run(**job):
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    with process:
        yield run
        process.stdin.close()


def damage(folder, control="none"):
    """What is wrong after a restart that is given everything again, as the store would."""
    acknowledged = {int(line) for line in (folder / "acknowledged").read_text().split()}
    wanted = {event_id(number) for number in ALL}
    try:
        with pytest.MonkeyPatch.context() as patch:
            if control == "settling":
                patch.setattr(
                    csvsink.journal_module.CsvFile, "settle", lambda _, append, **__: append.ids
                )
            archive = csvdisk.archive(folder)
            archive.open()
            before = set(ids(folder))
            if missing := {event_id(number) for number in acknowledged} - before:
                return f"lost {len(missing)} acknowledged rows"
            for numbers in (*BATCHES, [FRESH]):
                if not all(delivered(archive.write(csvdisk.batch(numbers)))):
                    return "not delivered after the restart"
            archive.close()
        found = ids(folder)
    except csvsink.NotCsv as error:
        return f"no CSV: {error}"
    if len(found) != len(set(found)):
        return "a row twice"
    if set(found) != wanted | {event_id(FRESH)}:
        return "a row missing or invented"
    return None


def every_step(nursery, tmp_path, *, seeds=1, **job):
    """End the work at each of its steps in turn; yield the folder of each."""
    for stop_at in itertools.count(1):
        for seed in range(seeds):
            folder = tmp_path / f"{stop_at}-{seed}"
            folder.mkdir()
            ended = nursery(folder=str(folder), stop_at=stop_at, seed=seed, **job)
            if ended == 0:
                assert stop_at > 60, "the fault fired too seldom to say anything"
                return
            assert ended == -9
            yield folder


def test_a_kill_at_any_step_leaves_each_row_once(nursery, tmp_path):
    for folder in every_step(nursery, tmp_path):
        assert not damage(folder), folder.name


@pytest.mark.parametrize("control", ["announcing", "settling"])
def test_a_kill_does_damage_without_the_protection(nursery, tmp_path, control):
    steps = every_step(nursery, tmp_path, control=control)
    assert any(damage(folder, control) for folder in steps)


def test_a_power_cut_at_any_step_leaves_each_row_once(nursery, tmp_path):
    for folder in every_step(nursery, tmp_path, power=True):
        assert not damage(folder), folder.name


def test_a_power_cut_loses_rows_without_fsync(nursery, tmp_path):
    steps = every_step(nursery, tmp_path, power=True, control="fsync")
    assert any(damage(folder) for folder in steps)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_many_power_cuts_leave_each_row_once(nursery, tmp_path):
    for folder in every_step(nursery, tmp_path, power=True, seeds=50):
        assert not damage(folder), folder.name


# killed at any moment, under load, through the sink itself

LOAD = """
import asyncio, itertools, sys
from csvsink import deliveries, delivered, sink
async def main(folder, start):
    archive = sink(folder, path="out/{{ data.keyword }}.csv", rotate={"size": "64KiB"})
    await archive.open()
    print("open", flush=True)
    for first in itertools.count(start, 40):
        made = [*deliveries(*range(first, first + 40), keyword="a"),
                *deliveries(*range(first + 20, first + 60), keyword="a", message="x\\ny")]
        if all(delivered(await archive.send_batch(made))):
            print(first + 59, flush=True)
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def kill_under_load(folder, root, start, *, first):
    """Let a child write for a while, kill it, and return the last number it acknowledged.

    With `first` it has acknowledged something by then, however slow the disk is.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(folder), str(start)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
    )
    with child:
        assert child.stdout.readline() == "open\n"
        heard = child.stdout.readline() if first else ""
        time.sleep(random.uniform(0.001, 0.1))
        child.kill()
        heard += child.stdout.read()
        acknowledged = [int(line) for line in heard.split("\n")[:-1]]
    assert child.returncode == -9
    return max(acknowledged, default=start - 1)


async def kill_in_a_loop(folder, root, cycles):
    last = -1
    for cycle in range(cycles):
        last = kill_under_load(folder, root, max(last - 30, 0), first=cycle % 2)
    archive = sink(folder, path="out/{{ data.keyword }}.csv", rotate={"size": "64KiB"})
    assert all(delivered(await archive.send_batch(csvsink.deliveries(last + 1000, keyword="a"))))
    await archive.close()
    found = ids(folder)
    assert len(found) == len(set(found))
    assert last > 0
    assert {event_id(number) for number in range(last + 1)} <= set(found)
    assert event_id(last + 1000) in found


async def test_kills_under_load_leave_each_row_once(tmp_path, root):
    await kill_in_a_loop(tmp_path, root, cycles=4)


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_a_hundred_kills_under_load_leave_each_row_once(tmp_path, root):
    await kill_in_a_loop(tmp_path, root, cycles=100)


# a disk that fails and goes on


class Failing:
    """Lets `os.NAME` fail at its Nth call, and at all later ones with `lasting`."""

    def __init__(self, name, at, code, *, lasting=False, half=False):
        self.name = name
        self.real = getattr(os, name)
        self.at = at
        self.code = code
        self.lasting = lasting
        self.half = half
        self.calls = 0
        self.fired = 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls == self.at or (self.lasting and self.calls > self.at):
            self.fired += 1
            if self.half:
                fd, data, offset = args
                self.real(fd, data[: len(data) // 2], offset)
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args)


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(
    ("name", "code", "half"),
    [
        ("fsync", errno.EIO, False),
        ("pwrite", errno.ENOSPC, True),
        ("pwrite", errno.EIO, True),
        ("ftruncate", errno.EIO, False),
    ],
)
async def test_any_call_that_fails_is_made_good(tmp_path, monkeypatch, name, code, half, lasting):
    """The Nth call fails, N rising until none does; what was not delivered is sent again."""
    fired = 0
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        failing = Failing(name, at, code, lasting=lasting, half=half)
        archive = sink(folder, rotate={"size": "1KiB"})
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            for numbers in BATCHES:
                await send(archive, numbers)
        for numbers in (*BATCHES, [FRESH]):
            assert all(delivered(await archive.send_batch(csvsink.deliveries(*numbers))))
        await archive.close()
        assert sorted(ids(folder)) == [event_id(number) for number in [*ALL, FRESH]]
        fired += failing.fired
        if not failing.fired:
            break
    assert fired or name == "ftruncate"


async def send(archive, numbers):
    """Send once; what is delivered must be in the file, and a failure must say why."""
    try:
        outcomes = await archive.send_batch(csvsink.deliveries(*numbers))
    except relay.Retry as retry:
        outcomes = [retry]
    for outcome in outcomes:
        if not isinstance(outcome, relay.Delivered):
            assert isinstance(outcome, relay.Retry)
            assert "events.csv" in outcome.reason


async def test_a_failed_fsync_leaves_no_row(tmp_path, monkeypatch):
    archive = sink(tmp_path)
    await archive.send_batch(csvsink.deliveries(1))
    file = tmp_path / "out/events.csv"
    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", Failing("fsync", 1, errno.EIO))
    (outcome,) = await archive.send_batch(csvsink.deliveries(2))
    assert isinstance(outcome, relay.Retry)
    assert file.read_bytes() == before
    assert all(delivered(await archive.send_batch(csvsink.deliveries(2))))
    await archive.close()
    assert ids(tmp_path) == [event_id(1), event_id(2)]


# a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; call it to get more space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this needs root, to mount a small file system")

    def grow():
        subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)

    yield folder, grow
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_is_waited_for(small_disk):
    folder, grow = small_disk
    archive = sink(folder)
    kept, failed = [], 0
    for first in range(0, 2000, 25):
        numbers = range(first, first + 25)
        made = csvsink.deliveries(*numbers, message="m" * 50)
        try:
            outcomes = await archive.send_batch(made)
        except relay.Retry as retry:
            outcomes = [retry] * 25
        if all(delivered(outcomes)):
            kept += numbers
        else:
            failed += 1
            assert "no space left on the disk; make room" in outcomes[0].reason
            assert ids(folder) == [event_id(number) for number in kept]
    assert kept
    assert failed
    assert "KiB left" in (await archive.check())[0]
    grow()
    for first in range(0, 2000, 25):
        made = csvsink.deliveries(*range(first, first + 25), message="m" * 50)
        assert all(delivered(await archive.send_batch(made)))
    await archive.close()
    assert sorted(ids(folder)) == [event_id(number) for number in range(2000)]


def test_a_full_disk_tears_a_row_without_the_protection(small_disk):
    folder, _ = small_disk
    file = folder / "events.csv"
    table = csvsink.rows_module.RowFormat(None, defused=True)
    row = table.row(csvsink.delivery(1, message="m" * 50))
    with file.open("ab", buffering=0) as stream:
        while stream.write(row) == len(row):
            pass
    with pytest.raises(csvsink.NotCsv):
        csvsink.rows(file)
