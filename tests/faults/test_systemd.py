"""The relay as it is installed, under a real systemd, with all of the unit's hardening.

The machine is booted once; each test has the relay as it is just after its installation.
"""

import asyncio
import contextlib
import re
import signal

import machine as machines
import pytest
from installed import UNITS, Installed
from machine import Machine
from oracle import Senders
from relays import Sender
from test_restart import SENDERS, sends

from relay.install import SERVICE, SOCKET, TOKEN


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    machines.needed()
    with Machine.booted(tmp_path_factory.mktemp("machine") / "image") as machine:
        machine.run(machines.PROGRAM, "service", "install", "--yes")
        yield Installed(machine)


@pytest.fixture
def relay(installed):
    installed.renew()
    return installed


@pytest.fixture
def reached(installed):
    """The relay without a token, and this test in the machine's network."""
    installed.renew(token=False)
    with installed.machine.network():
        yield installed


@contextlib.asynccontextmanager
async def load(relay):
    """Senders at work; gives what they know, and what failed."""
    senders, failures, stop = Senders(), [], asyncio.Event()
    crowd = [
        asyncio.create_task(sends(relay, senders, failures, number, stop))
        for number in range(SENDERS)
    ]
    try:
        yield senders, failures
        stop.set()
        await asyncio.gather(*crowd)
    finally:
        for task in crowd:
            task.cancel()


# hardening


def test_it_serves_with_all_that_is_taken_from_it(relay):
    said = relay.run("systemd-analyze", "security", "--no-pager", SERVICE.name)
    exposure = float(re.search(r"exposure level for relay.service: ([\d.]+)", said)[1])
    print(f"\nexposure {exposure}")
    assert exposure <= 1.2
    status = dict(line.split(":\t", 1) for line in relay.of_process("status").splitlines())
    assert set(status["Uid"].split()) == {relay.run("id", "-u", "relay").strip()}
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "Stored as com.sumotext.poll" in relay.run("relay", "send", "poll")
    assert "1 event, 0 callbacks in quarantine" in relay.run("relay", "status")
    relay.machine.until(
        lambda: ",com.sumotext.poll," in relay.run("cat", "/var/lib/relay/events.csv")
    )


async def test_the_token_is_a_credential_and_nowhere_else(relay):
    token = relay.machine.file(TOKEN).read_text().strip()
    with relay.machine.network():
        async with Sender(relay.port, Senders()) as sender:
            assert await sender.send("without", 1) == 401
    assert "Stored as" in relay.run("relay", "send", "poll")
    assert token not in relay.of_process("environ") + relay.of_process("cmdline")
    assert token not in relay.machine.journal()
    place = "/run/credentials/relay.service/relay_sumotext-token"
    assert relay.run("cat", place).strip() == token
    as_another = relay.run("setpriv", "--reuid=65534", "--clear-groups", "cat", place, check=False)
    assert "Permission denied" in as_another


# restarts and reloads


async def restarts(relay, number):
    async with load(relay) as (senders, failures):
        for _ in range(number):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(relay.run, "systemctl", "restart", SERVICE.name)
    return senders, failures


async def no_restart_fails_a_request(relay, number):
    senders, failures = await restarts(relay, number)
    print(f"\n{number} restarts: {len(senders.sent)} sent, {len(failures)} failed")
    assert not failures, failures[:5]
    assert len(senders.acked) == len(senders.sent) > 20 * number
    (await relay.verdict(senders)).sound(once=["archive"])


async def test_a_restart_fails_no_request_as_the_socket_stays(reached):
    await no_restart_fails_a_request(reached, 1)


@pytest.mark.faults
async def test_a_restart_fails_requests_where_systemd_does_not_hold_the_socket(reached):
    reached.run("systemctl", "stop", *UNITS)
    reached.run("mv", SOCKET, "/opt")
    try:
        reached.run("systemctl", "daemon-reload")
        reached.run("systemctl", "start", SERVICE.name)
        _, failures = await restarts(reached, 1)
        reached.run("systemctl", "stop", SERVICE.name)
    finally:
        reached.run("mv", f"/opt/{SOCKET.name}", SOCKET)
    assert failures


async def reloads(relay, number):
    """Each brings one sink more."""
    sinks = ""
    async with load(relay) as (senders, failures):
        for each in range(number):
            await asyncio.sleep(0.3)
            sinks += (
                f"  extra{each}: {{plugin: csv, options: {{path: /var/lib/relay/{each}.csv}}}}\n"
            )
            relay.configure(sinks)
            await relay.reload()
    return senders, failures


async def no_reload_fails_a_request(relay, number):
    before = relay.pid
    senders, failures = await reloads(relay, number)
    print(f"\n{number} reloads: {len(senders.sent)} sent, {len(failures)} failed")
    assert relay.pid == before
    assert not failures, failures[:5]
    assert len(senders.acked) == len(senders.sent) > 20 * number
    assert f"extra{number - 1}" in relay.run("relay", "status")
    (await relay.verdict(senders)).sound(once=["archive"])


