"""Plugins at their worst: one that kills the process, one that blocks it, one that hangs."""

import asyncio
import re

import httpx
import pytest
from oracle import Senders, in_receiver, in_store
from relays import PATIENCE, POLL, Relay, Sender
from stubs.receiver import Receiver

from relay.store import State
from relay.store.sqlite import SqliteStore

FATAL = """
import os
import relay

class Fatal(relay.Sink):
    async def send(self, delivery):
        if delivery.event.data["message"] == "poison":
            os._exit(9)
        response = await self.http.post("{url}", json=delivery.record)
        response.raise_for_status()

@relay.hookimpl
def register_sinks(register):
    register("fatal", Fatal)
"""
BLOCKING = """
import os
import time
import relay

class Blocking(relay.Sink):
    async def send(self, delivery):
        while not os.access("seen", os.F_OK): time.sleep(0.01)

@relay.hookimpl
def register_sinks(register):
    register("blocking", Blocking)
"""
HANGING = """
import asyncio
import relay

class Hanging(relay.Sink):
    async def send(self, delivery):
        self.log.warning("it hangs")
        await asyncio.sleep(3600)

@relay.hookimpl
def register_sinks(register):
    register("hanging", Hanging)
"""
MOST_DEATHS = 12


@pytest.fixture
def plugin(tmp_path):
    """Drop a plugin into the plugins folder; returns its path."""

    def drop(name, code):
        path = tmp_path / "plugins" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
        return path

    return drop


def with_sink(folder, plugin, receiver, **options):
    """A relay with this plugin's sink beside the csv and the webhook sink."""
    sink = f"  {plugin}: {{plugin: {plugin}, allow_private: [127.0.0.0/8]}}\n"
    return Relay(folder, receiver.url, sinks=sink, plugins="plugins", **options)


async def send(relay, senders, messages):
    async with Sender(relay.port, senders) as sender:
        for contact, message in enumerate(messages):
            try:
                assert await sender.send(message, contact) == 200
            except (OSError, EOFError):
                return


async def deaths_until_alive(relay) -> tuple[int, int]:
    """Start it again and again until it delivers everything without dying.

    How often it died, and how often its sink was held for that and an operator resumed it.
    """
    resumed = 0
    for deaths in range(MOST_DEATHS):
        relay.spawn()
        try:
            await relay.answers()
            resumed += await resume_if_held(relay)
            await relay.delivered()
        except (AssertionError, OSError, httpx.HTTPError):
            assert await relay.ended() == 9, relay.last_words()
        else:
            return deaths, resumed
    raise AssertionError(f"it died {MOST_DEATHS} times")


async def resume_if_held(relay) -> bool:
    if (await relay.status())["sinks"]["fatal"]["state"] != "held":
        return False
    async with relay.control() as control:
        (await control.post("/sinks/fatal/resume")).raise_for_status()
    return True


async def test_an_event_that_kills_the_process_is_found_and_put_aside(tmp_path, plugin):
    senders = Senders()
    async with Receiver() as receiver, Receiver() as beside:
        plugin("fatal", FATAL.format(url=beside.url))
        relay = with_sink(tmp_path, "fatal", receiver)
        try:
            await relay.start()
            await send(relay, senders, [*map(str, range(20)), "poison", *map(str, range(20, 60))])
            assert await relay.ended() == 9
            deaths, resumed = await deaths_until_alive(relay)
            await send(relay, senders, map(str, range(100, 120)))
            await relay.finish(senders)
        finally:
            relay.close()
        store = await SqliteStore.open(relay.store)
        try:
            rows = await store.deliveries([s for s in State if s != State.DELIVERED])
            messages = dict(await in_store(store))
        finally:
            await store.close()
        assert [(row.sink, messages[row.event_id], row.state) for row in rows] == [
            ("fatal", "poison", State.DEAD)
        ]
        assert "the relay died 3 times while only this was in flight" in rows[0].error
        assert senders.acked.items() <= messages.items()
        # What others were sent is theirs whatever this one does; they may get it more than once.
        everything = in_receiver(request.body for request in receiver.requests)
        assert set(everything) == set(messages.items())
        fatal = in_receiver(request.body for request in beside.requests)
        assert set(fatal) == {item for item in messages.items() if item[1] != "poison"}
    assert resumed
    print(f"\n{1 + deaths} deaths, {resumed} resumes, then 1 dead delivery")


async def test_a_plugin_that_blocks_is_named_in_the_log(tmp_path, plugin):
    senders = Senders()
    async with Receiver() as receiver:
        path = plugin("blocking", BLOCKING)
        line = BLOCKING[: BLOCKING.index("time.sleep")].count("\n") + 1
        stood_still = re.compile(rf"has stood still for .* in {re.escape(str(path))}:{line} send")
        relay = with_sink(tmp_path, "blocking", receiver)
        try:
            await relay.start()
            await send(relay, senders, ["one"])
            async with asyncio.timeout(PATIENCE):
                while not stood_still.search(relay.log.read_text()):
                    await asyncio.sleep(POLL)
            (tmp_path / "seen").touch()
            await relay.finish(senders)
        finally:
            relay.close()


async def test_a_plugin_that_hangs_keeps_nobody_else_waiting(tmp_path, plugin):
    senders = Senders()
    async with Receiver() as receiver:
        plugin("hanging", HANGING)
        relay = with_sink(tmp_path, "hanging", receiver)
        try:
            await relay.start()
            await send(relay, senders, map(str, range(100)))
            async with asyncio.timeout(PATIENCE), relay.control() as control:
                while True:
                    sinks = (await control.get("/status")).json()["sinks"]
                    if sinks["hook"]["delivered"] == sinks["archive"]["delivered"] == 100:
                        break
                    await asyncio.sleep(0.02)
            assert sinks["hanging"]["pending"] == 100
            assert await relay.stop() == 0
        finally:
            relay.close()
        sent = in_receiver(request.body for request in receiver.requests)
        assert dict(sent) == senders.acked


async def test_a_plugin_that_hangs_does_not_hold_up_a_start_after_kills(tmp_path, plugin):
    """Its delivery is then suspected of having killed the process, and goes alone."""
    senders = Senders()
    async with Receiver() as receiver:
        plugin("hanging", HANGING)
        relay = with_sink(tmp_path, "hanging", receiver)
        try:
            for life, message in enumerate("abc", start=1):
                await relay.start()
                async with asyncio.timeout(PATIENCE):
                    await send(relay, senders, [message])
                    while relay.log.read_text().count("it hangs") < life:
                        await asyncio.sleep(0.02)
                relay.kill()
            await relay.start()
            assert await relay.stop() == 0
        finally:
            relay.close()
    assert len(senders.acked) == 3
