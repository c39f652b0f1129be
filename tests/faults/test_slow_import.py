"""A plugin whose import, or `__init__`, never ends holds up no start, no `check` and no reload."""

import asyncio
import contextlib
import signal
import subprocess
import sys

import pytest
from oracle import Senders
from relays import POLL, Relay, Sender
from stubs.receiver import Receiver

PLUGIN = """
import time

import relay


class Slow(relay.Sink):
    def __init__(self, *given):
        {init}
        super().__init__(*given)

    async def send(self, delivery):
        pass

    async def check(self):
        {check}
        return []


@relay.hookimpl
def register_sinks(register):
    register("slow", Slow)


{top}
"""
HOUR = "time.sleep(3600)"
PLACES = {"top": 25, "init": 9}
PATIENCE = 30.0
WHERE = pytest.mark.parametrize("where", ["top", pytest.param("init", marks=pytest.mark.faults)])
LIMIT = 5
"""Seconds: more than a busy machine needs to import the plugins that are well."""
LIMITS = (f"relay.config.plugins.IMPORT={LIMIT}", f"relay.delivery.manager.MAKE={LIMIT}")
NO_LIMITS = ("relay.config.plugins.IMPORT=3600", "relay.delivery.manager.MAKE=3600")


def altered(*values, command="run"):
    return ["-m", "altered", *values, command]


def plug_in(folder, **does):
    path = folder / "plugins/slow.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(PLUGIN.format(**{"init": "pass", "check": "pass", "top": ""} | does))
    return path


@contextlib.contextmanager
def relay_with(folder, receiver, command, **does):
    path = plug_in(folder, **does)
    sinks = "  slow: {plugin: slow}\n"
    relay = Relay(folder, receiver.url, sinks=sinks, plugins="plugins", command=command)
    try:
        yield relay, path
    finally:
        relay.close()


async def logged(relay, words, patience=PATIENCE):
    async with asyncio.timeout(patience):
        while words not in relay.log.read_text():
            await asyncio.sleep(POLL)


@WHERE
async def test_a_start_ends_with_the_plugins_place(tmp_path, where):
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, altered(*LIMITS), **{where: HOUR}) as (relay, path):
            relay.spawn()
            assert await relay.ended() == 78
            told = relay.log.read_text()
            assert f"no end within {LIMIT} s; it was in {path}:{PLACES[where]}" in told


@WHERE
async def test_a_start_that_was_right_before_goes_on_without_the_sink(tmp_path, where):
    senders = Senders()
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, altered(*LIMITS)) as (relay, path):
            await relay.start()
            assert await relay.stop() == 0
            plug_in(tmp_path, **{where: HOUR})
            await relay.start()
            async with Sender(relay.port, senders) as sender:
                assert await sender.send("one", 1) == 200
            sink = (await relay.status())["sinks"]["slow"]
            assert (sink["state"], sink["pending"]) == ("held", 1)
            assert str(path) in sink["reason"]
            plug_in(tmp_path)
            relay.process.send_signal(signal.SIGHUP)
            await logged(relay, "starting anew")
            await relay.finish(senders)


async def test_without_the_limit_a_start_opens_no_port(tmp_path):
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, altered(*NO_LIMITS), top=HOUR) as (relay, path):
            relay.spawn()
            await logged(
                relay, f"the import of the plugin {path} has taken 5 s so far, now in {path}:25"
            )
            with pytest.raises(OSError, match="Connect"):
                await asyncio.open_connection("127.0.0.1", relay.port)


@WHERE
async def test_check_names_the_place(tmp_path, where):
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, [], **{where: HOUR}) as (relay, path):
            checked = await asyncio.to_thread(check, relay, *LIMITS)
    assert checked.returncode == 78
    assert f"no end within {LIMIT} s; it was in {path}:{PLACES[where]}" in checked.stderr


async def test_check_ends_where_a_sinks_own_check_blocks(tmp_path):
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, [], check=HOUR) as (relay, path):
            limit = f"relay.delivery.crashes.COMMAND_LIMIT={LIMIT}"
            checked = await asyncio.to_thread(check, relay, limit, online=True)
    assert checked.returncode == 1
    assert f"has stood still for 1 s in {path}:16 check" in checked.stderr
    assert f"no return for {LIMIT} s in sink slow: check" in checked.stderr


def check(relay, *values, online=False):
    words = [*altered(*values, command="check"), *(["--online"] if online else [])]
    return subprocess.run(
        [sys.executable, *words, "--config", relay.config],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=relay.environment,
    )


async def test_a_mended_second_reload_takes_effect_at_once(tmp_path):
    senders = Senders()
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, ["-m", "relay.cli", "run"]) as (relay, _):
            await relay.start()
            plug_in(tmp_path, top=f"open({str(tmp_path / 'tried')!r}, 'w')\n{HOUR}")
            relay.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(PATIENCE):
                while not (tmp_path / "tried").exists():
                    await asyncio.sleep(POLL)
            plug_in(tmp_path)
            relay.process.send_signal(signal.SIGHUP)
            await logged(relay, "starting anew", patience=15)
            assert "begins again" in relay.log.read_text()
            await relay.finish(senders)


@pytest.mark.faults
@pytest.mark.timeout(120)
async def test_a_reload_is_refused_with_the_place_and_changes_nothing(tmp_path):
    senders = Senders()
    async with Receiver() as receiver:
        with relay_with(tmp_path, receiver, ["-m", "relay.cli", "run"]) as (relay, path):
            await relay.start()
            plug_in(tmp_path, top=HOUR)
            relay.process.send_signal(signal.SIGHUP)
            await logged(relay, "the relay goes on with what was read before", patience=60)
            assert f"no end within 30 s; it was in {path}:25" in relay.log.read_text()
            async with Sender(relay.port, senders) as sender:
                assert await sender.send("one", 1) == 200
            await relay.delivered()
