"""The data folder is deleted while the relay runs: what is acknowledged from then on is kept."""

import asyncio
import contextlib
import shutil

import httpx
from oracle import Senders
from relays import EAGER, POLL, Relay, Sender
from stubs.receiver import Receiver

NOTICED_WITHIN = 30.0


def delete(folder) -> None:
    """Delete it, whatever the relay adds to it and takes from it in between."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


async def logged(relay, words) -> None:
    async with asyncio.timeout(NOTICED_WITHIN):
        while words not in relay.log.read_text():
            await asyncio.sleep(POLL)


async def has_its_store(relay) -> None:
    async with asyncio.timeout(NOTICED_WITHIN):
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await relay.status()
                return
            await asyncio.sleep(POLL)


async def test_callbacks_after_a_deletion_are_kept_and_it_is_told(tmp_path):
    async with Receiver() as receiver:
        relay = Relay(tmp_path / "relay", receiver.url, archive=False, command=EAGER)
        try:
            await relay.start()
            async with Sender(relay.port, Senders()) as sender:
                assert await sender.send("before") == 200
            delete(relay.store.parent)
            senders = Senders()
            async with Sender(relay.port, senders) as sender:
                for number in range(3):
                    assert await sender.send(f"after-{number}", number) == 200
            await logged(relay, "was deleted or replaced")
            await logged(relay, "the store can be opened again")
            await has_its_store(relay)
            await relay.finish(senders)
        finally:
            relay.close()
        verdict = await relay.verdict(senders, receiver)
    assert len(senders.acked) >= 3
    assert not verdict.missing["store"]
    assert not verdict.missing["hook"]


async def test_a_folder_that_is_deleted_twice_costs_nothing_of_the_spill(tmp_path):
    """The second time, the relay has no store, and its spill goes with the folder."""
    async with Receiver() as receiver:
        relay = Relay(tmp_path / "relay", receiver.url, archive=False)
        try:
            await relay.start()
            senders = Senders()
            async with Sender(relay.port, senders) as sender:
                delete(relay.store.parent)
                assert await sender.send("0", 0) == 200
            await logged(relay, "callbacks are kept in")
            delete(relay.store.parent)
            async with Sender(relay.port, senders) as sender:
                assert await sender.send("1", 1) == 200
                assert ".spill was deleted or replaced" in relay.log.read_text()
            await has_its_store(relay)
            await relay.finish(senders)
        finally:
            relay.close()
        verdict = await relay.verdict(senders, receiver)
    assert len(senders.acked) >= 2
    assert not verdict.missing["store"]
