"""A plugin that blocks the event loop, or ends the process, costs the others a restart or two."""

import asyncio
import contextlib
import signal
import time

import httpx
import pytest
from oracle import Senders, in_receiver
from relays import POLL, Relay, Sender, command, within
from stubs.receiver import Receiver

from relay.state_directory import StateDirectory

BAD = """
import asyncio
import ctypes
import os
import pathlib
import re
import time

import relay


class Bad(relay.Sink):
    async def open(self):
        {open}

    async def send(self, delivery):
        {send}

    async def close(self):
        {close}

    def leave(self):
        os._exit(9)

    async def leaves(self):
        self.leave()


@relay.hookimpl
def register_sinks(register):
    register("bad", Bad)
"""
pytestmark = pytest.mark.timeout(180)  # some have three lives or more
HOUR = "time.sleep(3600)"
SEARCH = "re.match('(a+)+$', 'a' * 60 + 'b')"
"""It takes longer than that, and no other thread runs meanwhile but for signals."""
PATIENCE = 60.0
QUICK = 2
"""Seconds after which a standstill is ended, where the test is not to take long."""
BUSY = "pathlib.Path('sending').touch(); time.sleep(0.7)"
"""A send that blocks, but never for a second, on a busy machine either."""


def altered(*values):
    return ["-m", "altered", *values, "run"]


def limited(seconds):
    return altered(f"relay.delivery.crashes.TOO_LONG={seconds}")


def bad(folder, **does):
    """The settings of a sink whose plugin does this."""
    path = folder / "plugins/bad.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(BAD.format(**{"open": "pass", "send": "pass", "close": "pass"} | does))
    return "  bad: {plugin: bad}\n"


@contextlib.contextmanager
def relay_with(folder, receiver, run, **does):
    sinks = bad(folder, **does)
    relay = Relay(folder, receiver.url, sinks=sinks, plugins="plugins", command=run)
    try:
        yield relay
    finally:
        relay.close()


async def state(relay):
    """What status says of the bad sink; nothing while the relay does not answer."""
    with contextlib.suppress(OSError, httpx.HTTPError):  # it is starting, or gone
        async with asyncio.timeout(5):
            return (await relay.status())["sinks"]["bad"]
    return {"state": None}


async def held(relay, patience=PATIENCE):
    """Wait until the bad sink is held; what status says of it."""
    async with asyncio.timeout(patience):
        while (found := await state(relay))["state"] != "held":
            await asyncio.sleep(POLL)
    return found


class Client:
    """A good client: sends one callback after the other, each until it is answered."""

    def __init__(self, relay):
        self.senders = Senders()
        self.times = []
        self._relay = relay

    async def work(self):
        for count in range(1_000_000):
            begun = time.monotonic()
            async with Sender(self._relay.port, self.senders) as sender:
                while not await self._answered(sender, count):
                    await asyncio.sleep(POLL)
            self.times.append(time.monotonic() - begun)
            await asyncio.sleep(0.01)

    async def _answered(self, sender, count):
        with contextlib.suppress(OSError, EOFError):
            return await sender.send(f"good-{count}", count % 40) == 200
        return False

    def report(self):
        """The longest times, which are those of the restarts, and the 99th of 100 others."""
        ordered = sorted(self.times)
        gaps = [each for each in ordered if each > 0.5]
        rest = ordered[: len(ordered) - len(gaps)]
        p99 = rest[int(len(rest) * 0.99)]
        print(
            f"\n{len(ordered)} answers; over 0.5 s: {', '.join(f'{gap:.1f} s' for gap in gaps)};"
            f" p99 of the others {p99 * 1000:.0f} ms"
        )
        return p99


@contextlib.asynccontextmanager
async def good_client(relay):
    client = Client(relay)
    task = asyncio.create_task(client.work())
    try:
        yield client
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def all_delivered(relay, senders):
    """Wait until the good sinks have all that was acknowledged."""
    async with asyncio.timeout(PATIENCE):
        while True:
            sinks = (await relay.status())["sinks"]
            if not sinks["hook"]["pending"] and not sinks["archive"]["pending"]:
                break
            await asyncio.sleep(POLL)
    assert sinks["hook"]["delivered"] >= len(senders.acked)


