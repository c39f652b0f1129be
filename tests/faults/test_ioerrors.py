"""A disk that fails at the Nth call, once or from then on: nothing is acknowledged that is lost."""

import asyncio

import pytest
import tracing
from relays import PATIENCE, POLL, Relay, Sender, crowd
from stubs.receiver import Receiver

SYNCS = "fdatasync,fsync"
WRITES = "pwrite64,write"
LOAD = 0.5
"""Seconds under load after the fault."""
RESCUED_WITHIN = 30.0
RESCUED = "callbacks are kept in"
BROKE = "going on without the store"


@pytest.fixture(scope="module", autouse=True)
def strace():
    tracing.needed()


def fail_store(relay, calls, error, when):
    files = [relay.store, relay.store.with_name("relay.db-wal")]
    tracing.inject(relay, calls, f"error={error}", when, files)


async def loaded(relay):
    """What senders know who sent until the fault had fired, and a little longer."""
    async with crowd(relay, size=4) as senders:
        async with asyncio.timeout(PATIENCE):
            while not tracing.injected(relay):
                assert relay.process.poll() is None, relay.last_words()
                await asyncio.sleep(POLL)
        await asyncio.sleep(LOAD)
    return senders


async def broken_store(folder, calls, when) -> bool:
    """The store meets EIO, and nothing is acknowledged that is lost.

    The relay takes callbacks without it; whether it broke under load, which is told, or could not
    even be opened.
    """
    folder.mkdir()
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url, archive=False)
        fail_store(relay, calls, "EIO", when)
        try:
            await relay.start()
            async with crowd(relay, size=4) as senders, asyncio.timeout(RESCUED_WITHIN):
                while RESCUED not in relay.log.read_text():
                    await asyncio.sleep(POLL)
            relay.kill()
            assert tracing.injected(relay), "the fault did not fire"
            broke = BROKE in relay.log.read_text()
            assert "Traceback" not in relay.last_words(), relay.last_words()
            tracing.stop_injecting(relay)
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound()
    print(f"EIO {calls} {when}: {len(senders.sent)} sent, {len(senders.acked)} acknowledged")
    return broke


async def full_store(folder, when) -> int:
    """The store meets ENOSPC: callbacks go to the spill, and home when there is space again.

    Returns how many were on their way when it happened.
    """
    folder.mkdir()
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url, archive=False)
        fail_store(relay, WRITES, "ENOSPC", when)
        try:
            await relay.start()
            senders = await loaded(relay)
            async with Sender(relay.port, senders) as sender:
                assert await sender.send("afterwards") == 200
            assert await relay.stop() == 0
            assert "Traceback" not in relay.last_words(), relay.last_words()
            tracing.stop_injecting(relay)
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound()
    spilled = relay.log.read_text().count("callbacks go to /")
    assert "refused" not in relay.log.read_text()
    print(f"ENOSPC {when}: {len(senders.acked)} acknowledged, spilled {spilled} times, 0 refused")
    return spilled


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
            tracing.inject(relay, calls, f"error={error}", when, files)
            await relay.start()
            senders = await loaded(relay)
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound(once=["archive"])


@pytest.mark.parametrize(
    ("calls", "when"), [(SYNCS, "2"), (SYNCS, "20"), (SYNCS, "25+"), (WRITES, "150")]
)
async def test_an_error_of_the_disk_ends_the_use_of_the_store(tmp_path, calls, when):
    await broken_store(tmp_path / "relay", calls, when)


@pytest.mark.parametrize("when", ["200..207", "250+"])
async def test_what_a_full_store_does_not_take_is_spilled(tmp_path, when):
    assert await full_store(tmp_path / "relay", when)


@pytest.mark.parametrize(("calls", "error"), [(SYNCS, "EIO"), (WRITES, "ENOSPC")])
async def test_a_row_is_written_once_whatever_the_disk_does(tmp_path, calls, error):
    await broken_archive(tmp_path / "relay", calls, error, "10..16")


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lasting", ["", "+"])
@pytest.mark.parametrize(("calls", "numbers"), [(SYNCS, range(1, 31)), (WRITES, range(1, 300, 13))])
async def test_errors_of_the_disk_end_the_use_of_the_store(tmp_path, calls, numbers, lasting):
    loaded = [await broken_store(tmp_path / f"{n}", calls, f"{n}{lasting}") for n in numbers]
    assert True in loaded
    assert False in loaded


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lasting", ["", "+"])
async def test_whatever_full_stores_do_not_take_is_spilled(tmp_path, lasting):
    numbers = range(1, 400, 19)
    assert sum([await full_store(tmp_path / f"{n}", f"{n}{lasting}") for n in numbers])
