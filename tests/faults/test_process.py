"""The process of `relay run`, as systemd and an operator deal with it."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from manager import listening
from relays import PATIENCE, RUN, Relay, activated, free_port

from relay.store import StoreLocked
from relay.store.sqlite.connection import lock

WRONG = "\nnonsense: 1\n"
NOSY = """
import json, os, relay
from pathlib import Path

names = Path(__file__).parent.parent / "names.json"
names.write_text(json.dumps(list(os.environ)))

class Nosy(relay.Sink):
    async def send(self, delivery):
        pass

@relay.hookimpl
def register_sinks(register):
    register("nosy", Nosy)
"""
BLOCKING = """
import time, relay

class Blocking(relay.Sink):
    async def send(self, delivery):
        time.sleep(60)

@relay.hookimpl
def register_sinks(register):
    register("blocking", Blocking)
"""


def plugin(folder, name, text):
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "plugins" / f"{name}.py").write_text(text)
    return f"  {name}: {{plugin: {name}}}\n"


def told_of_descriptors(folder):
    """Which variables about descriptors a plugin saw, and any program of its would."""
    names = json.loads((folder / "names.json").read_text())
    return [name for name in names if name.startswith(("LISTEN_", "RELAY_KEPT"))]


async def send(port, source="sumotext"):
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
        parameters = {"mobile": "2125550123", "carrierId": "TEST", "key": "JOIN"}
        url = f"http://127.0.0.1:{port}/callbacks/{source}"
        return (await http.get(url, params=parameters)).status_code


async def ask(relay, *arguments):
    """A command as an operator gives it; the finished process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay.cli", *arguments, "--config", str(relay.config)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=relay.environment,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


@contextlib.asynccontextmanager
async def managed(relay, manager, **environ):
    """The relay while it runs under a service manager."""
    relay.environment = relay.environment | manager.environ | environ
    relay.spawn()
    try:
        try:
            await manager.hear("READY", 1)
        except TimeoutError:
            pytest.fail(f"status {relay.process.poll()}: {relay.last_words()}")
        yield
    finally:
        relay.close()


async def test_systemd_is_told_of_a_life_with_a_reload(tmp_path):
    relay = Relay(tmp_path, plugins="plugins", sinks=plugin(tmp_path, "nosy", NOSY))
    with (
        socket.create_server(("127.0.0.1", 0)) as public,
        socket.create_server(("127.0.0.1", 0)) as admin,
    ):
        relay.under = activated({"relay.socket": public, "admin": admin})
        relay._descriptors = [public.fileno(), admin.fileno()]
        port = public.getsockname()[1]
        async with (
            listening(tmp_path) as manager,
            managed(relay, manager, WATCHDOG_USEC="300000"),
        ):
            assert await send(port) == 200, "READY comes when callbacks are taken"
            assert f"127.0.0.1:{port}/" in (await manager.hear("READY", 1))["STATUS"]
            async with httpx.AsyncClient(trust_env=False) as http:
                ready = await http.get(f"http://127.0.0.1:{admin.getsockname()[1]}/readyz")
            assert ready.status_code == 200
            await manager.hear("WATCHDOG", 3)
            assert not told_of_descriptors(tmp_path)

            text = relay.config.read_text()
            relay.config.write_text(text.replace("sumotext: {", "other: {"))
            relay.process.send_signal(signal.SIGHUP)
            reloading = await manager.hear("RELOADING", 1)
            assert reloading["MONOTONIC_USEC"].isdecimal()
            await manager.hear("READY", 2)
            assert await send(port, "other") == 200
            await manager.hear("WATCHDOG", manager.count("WATCHDOG") + 3)
            assert not told_of_descriptors(tmp_path)

            assert await relay.stop() == 0
            await manager.hear("STOPPING", 1)


