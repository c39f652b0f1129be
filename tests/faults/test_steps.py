"""kill -9 at the Nth call: between the write and its sync, the sync and the answer, the delivery
and its settlement, the row and the ledger.
"""

import pytest
import tracing
from relays import Relay
from stubs.receiver import Receiver

ENDS_WITHIN = 15.0
STEPS = {
    "sync": "fdatasync,fsync",
    "write": "pwrite64",
    "send": "write,writev,sendto,sendmsg",
}


@pytest.fixture(scope="module", autouse=True)
def strace():
    tracing.needed()


async def killed_at(folder, calls, number):
    """Kill it at this call of any of its threads; whether that was after the start."""
    folder.mkdir()
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url)
        tracing.inject(relay, calls, "signal=KILL", number)
        try:
            loaded = await relay.up_or_ended()
            senders = await relay.under_load(ENDS_WITHIN)
            assert relay.process.poll() == -9, "the fault did not fire"
            tracing.stop_injecting(relay)
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound(once=["archive"])
    print(
        f"killed at {calls} {number}: {len(senders.sent)} sent, {len(senders.acked)} acknowledged"
    )
    return loaded


@pytest.mark.parametrize(("step", "number"), [("sync", 25), ("write", 120), ("send", 60)])
async def test_a_kill_at_a_step_loses_nothing(tmp_path, step, number):
    await killed_at(tmp_path / "relay", STEPS[step], number)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("step", "numbers"),
    [("sync", range(1, 41)), ("write", range(1, 200, 7)), ("send", range(1, 120, 5))],
)
async def test_a_kill_at_any_step_loses_nothing(tmp_path, step, numbers):
    loaded = [await killed_at(tmp_path / f"{n}", STEPS[step], n) for n in numbers]
    assert True in loaded
