"""A relay whose spill is in a folder elsewhere, who sends to it, and what must hold in the end."""

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import yaml
from oracle import in_store
from relays import EAGER, PATIENCE, POLL, Relay, Sender
from stubs.receiver import Receiver

from relay.store.sqlite import SqliteStore

WITHOUT = [str(Path(__file__).parent / "unspilled.py")]


@asynccontextmanager
async def relaying(folder, elsewhere, *, spilling=True, command=EAGER):
    """A relay whose spill is in a folder `elsewhere`, with what it delivers to and who sends."""
    folder.mkdir(exist_ok=True)
    async with Receiver() as receiver:
        run = command if spilling else WITHOUT
        relay = Relay(folder, receiver.url, archive=False, command=run)
        relay.log = elsewhere / "relay.log"
        relay.spill = elsewhere / "relay.spill"
        with relay.config.open("a") as file:
            file.write(f"store_fallback: {relay.spill}\n")
        relay.receiver = receiver
        try:
            yield relay
        finally:
            relay.close()


async def sends(relay, senders, numbers, *, padding=0, contacts=7) -> list[int]:
    """Send these one after another; the statuses, 0 where no answer came."""
    statuses = []
    async with Sender(relay.port, senders, padding=padding) as sender:
        for number in numbers:
            try:
                statuses.append(await sender.send(f"{number}", number % contacts))
            except (OSError, EOFError):
                statuses.append(0)
    return statuses


async def verified(relay, senders, *, once=("hook",)):
    """All is delivered, a fresh event passes, nothing acknowledged is missing or there twice."""
    await home(relay)
    await relay.finish(senders)
    verdict = await relay.verdict(senders, relay.receiver)
    verdict.sound(once=once)
    await in_order(relay, senders)
    assert "Traceback" not in relay.log.read_text()
    return verdict


async def home(relay) -> None:
    """Wait until the spill is gone."""
    async with asyncio.timeout(PATIENCE):
        while relay.spill.exists():
            await asyncio.sleep(POLL)


async def in_order(relay, senders) -> None:
    """What each sender was told stands in the store in the order in which it was told.

    What two of them had under way at once has no order.
    """
    store = await SqliteStore.open(relay.store)
    try:
        stored = [event for event, _ in await in_store(store) if event in senders.acked]
    finally:
        await store.close()
    assert by_sender(stored, senders) == by_sender(senders.acked, senders)


def by_sender(events, senders) -> dict[str, list[str]]:
    """The events of each sender, which is the first word of its messages."""
    theirs = defaultdict(list)
    for event in events:
        theirs[senders.acked[event].partition("-")[0]].append(event)
    return theirs


async def admin(relay, path):
    """What the admin listener says."""
    listen = yaml.safe_load(relay.config.read_text())["admin"]["listen"]
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(f"http://{listen}{path}")
