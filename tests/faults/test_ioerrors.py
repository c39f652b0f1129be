"""A disk that fails at the Nth call, once or from then on: nothing is acknowledged that is lost.

strace puts the errors in at the border of the kernel, so that all of the relay is the real one.
"""

import asyncio
import shutil
import subprocess
import time

import pytest
from relays import Relay, Sender, crowd
from stubs.receiver import Receiver

SYNCS = "fdatasync,fsync"
WRITES = "pwrite64,write"
LOAD = 2.0
ENDS_WITHIN = 15.0


@pytest.fixture(scope="module", autouse=True)
def strace():
    """Skip where there is no strace, or where it may not look into a process."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("strace may not trace processes here")


def failing(relay, calls, error, when, paths):
    """Have `calls` on these files fail. -D: the relay stays our own child, strace is aside."""
    relay.under = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", str(log_of(relay))]
    for path in paths:
        relay.under += ["-P", str(path)]
    relay.under += ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}"]


def failing_store(relay, calls, error, when):
    failing(relay, calls, error, when, [relay.store, relay.store.with_name("relay.db-wal")])


def log_of(relay):
    return relay.folder / "strace.log"


def injected(relay) -> int:
    return log_of(relay).read_text().count("(INJECTED)") if log_of(relay).exists() else 0


async def up_or_ended(relay) -> bool:
    """Start it; whether it got so far as to take callbacks."""
    relay.spawn()
    up = asyncio.create_task(relay.answers())
    await asyncio.wait([up])
    if relay.process.poll() is not None:
        up.exception()
        return False
    up.result()
    return True


async def under_load(relay, seconds):
    """Send until the relay ends, or for a while."""
    async with crowd(relay, size=4) as senders:
        end = time.monotonic() + seconds
        while relay.process.poll() is None and time.monotonic() < end:
            await asyncio.sleep(0.02)
    return senders


async def broken_store(folder, calls, when) -> bool:
    """The store meets EIO: the relay ends by itself and has acknowledged nothing that is lost.

    Tells whether that was under load, and not during the start.
    """
    folder.mkdir()
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url, archive=False)
        failing_store(relay, calls, "EIO", when)
        try:
            loaded = await up_or_ended(relay)
            senders = await under_load(relay, ENDS_WITHIN)
            assert injected(relay), "the fault did not fire"
            assert relay.process.poll() == 1, relay.last_words()
            assert "Traceback" not in relay.last_words(), relay.last_words()
            relay.under = []
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound()
    print(f"EIO {calls} {when}: {len(senders.sent)} sent, {len(senders.acked)} acknowledged")
    return loaded


async def full_store(folder, when) -> int:
    """The store meets ENOSPC: it answers 503, and goes on when there is space again.

    Returns how many callbacks were refused.
    """
    folder.mkdir()
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url, archive=False)
        failing_store(relay, WRITES, "ENOSPC", when)
        try:
            loaded = await up_or_ended(relay)
            senders = await under_load(relay, LOAD if loaded else 0)
            assert injected(relay), "the fault did not fire"
            if loaded:
                await still_answers(relay, senders, lasting=when.endswith("+"))
                assert await relay.stop() == 0
            else:
                assert await relay.ended() == 1
            assert "Traceback" not in relay.last_words(), relay.last_words()
            relay.under = []
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound()
    refused = relay.log.read_text().count("refused, the disk is full")
    print(f"ENOSPC {when}: {len(senders.acked)} acknowledged, {refused} refused")
    return refused


async def still_answers(relay, senders, *, lasting) -> None:
    """Questions are answered; callbacks, too, as soon as there is space."""
    assert (await relay.status())["events"] >= len(senders.acked)
    async with Sender(relay.port, senders) as sender:
        status = await sender.send("afterwards")
        assert status == (503 if lasting else 200)
        if lasting:
            assert int(sender.headers["retry-after"]) > 0


async def broken_archive(folder, calls, error, when) -> None:
    """The CSV's disk fails for a while: the relay goes on, and each row is there once."""
    folder.mkdir()
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url)
        try:
            await relay.start()  # makes the ledger, whose name is the plugin's own affair
            await relay.stop()
            (ledger,) = relay.csv.parent.glob(".*.ledger")
            files = [relay.csv, ledger, ledger.with_name(f"{ledger.name}-wal")]
            failing(relay, calls, error, when, files)
            await relay.start()
            senders = await under_load(relay, LOAD)
            await relay.finish(senders)
            assert injected(relay), "the fault did not fire"
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound(once=["archive"])


@pytest.mark.parametrize(
    ("calls", "when"), [(SYNCS, "2"), (SYNCS, "20"), (SYNCS, "25+"), (WRITES, "150")]
)
async def test_an_error_of_the_disk_ends_the_relay(tmp_path, calls, when):
    await broken_store(tmp_path / "relay", calls, when)


@pytest.mark.parametrize("when", ["200..207", "250+"])
async def test_a_full_disk_is_refused_and_waited_for(tmp_path, when):
    assert await full_store(tmp_path / "relay", when)


@pytest.mark.parametrize(("calls", "error"), [(SYNCS, "EIO"), (WRITES, "ENOSPC")])
async def test_a_row_is_written_once_whatever_the_disk_does(tmp_path, calls, error):
    await broken_archive(tmp_path / "relay", calls, error, "10..16")


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lasting", ["", "+"])
@pytest.mark.parametrize(("calls", "numbers"), [(SYNCS, range(1, 31)), (WRITES, range(1, 300, 13))])
async def test_errors_of_the_disk_end_the_relay(tmp_path, calls, numbers, lasting):
    loaded = [await broken_store(tmp_path / f"{n}", calls, f"{n}{lasting}") for n in numbers]
    assert True in loaded
    assert False in loaded


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lasting", ["", "+"])
async def test_full_disks_are_refused_and_waited_for(tmp_path, lasting):
    numbers = range(1, 400, 19)
    assert sum([await full_store(tmp_path / f"{n}", f"{n}{lasting}") for n in numbers])