# a plugin that blocks


@contextlib.asynccontextmanager
async def beside(folder):
    """A relay without such a plugin, which shows how long answers take on this machine just now."""
    relay = Relay(folder)
    try:
        await relay.start()
        yield relay
        assert await relay.stop() == 0
    finally:
        relay.close()


async def blocked(folder, where, run, patience, code=HOUR, after=1.0):
    """A plugin blocks for an hour; how a good client fares, until the sink is held and after."""
    async with Receiver() as receiver, beside(folder / "beside") as reference:
        with relay_with(folder, receiver, run, **{where: code}) as relay:
            relay.spawn()
            async with good_client(relay) as client, good_client(reference) as other:
                found = await held(relay, patience)
                answered = len(client.times)
                await asyncio.sleep(after)
                assert len(client.times) > answered
            assert relay.process.poll() is None, relay.last_words()
            await all_delivered(relay, client.senders)
            everything = set(in_receiver(request.body for request in receiver.requests))
            assert client.senders.acked.items() <= everything
            assert found["pending"] > 0
            assert f"last in {where} (no return for " in found["reason"]
            assert "relay sinks resume bad" in found["reason"]
            # 0.1 s on a machine that does nothing else
            assert client.report() < max(0.25, 4 * other.report())
            assert await relay.stop() == 0


@pytest.mark.parametrize("where", ["send", "open"])
async def test_a_plugin_that_blocks_is_held_and_the_others_go_on(tmp_path, where):
    await blocked(tmp_path, where, limited(QUICK), PATIENCE)


@pytest.mark.faults
async def test_a_plugin_that_lets_no_other_thread_run_is_held_too(tmp_path):
    await blocked(tmp_path, "send", limited(QUICK), 3 * PATIENCE, SEARCH)


@pytest.mark.faults
async def test_without_signals_such_a_plugin_is_not_noticed(tmp_path):
    run = altered("relay.delivery.crashes.TOO_LONG=2", "relay.daemon.WAKE=3600")
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, run, send=SEARCH) as relay:
            await relay.start()
            async with good_client(relay) as client:
                await asyncio.sleep(QUICK + 3)
                answered = len(client.times)
                await asyncio.sleep(1)
                assert len(client.times) == answered


@pytest.mark.faults
@pytest.mark.parametrize("where", ["send", "open"])
async def test_a_plugin_that_blocks_is_held_within_the_limits_of_a_real_relay(tmp_path, where):
    await blocked(tmp_path, where, ["-m", "relay.cli", "run"], 4 * PATIENCE, after=10.0)


async def test_without_the_limit_a_plugin_that_blocks_takes_the_ingress_away(tmp_path):
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, limited(3600), send=HOUR) as relay:
            await relay.start()
            async with good_client(relay) as client:
                await standing_still(relay)
                await asyncio.sleep(QUICK + 3)
                answered = len(client.times)
                await asyncio.sleep(1)
                assert len(client.times) == answered


async def standing_still(relay):
    async with asyncio.timeout(PATIENCE):
        while "has stood still" not in relay.log.read_text():
            await asyncio.sleep(POLL)


@pytest.mark.faults
async def test_a_kill_while_a_plugin_blocks_counts_as_well(tmp_path):
    """As systemd's watchdog does it, or somebody who has waited long enough."""
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, limited(3600), open=HOUR) as relay:
            crash_log = StateDirectory.around(relay.store).crash_log
            for life, number in enumerate((signal.SIGABRT, signal.SIGKILL), start=1):
                relay.spawn()
                async with asyncio.timeout(PATIENCE):
                    while relay.log.read_text().count("has stood still") < life:
                        await asyncio.sleep(POLL)
                    # The crash log is written up to a quarter of a second after that line.
                    while "no return" not in crash_log.read_text():
                        await asyncio.sleep(POLL)
                relay.process.send_signal(number)
                assert await relay.ended() == -number
            await relay.start()
            await held(relay)


# a plugin that ends the process

ENDS = {
    "exit": ("os._exit(9)", 9),
    "task": ("await asyncio.create_task(self.leaves())", 9),
    "thread": ("await asyncio.to_thread(self.leave)", 9),
    "segmentation-fault": ("ctypes.string_at(0)", -signal.SIGSEGV),
    "abort": ("os.abort()", -signal.SIGABRT),
}