async def test_the_watchdog_goes_hungry_while_a_plugin_blocks_the_loop(tmp_path):
    relay = Relay(tmp_path, plugins="plugins", sinks=plugin(tmp_path, "blocking", BLOCKING))
    async with listening(tmp_path) as manager, managed(relay, manager, WATCHDOG_USEC="300000"):
        await manager.hear("WATCHDOG", 3)
        assert await send(relay.port) == 200
        await blocked(relay)
        before = manager.count("WATCHDOG")
        await asyncio.sleep(1)
        assert manager.count("WATCHDOG") <= before + 1


async def blocked(relay):
    async with asyncio.timeout(PATIENCE):
        while "stood still" not in relay.log.read_text():
            await asyncio.sleep(0.05)


async def test_a_file_that_is_wrong_is_told_of_and_changes_nothing(tmp_path):
    relay = Relay(tmp_path)
    async with listening(tmp_path) as manager, managed(relay, manager):
        text = relay.config.read_text()
        relay.config.write_text(text + WRONG)
        status, output, _ = await ask(relay, "status")
        assert (status, "has changed since" in output) == (0, True)
        relay.process.send_signal(signal.SIGHUP)
        ready = await manager.hear("READY", 2)
        assert "nonsense" in ready["STATUS"]
        assert "nonsense: is not known" in relay.log.read_text()
        assert await send(relay.port) == 200
        found = (await relay.status())["configuration"]
        assert found["state"] == "outdated"
        assert "nonsense" in found["problems"][0]
        status, output, _ = await ask(relay, "status")
        assert (status, "what was read before" in output) == (0, True)

        relay.config.write_text(text)
        relay.process.send_signal(signal.SIGHUP)
        await manager.hear("READY", 3)
        assert (await relay.status())["configuration"]["state"] == "current"


async def test_an_address_that_is_taken_is_found_before_the_old_one_is_let_go(tmp_path):
    relay = Relay(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        async with listening(tmp_path) as manager, managed(relay, manager):
            text = relay.config.read_text()
            relay.config.write_text(text.replace(f"127.0.0.1:{relay.port}", taken))
            relay.process.send_signal(signal.SIGHUP)
            assert taken in (await manager.hear("READY", 2))["STATUS"]
            assert await send(relay.port) == 200


async def test_a_new_address_is_listened_on_and_the_old_one_no_more(tmp_path):
    relay, new = Relay(tmp_path), free_port()
    async with listening(tmp_path) as manager, managed(relay, manager):
        text = relay.config.read_text()
        relay.config.write_text(text.replace(f":{relay.port}", f":{new}"))
        relay.process.send_signal(signal.SIGHUP)
        await manager.hear("READY", 2)
        assert await send(new) == 200
        with pytest.raises(httpx.ConnectError):
            await send(relay.port)


@pytest.mark.timeout(180)
async def test_a_signal_that_comes_while_it_starts_anew_is_not_lost(tmp_path):
    """Neither a stop nor a second reload, wherever in the first one they come."""
    relay = Relay(tmp_path)
    async with listening(tmp_path) as manager, managed(relay, manager):
        for count, pause in enumerate((0.0, 1.0), start=1):
            before = manager.count("RELOADING")
            relay.process.send_signal(signal.SIGHUP)
            await manager.hear("RELOADING", before + 1)
            await asyncio.sleep(pause)
            relay.process.send_signal(signal.SIGHUP)
            await manager.hear("READY", 1 + count)
            assert relay.process.poll() is None, relay.last_words()
        await settled(manager)
        relay.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.8)
        assert await relay.stop() == 0


async def locks_had_during_a_reload(folder, command):
    """How often another process could have had the store between the two images."""
    relay, had = Relay(folder, command=command), 0
    async with listening(folder) as manager, managed(relay, manager):
        relay.process.send_signal(signal.SIGHUP)
        ready = asyncio.create_task(manager.hear("READY", 2))
        while not ready.done() and relay.process.poll() is None:
            with contextlib.suppress(StoreLocked):
                lock(relay.store).close()
                had += 1
            await asyncio.sleep(0.005)
        ready.cancel()
    return had


