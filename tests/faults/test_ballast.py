"""A disk that something else fills to the last byte: what must go on, goes on."""

import asyncio
import contextlib

import httpx
import pytest
from disks import small_disk
from oracle import Senders
from relays import PATIENCE, POLL, Relay, Sender, command

pytestmark = pytest.mark.timeout(180)

CHUNK = 64 * 1024
NONSENSE = 30
NOTHING = "store_reserve: 0B\n"


def fill_up(path) -> None:
    """Take all that is left of the disk."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (CHUNK, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


async def on_a_full_disk(tmp_path, write, *, running, settings=""):
    """What comes of a command that has to write there."""
    senders = Senders()
    with small_disk(tmp_path / "disk", "64m") as (folder, _):
        relay = Relay(folder)
        relay.log = tmp_path / "relay.log"
        with relay.config.open("a") as file:
            file.write(settings)
        ballast = relay.store.with_name("relay.db.ballast")
        try:
            await relay.start()
            async with Sender(relay.port, senders) as sender:
                assert await sender.send("before") == 200
            if not settings:
                await until(ballast.exists)
            await relay.delivered()
            await quarantined(relay)
            if not running:
                assert await relay.stop() == 0
            fill_up(folder / "filler")
            if running and not settings:
                await until(lambda: not ballast.exists())
            result = await write(relay)
            (folder / "filler").unlink()
            if not running:
                await relay.start()
            if not settings:
                await until(ballast.exists)
            await asyncio.to_thread(command, relay, "sinks", "resume", "archive")
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders)).sound(once=["archive"])
    return result


async def pause(relay):
    """As a person does."""
    return (await asyncio.to_thread(command, relay, "sinks", "pause", "archive")).returncode


async def discard(relay):
    """Give up what is in quarantine, one at a time: more than is free within the log."""
    async with relay.control() as control:
        kept = (await control.get("/quarantine", params={"limit": 100})).json()["items"]
        answers = [
            await control.post("/quarantine/discard", json={"ids": [each["id"]]}) for each in kept
        ]
    assert len(answers) == NONSENSE
    return max(answer.status_code for answer in answers)


async def quarantined(relay):
    """Callbacks that make no sense."""
    async with httpx.AsyncClient(trust_env=False) as http:
        for number in range(NONSENSE):
            url = f"http://127.0.0.1:{relay.port}/callbacks/sumotext"
            answer = await http.post(url, content=f"a={number}&b=".encode() + b"x" * 1_000)
            assert answer.status_code == 422


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(POLL)


async def test_a_relay_goes_on_writing_on_a_full_disk(tmp_path):
    assert await on_a_full_disk(tmp_path, discard, running=True) == 200


async def test_control_without_the_ballast_it_cannot(tmp_path):
    worst = await on_a_full_disk(tmp_path, discard, running=True, settings=NOTHING)
    assert worst == 507


async def test_commands_write_on_a_full_disk_while_no_relay_runs(tmp_path):
    assert await on_a_full_disk(tmp_path, pause, running=False) == 0


async def test_control_without_the_ballast_they_cannot(tmp_path):
    assert await on_a_full_disk(tmp_path, pause, running=False, settings=NOTHING) == 1