async def deaths(relay, senders, status, times):
    """Have it end in the bad sink so often, by one event that it gets each time."""
    await relay.start()
    async with Sender(relay.port, senders) as sender:
        with contextlib.suppress(OSError, EOFError):
            await sender.send("first", 1)
    for life in range(times):
        if life:
            relay.spawn()
        assert await relay.ended() == status, relay.last_words()


@pytest.mark.parametrize(
    "way",
    ["exit", *(pytest.param(each, marks=pytest.mark.faults) for each in ENDS if each != "exit")],
)
async def test_a_plugin_that_ends_the_process_twice_is_held(tmp_path, way):
    send, status = ENDS[way]
    senders = Senders()
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, ["-m", "relay.cli", "run"], send=send) as relay:
            await deaths(relay, senders, status, 2)
            await relay.start()
            found = await held(relay)
            assert "2 times in a row inside this sink's own code, last in send" in found["reason"]
            async with Sender(relay.port, senders) as sender:
                assert await sender.send("second", 2) == 200
            await all_delivered(relay, senders)
            assert await relay.stop() == 0


@pytest.mark.faults
async def test_where_no_crash_is_counted_the_plugin_ends_the_process_for_ever(tmp_path):
    run = altered("relay.delivery.crashes.HELD_AFTER=1000")
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, run, send="os._exit(9)") as relay:
            await deaths(relay, Senders(), 9, 4)


async def test_a_held_sink_is_told_everywhere_and_resumed_once_it_is_mended(tmp_path):
    senders = Senders()
    async with Receiver() as receiver:
        with relay_with(
            tmp_path, receiver, ["-m", "relay.cli", "run"], send="os._exit(9)"
        ) as relay:
            await deaths(relay, senders, 9, 2)
            await relay.start()
            reason = (await held(relay))["reason"]
            await told_everywhere(relay, reason)
            assert await relay.stop() == 0
            assert reason in command(relay, "sinks", "list", "--json").stdout
            await relay.start()  # a clean stop changes nothing
            assert (await state(relay))["state"] == "held"
            bad(tmp_path)
            relay.process.send_signal(signal.SIGHUP)
            await relay_restarted(relay)
            assert (await state(relay))["state"] == "held"
            asked = await asyncio.to_thread(command, relay, "sinks", "resume", "bad")
            assert asked.returncode == 0, asked.stderr
            await relay.delivered()
            found = await state(relay)
            assert (found["state"], found["pending"], found["dead"]) == ("running", 0, 0)
            await relay.finish(senders)


async def relay_restarted(relay):
    async with asyncio.timeout(PATIENCE):
        while "starting anew" not in relay.log.read_text():
            await asyncio.sleep(POLL)
    await relay.answers()


async def told_everywhere(relay, reason):
    assert f"sink bad is held, its deliveries are queued: {reason}" in relay.log.read_text()
    status = await asyncio.to_thread(command, relay, "status")
    assert "relay sinks resume bad" in " ".join(status.stdout.split())
    doctor = await asyncio.to_thread(command, relay, "doctor")
    assert "os._exit" in doctor.stdout
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{relay.admin}", trust_env=False
    ) as admin:
        metrics = (await admin.get("/metrics")).text
        assert 'relay_sink_state{sink="bad",state="held"} 1.0' in metrics
        ready = await admin.get("/readyz")
        assert ready.status_code == 200
        assert reason in str(ready.json()["reasons"])


@pytest.mark.faults
async def test_a_sink_that_is_resumed_and_crashes_again_is_held_again(tmp_path):
    async with Receiver() as receiver:
        with relay_with(
            tmp_path, receiver, ["-m", "relay.cli", "run"], send="os._exit(9)"
        ) as relay:
            await deaths(relay, Senders(), 9, 2)
            await relay.start()
            await held(relay)
            await asyncio.to_thread(command, relay, "sinks", "resume", "bad")
            assert await relay.ended() == 9
            relay.spawn()
            assert await relay.ended() == 9
            await relay.start()
            await held(relay)


# kills that are no plugin's fault