async def test_no_command_gets_the_store_between_the_two_images(tmp_path):
    """It would keep the next image out for as long as it takes."""
    assert await locks_had_during_a_reload(tmp_path, RUN) == 0


async def test_a_command_gets_the_store_where_the_lock_is_let_go(tmp_path):
    assert await locks_had_during_a_reload(tmp_path, ["-m", "unlocked", "run"]) > 0


async def settled(manager):
    """Wait until every reload has come to its end."""
    async with asyncio.timeout(PATIENCE):
        while manager.count("READY") <= manager.count("RELOADING"):
            await asyncio.sleep(0.05)


async def test_broken_at_the_start_the_last_valid_one_is_used_until_it_is_mended(tmp_path):
    relay = Relay(tmp_path, plugins="plugins", sinks=plugin(tmp_path, "nosy", NOSY))
    async with listening(tmp_path) as manager, managed(relay, manager):
        assert await relay.stop() == 0
    text = relay.config.read_text()
    relay.config.write_text(text.replace("plugin: nosy", "plugin: noisy"))
    async with listening(tmp_path.parent) as manager, managed(relay, manager):
        assert "nosy.plugin: there is no such plugin" in (await manager.hear("READY", 1))["STATUS"]
        assert "there is no such plugin" in relay.log.read_text()
        assert await send(relay.port) == 200
        found = await relay.status()
        assert found["configuration"]["state"] == "last_valid"
        assert found["sinks"]["nosy"]["state"] == "held"
        await reached(relay, "archive", delivered=1)
        assert found["sinks"]["nosy"]["pending"] == 1
        status, _, errors = await ask(relay, "check")
        assert status == 78
        assert "last valid configuration, holding back nosy" in errors
        status, _, errors = await ask(relay, "sinks", "pause", "nosy")
        assert (status, "is held" in errors) == (1, True)

        relay.config.write_text(text)
        relay.process.send_signal(signal.SIGHUP)
        await manager.hear("READY", 2)
        await reached(relay, "nosy", delivered=1)
        assert (await relay.status())["configuration"]["state"] == "current"


async def reached(relay, sink, **expected):
    async with asyncio.timeout(PATIENCE):
        while True:
            found = (await relay.status())["sinks"][sink]
            if expected.items() <= found.items():
                return
            await asyncio.sleep(0.05)


async def test_without_a_last_valid_one_the_start_ends_with_78(tmp_path):
    relay = Relay(tmp_path)
    relay.config.write_text(relay.config.read_text() + WRONG)
    relay.spawn()
    assert await relay.ended() == 78


async def test_a_passed_socket_that_others_reach_wants_guarded_sources(tmp_path):
    relay = Relay(tmp_path)
    with socket.create_server(("0.0.0.0", 0)) as public:
        relay.under = activated({"": public})
        relay._descriptors = [public.fileno()]
        relay.spawn()
        assert await relay.ended() == 78
    assert "needs tokens or allow_from" in relay.log.read_text()


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "there"])
async def test_a_terminal_that_closes_ends_it_in_an_orderly_way(tmp_path, gone):
    relay = Relay(tmp_path)
    master, slave = pty.openpty()
    async with listening(tmp_path) as manager:
        relay.environment |= manager.environ
        with relay.log.open("ab") as log:
            relay.process = subprocess.Popen(
                ["setsid", "--ctty", sys.executable, *relay.command, "-c", str(relay.config)],
                stdin=slave,
                stdout=log,
                stderr=log,
                cwd=tmp_path,
                env=relay.environment,
            )
        os.close(slave)
        try:
            await manager.hear("READY", 1)
            if gone:
                os.close(master)
                assert await relay.ended() == 0
                assert "nothing is lost" in relay.log.read_text()
            else:
                relay.process.send_signal(signal.SIGHUP)
                await manager.hear("READY", 2)
                os.close(master)
        finally:
            relay.close()
