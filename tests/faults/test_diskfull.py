"""A disk that fills up, spill and all: refused with 503 until there is space, then well again."""

import asyncio
import contextlib
import subprocess
import sys
import time

import disks
import httpx
import pytest
from oracle import Senders
from relays import Relay, Sender
from stubs.receiver import Receiver

HEALS_WITHIN = 5.0
BIG, SMALL = 20_000, 200


@pytest.fixture
def small_disk(tmp_path):
    with disks.small_disk(tmp_path / "disk") as disk:
        yield disk


async def fill(relay, senders) -> int:
    """Send until the disk is full to the last page; how many callbacks were refused."""
    refused = 0
    for number in range(2000):
        padding = SMALL if refused else BIG
        async with Sender(relay.port, senders, padding=padding) as sender:
            status = await sender.send(f"fill-{number}", number)
            if status == 503:
                assert int(sender.headers["retry-after"]) > 0
                refused += 1
            else:
                assert status == 200
        if refused > 20:
            return refused
    raise AssertionError("the disk never filled up")


async def kept(relay) -> int:
    """How many callbacks are in the store or in the spill."""
    status = await relay.status()
    return status["events"] + status["spill"]


async def has_its_store(relay) -> None:
    """Wait until it does not make do with the spill alone, which ends as it starts anew."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await relay.status()
                return
            await asyncio.sleep(0.05)


async def seconds_to_heal(relay, senders) -> float:
    """Send every now and then until it is accepted."""
    begun = time.monotonic()
    async with Sender(relay.port, senders) as sender:
        for number in range(1000):
            if await sender.send(f"again-{number}", number) == 200:
                return time.monotonic() - begun
            await asyncio.sleep(0.05)
    raise AssertionError("it never healed")


def command(relay, *words) -> str:
    """What a command prints, run as people do."""
    return subprocess.run(
        [sys.executable, "-m", "relay.cli", *words, "--config", relay.config],
        check=True,
        capture_output=True,
        text=True,
        env=relay.environment,
    ).stdout


async def readyz(port) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(f"http://127.0.0.1:{port}/readyz")


async def not_ready(relay, senders) -> None:
    """Everybody who asks hears that callbacks are refused, and the operator why."""
    async with asyncio.timeout(HEALS_WITHIN):
        while relay.store.with_name("relay.db.ballast").exists():  # with that, a few can be kept
            await asyncio.sleep(0.05)
        async with Sender(relay.port, senders, padding=BIG) as sender:
            while (await readyz(relay.port)).status_code == 200:
                await sender.send(f"more-{len(senders.sent)}")
                await asyncio.sleep(0.05)
    answer = await readyz(relay.admin)
    report = answer.json()
    assert (answer.status_code, report["ready"]) == (503, False)
    assert report["store"] == {"state": "refuses"}
    assert "callbacks are refused: " in report["reasons"][0]
    assert "full" in report["reasons"][0]
    said = await asyncio.to_thread(command, relay, "status")
    assert "Callbacks are refused (503): " in said


async def ready_again(relay) -> None:
    """By itself, as nobody may send anything to a relay that is not ready."""
    async with asyncio.timeout(HEALS_WITHIN):
        while (await readyz(relay.port)).status_code != 200:
            await asyncio.sleep(0.05)
    assert (await readyz(relay.admin)).json()["ready"]


@pytest.mark.smoke
async def test_a_full_disk_costs_nothing_that_was_acknowledged(small_disk):
    folder, grow = small_disk
    senders = Senders()
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url)
        relay.log = folder.with_name("relay.log")  # its log is not what this is about
        try:
            await relay.start()
            refused = await fill(relay, senders)
            assert await kept(relay) >= len(senders.acked)
            assert "events, 0 callbacks in quarantine" in await asyncio.to_thread(
                command, relay, "status"
            )
            assert relay.process.poll() is None
            await not_ready(relay, senders)
            acked = len(senders.acked)
            grow()
            await ready_again(relay)
            healed = await seconds_to_heal(relay, senders)
            assert healed < HEALS_WITHIN
            await relay.finish(senders)
        finally:
            relay.close()
        verdict = await relay.verdict(senders, receiver)
    print(
        f"\n{acked} acknowledged before the disk was full, {refused} refused, accepted again after"
        f" {healed:.2f} s, {verdict.found} stored, {verdict.lost()} lost"
    )
    verdict.sound(once=["archive"])
    assert acked > 20
    assert "Traceback" not in relay.log.read_text()


async def refuses_or_says_why(relay, senders) -> bool:
    """A start needs a page or two: without them it ends at once, and what restarts it heals it."""
    if await relay.up_or_ended():
        async with Sender(relay.port, senders, padding=BIG) as sender:
            # A stop and a start may free a page or two, which are soon used up.
            texts = [f"full-{relay.lives}-{number}" for number in range(20)]
            assert 503 in [await sender.send(text) for text in texts]
        return True
    assert await relay.ended() == 1
    assert "disk is full" in relay.last_words().splitlines()[-1]
    return False


async def test_a_relay_that_stops_on_a_full_disk_starts_there_again(small_disk):
    folder, grow = small_disk
    senders = Senders()
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url)
        relay.log = folder.with_name("relay.log")  # its log is not what this is about
        try:
            await relay.start()
            await fill(relay, senders)
            assert await relay.stop() == 0
            if await refuses_or_says_why(relay, senders):
                relay.kill()
            up = await refuses_or_says_why(relay, senders)
            grow()
            if not up:
                await relay.start()
            assert await seconds_to_heal(relay, senders) < HEALS_WITHIN
            await has_its_store(relay)
            assert await kept(relay) >= len(senders.acked)
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound(once=["archive"])
    assert "Traceback" not in relay.log.read_text()