async def killed_while_sending(folder, kills, run):
    """Kill it so often while it is in the plugin's own code; the states that the sink had then."""
    senders, states = Senders(), []
    sending = folder / "sending"
    async with Receiver() as receiver:
        with relay_with(folder, receiver, run, send=BUSY) as relay:
            for kill in range(kills):
                await relay.start()
                async with asyncio.timeout(PATIENCE):
                    while not (found := (await state(relay))["state"]):
                        await asyncio.sleep(POLL)
                states.append(found)
                if found == "held":
                    break
                await relay.delivered()
                sending.unlink(missing_ok=True)
                async with Sender(relay.port, senders) as sender, asyncio.timeout(PATIENCE):
                    assert await sender.send(f"kill-{kill}", kill) == 200
                    while not sending.exists():
                        await asyncio.sleep(POLL)
                await asyncio.sleep(0.45)
                relay.kill()
    return states


@pytest.mark.faults
async def test_ten_kills_inside_a_plugin_hold_no_sink(tmp_path):
    states = await killed_while_sending(tmp_path, 10, ["-m", "relay.cli", "run"])
    assert len(states) == 10
    assert "held" not in states


async def test_three_kills_inside_a_plugin_hold_no_sink(tmp_path):
    states = await killed_while_sending(tmp_path, 3, ["-m", "relay.cli", "run"])
    assert len(states) == 3
    assert "held" not in states


@pytest.mark.faults
async def test_if_every_step_counted_kills_would_hold_a_sink(tmp_path):
    run = altered("relay.delivery.crashes.CRASH_AFTER=0.1")
    assert "held" in await killed_while_sending(tmp_path, 10, run)


# the end


async def stopped(folder, run, seconds, **does):
    """Stop it; the exit status, or None if it is still there after so many seconds."""
    senders = Senders()
    async with Receiver() as receiver:
        with relay_with(folder, receiver, run, **does) as relay:
            await relay.start()
            async with Sender(relay.port, senders) as sender:
                assert await sender.send("one", 1) == 200
            if "send" in does:
                await standing_still(relay)
            else:
                await relay.delivered()
            relay.process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            if await within(seconds, lambda: relay.process.poll() is not None):
                print(f"\nstopped in {time.monotonic() - begun:.1f} s")
            status, log = relay.process.poll(), relay.log.read_text()
            if status is not None:
                bad(folder)
                await relay.finish(senders)
    return status, log


QUICK_STOP = altered("relay.daemon.LONGEST_STOP=3", "relay.delivery.crashes.TOO_LONG=3600")
LONG_STOP = altered("relay.daemon.LONGEST_STOP=3600")


async def test_a_close_that_blocks_does_not_hold_up_a_stop(tmp_path):
    status, log = await stopped(tmp_path, QUICK_STOP, 6, close=HOUR)
    assert status == 0
    assert "the stop waits for sink bad: close" in log


@pytest.mark.faults
async def test_a_send_that_blocks_does_not_hold_up_a_stop(tmp_path):
    status, log = await stopped(tmp_path, QUICK_STOP, 6, send=HOUR)
    assert status == 1
    assert "the stop waits for sink bad: send" in log


@pytest.mark.faults
async def test_without_the_limit_a_close_that_blocks_holds_up_a_stop(tmp_path):
    status, _ = await stopped(tmp_path, LONG_STOP, 8, close=HOUR)
    assert status is None


@pytest.mark.faults
async def test_a_close_that_blocks_does_not_outlive_ten_seconds(tmp_path):
    status, _ = await stopped(tmp_path, ["-m", "relay.cli", "run"], 10, close=HOUR)
    assert status == 0


@pytest.mark.faults
async def test_a_close_that_blocks_does_not_hold_up_a_reload(tmp_path):
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, QUICK_STOP, close=HOUR) as relay:
            await relay.start()
            bad(tmp_path)
            relay.process.send_signal(signal.SIGHUP)
            await relay_restarted(relay)
            async with asyncio.timeout(PATIENCE):
                while relay.log.read_text().count("callbacks are taken on") < 2:
                    await asyncio.sleep(POLL)
            assert (await state(relay))["state"] == "running"
            assert await relay.stop() == 0
