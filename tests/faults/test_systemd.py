"""The relay as it is installed, under a real systemd, with all of the unit's hardening.

The machine is booted once; each test has the relay as it is just after its installation.
"""

import asyncio
import contextlib
import json
import re
import signal

import machine as machines
import pytest
from click.testing import CliRunner
from installed import TAKEN, UNITS, Installed
from machine import Machine
from oracle import Senders
from pressing import press
from relays import Sender

from relay.cli import main
from relay.install import CONFIG, PLUGINS, SERVICE, SOCKET, TOKEN

EXTRA = "  extra{}: {{plugin: csv, enabled: false, options: {{path: /var/lib/relay/extra.csv}}}}\n"
PLUGIN = """
import time
import relay
class Odd(relay.Sink):
    async def send(self, delivery):
        {body}
@relay.hookimpl
def register_sinks(register):
    register("odd", Odd)
"""
PATIENCE = 120.0

pytestmark = pytest.mark.timeout(180)  # a machine is booted, and busy


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
    crowd = press(relay, senders, failures, stop)
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
    assert relay.machine.shown("MemoryMax") == str(2**30)
    assert relay.machine.shown("TasksMax") == "512"
    assert "Stored as com.sumotext.poll" in relay.run("relay", "send", "poll")
    assert "1 event, 0 callbacks in quarantine" in relay.run("relay", "status")
    relay.machine.until(
        lambda: '"com.sumotext.poll"' in relay.run("cat", "/var/lib/relay/events.csv")
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
    assert "cannot be read" not in relay.run("relay", "doctor", check=False)
    as_another = relay.run("setpriv", "--reuid=65534", "--clear-groups", "cat", place, check=False)
    assert "Permission denied" in as_another


async def test_the_journal_knows_how_bad_a_line_is(relay):
    with relay.machine.network():
        async with Sender(relay.port, Senders()) as sender:
            assert await sender.send("without", 1) == 401
    journal = ("journalctl", "-t", "relay", "-o", "cat", "--no-pager")
    relay.machine.until(lambda: "the token is wrong" in relay.run(*journal, "-p", "warning"))
    bad = relay.run(*journal, "-p", "warning").splitlines()
    assert {json.loads(line)["level"] for line in bad} == {"warning"}
    assert TAKEN in relay.run(*journal, "-p", "info")


# restarts and reloads


async def restart(relay, _):
    await asyncio.to_thread(relay.run, "systemctl", "restart", SERVICE.name)


async def reload(relay, count):
    """Each brings another sink; the process stays."""
    before = relay.pid
    relay.configure(EXTRA.format(count))
    await relay.reload()
    assert relay.pid == before
    assert f"extra{count}" in relay.run("relay", "status")


async def under_load(relay, actions, between=50):
    """Do one thing after the other, so many callbacks apart; what the senders know, what failed."""

    async def more():
        enough = len(senders.acked) + between
        await relay.until(lambda: len(senders.acked) >= enough, PATIENCE)

    async with load(relay) as (senders, failures):
        for count, action in enumerate(actions):
            await more()
            await action(relay, count)
        await more()
    print(f"\n{len(actions)} times: {len(senders.sent)} sent, {len(failures)} failed")
    return senders, failures


async def fails_no_request(relay, actions, between=50):
    senders, failures = await under_load(relay, actions, between)
    assert not failures, (failures[:5], relay.complaints())
    assert len(senders.acked) == len(senders.sent)
    (await relay.verdict(senders)).sound(once=["archive"])


async def test_neither_a_restart_nor_a_reload_fails_a_request(reached):
    await fails_no_request(reached, [restart, reload])


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("action", [restart, reload])
async def test_twenty_of_them_fail_none_of_fifty_thousand_requests(reached, action):
    await fails_no_request(reached, [action] * 20, between=2500)


@pytest.mark.faults
async def test_a_restart_fails_requests_where_systemd_does_not_hold_the_socket(reached):
    reached.run("systemctl", "stop", *UNITS)
    reached.run("mv", SOCKET, "/opt")
    try:
        reached.run("systemctl", "daemon-reload")
        reached.run("systemctl", "start", SERVICE.name)
        _, failures = await under_load(reached, [restart])
        reached.run("systemctl", "stop", SERVICE.name)
    finally:
        reached.run("mv", f"/opt/{SOCKET.name}", SOCKET)
    assert failures


@pytest.mark.faults
async def test_settings_and_plugins_may_be_read_whatever_an_editor_makes_of_them(reached):
    plugin = reached.plug_in(PLUGIN.format(body="pass"))
    reached.run("sh", "-c", f"chmod -R go= {PLUGINS} {CONFIG}; chmod 644 {TOKEN}")
    await reached.reload()
    assert "odd" in reached.run("relay", "status")
    modes = reached.run("stat", "-c", "%a %U %G", CONFIG, plugin, TOKEN)
    assert modes.splitlines() == ["640 root relay", "640 root relay", "600 root root"]


@pytest.mark.faults
async def test_a_reload_with_a_mistake_changes_nothing_and_is_told(reached):
    before = reached.pid
    reached.configure("  extra: {plugin: csvv}\n")
    reached.run("systemctl", "reload", SERVICE.name)
    await reached.until(lambda: "the relay goes on with" in reached.machine.journal())
    await reached.until(lambda: reached.machine.shown("ActiveState") == "active")
    assert "no such plugin" in reached.machine.shown("StatusText")
    assert reached.pid == before
    senders = Senders()
    await reached.passes(senders)
    reached.run("systemctl", "restart", SERVICE.name)  # as after a reboot
    assert "no such plugin" in reached.machine.shown("StatusText")
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
async def test_where_a_loop_stood_still_is_in_the_journal_and_in_no_core_dump(reached):
    plugin = reached.plug_in(PLUGIN.format(body="time.sleep(60)"))
    reached.drop_in("[Service]\nWatchdogSec=2\n")
    assert "Max core file size        0 " in reached.of_process("limits")
    await reached.passes(Senders())
    await reached.until(lambda: "Watchdog timeout" in reached.machine.journal())
    crashed = "the previous process crashed: no return for 1 s in sink odd: send"
    await reached.until(lambda: crashed in reached.machine.journal())
    assert re.search(rf'File \\?"{plugin}\\?", line 6 in send', reached.machine.journal())


@pytest.mark.faults
async def test_a_relay_that_hangs_would_hang_for_ever_without_the_watchdog(reached):
    assert not await hung(reached, watchdog=0)


GREEDY = """
        import pathlib
        before = pathlib.Path("/var/lib/relay/greedy")
        if not before.exists():
            before.touch()
            self.held = b"x" * 2**31
"""


@pytest.mark.faults
async def test_what_takes_too_much_memory_is_ended_and_started_again(reached):
    _memory_is_bounded(reached)
    reached.plug_in(PLUGIN.format(body=GREEDY.strip()))
    reached.run("systemctl", "restart", SERVICE.name)
    senders = Senders()
    await reached.passes(senders)
    await reached.until(lambda: "oom-kill" in reached.machine.journal())
    await reached.until(lambda: int(reached.machine.shown("NRestarts")) == 1)
    await reached.passes(senders)
    (await reached.verdict(senders)).sound(once=["archive"])


@pytest.mark.faults
async def test_without_a_bound_it_takes_what_there_is(reached):
    """The control."""
    _memory_is_bounded(reached)
    reached.plug_in(PLUGIN.format(body=GREEDY.strip()))
    reached.drop_in("[Service]\nMemoryMax=infinity\n")
    await reached.passes(Senders())
    await reached.until(lambda: _memory(reached) > 2**31)
    assert reached.machine.shown("NRestarts") == "0"


def _memory_is_bounded(relay):
    if not relay.machine.shown("MemoryCurrent").isdigit():
        pytest.skip("systemd can bound no memory in the machine: that needs cgroup v2")


def _memory(relay):
    status = dict(line.split(":", 1) for line in relay.of_process("status").splitlines())
    return int(status["VmRSS"].split()[0]) * 1024


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


@pytest.mark.faults
def test_data_of_before_is_taken_over_whoever_it_belongs_to(relay):
    relay.run("relay", "send", "poll")
    relay.run("systemctl", "stop", *UNITS)
    relay.run("sh", "-c", "cp -r /var/lib/relay /opt/data && rm -r /var/lib/relay")
    relay.run("cp", "-r", "/opt/data", "/var/lib/relay")
    assert relay.run("stat", "-c", "%U", "/var/lib/relay/relay.db").strip() == "root"
    relay.run("systemctl", "start", *UNITS)
    assert relay.run("stat", "-c", "%U", "/var/lib/relay/relay.db").strip() == "relay"
    relay.run("relay", "send", "poll")
    assert "2 events" in relay.run("relay", "status")


def into_image(root):
    """Install the relay in an image; the trial wants nothing else of what a machine starts."""
    words = ["service", "install", "--yes", "--root", str(root), "--program", machines.PROGRAM]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    with (root / "etc/systemd/system/trial.target").open("a") as target:
        target.write(f"Wants={SERVICE.name}\n")


@pytest.mark.faults
def test_an_image_with_the_relay_starts_it_when_it_is_booted(tmp_path):
    machines.needed()
    with Machine.booted(tmp_path / "image", prepare=into_image) as machine:
        machine.until(lambda: machine.shown("ActiveState") == "active")
        assert "Stored as" in machine.run("relay", "send", "poll")
        assert machine.run("stat", "-c", "%a %U %G", CONFIG).strip() == "640 root relay"