async def test_a_reload_fails_no_request_and_reads_the_settings_again(reached):
    await no_reload_fails_a_request(reached, 1)


@pytest.mark.faults
async def test_a_reload_with_a_mistake_changes_nothing_and_is_told(reached):
    before = reached.pid
    reached.configure("  extra: {plugin: csvv}\n")
    reached.run("systemctl", "reload", SERVICE.name)
    await reached.until(lambda: "goes on with what it had read before" in reached.machine.journal())
    await reached.until(lambda: reached.machine.shown("ActiveState") == "active")
    assert "no such plugin" in reached.machine.shown("StatusText")
    assert reached.pid == before
    senders = Senders()
    await reached.passes(senders)
    reached.configure()
    await reached.reload()
    assert "no such plugin" not in reached.machine.shown("StatusText")
    (await reached.verdict(senders)).sound(once=["archive"])


# trouble


async def hung(relay, watchdog):
    """Stop the process for longer than the watchdog waits; whether it was ended for that."""
    relay.drop_in(f"[Service]\nWatchdogSec={watchdog}\nTimeoutAbortSec=1\n")
    before = relay.pid
    relay.run("kill", f"-{signal.SIGSTOP.name}", before)
    try:
        with contextlib.suppress(TimeoutError):
            await relay.until(lambda: relay.pid not in (0, before), seconds=6)
        return "Watchdog timeout" in relay.machine.journal()
    finally:
        relay.run("kill", f"-{signal.SIGCONT.name}", before, check=False)


@pytest.mark.faults
async def test_a_relay_that_hangs_is_ended_and_started_again(reached):
    assert await hung(reached, watchdog=1)
    senders = Senders()
    await reached.passes(senders)
    (await reached.verdict(senders)).sound(once=["archive"])


@pytest.mark.faults
async def test_a_relay_that_hangs_would_hang_for_ever_without_the_watchdog(reached):
    assert not await hung(reached, watchdog=0)


async def crash(relay, times):
    """Kill it as soon as it is there, again and again; the unit's state when it is over."""
    for _ in range(times):
        pid = await relay.until(lambda: relay.pid or relay.machine.shown("ActiveState") == "failed")
        if pid is True:
            break
        relay.run("kill", "-KILL", pid, check=False)
        await relay.until(lambda pid=pid: relay.pid != pid)
    return relay.machine.shown("ActiveState")


@pytest.mark.faults
async def test_a_relay_that_crashes_again_and_again_is_started_again_and_again(reached):
    reached.drop_in("[Service]\nRestartSec=100ms\n")
    assert await crash(reached, 12) != "failed"
    assert int(reached.machine.shown("NRestarts")) >= 11
    senders = Senders()
    await reached.passes(senders)
    (await reached.verdict(senders)).sound(once=["archive"])


@pytest.mark.faults
async def test_with_the_usual_limit_it_would_stay_down(reached):
    usual = "[Unit]\nStartLimitIntervalSec=10\nStartLimitBurst=5\n"
    reached.drop_in(usual + "[Service]\nRestartSec=100ms\n")
    assert await crash(reached, 12) == "failed"
    reached.run("systemctl", "reset-failed")


@pytest.mark.faults
async def test_settings_that_are_wrong_from_the_start_are_looked_at_every_now_and_then(reached):
    reached.run("systemctl", "stop", *UNITS)
    reached.run("sh", "-c", "rm -rf /var/lib/relay/*")  # no settings that were right once
    reached.configure("  extra: {plugin: csvv}\n")
    reached.run("systemctl", "start", "--no-block", *UNITS)
    await reached.until(lambda: reached.machine.shown("SubState") == "stop-post")
    assert "there is no such plugin" in reached.machine.journal()
    await asyncio.sleep(5)
    assert reached.machine.shown("NRestarts") == "0"
    reached.configure()
    senders = Senders()
    await reached.passes(senders)  # which has waited in the socket
    (await reached.verdict(senders)).sound(once=["archive"])


# at full length


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_twenty_restarts_fail_no_request(reached):
    await no_restart_fails_a_request(reached, 20)


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_twenty_reloads_fail_no_request(reached):
    await no_reload_fails_a_request(reached, 20)


# the end


@pytest.mark.faults
def test_to_install_again_disturbs_nobody_and_to_uninstall_leaves_the_events(relay):
    before = relay.pid
    relay.run("relay", "send", "poll")
    relay.run("relay", "service", "install", "--yes")
    assert relay.pid == before
    relay.run("relay", "service", "uninstall", "--yes")
    assert relay.machine.shown("LoadState") == "not-found"
    assert "relay.db" in relay.run("ls", "/var/lib/relay")
    relay.run(machines.PROGRAM, "service", "install", "--yes")
    assert "1 event" in relay.run("relay", "status")
