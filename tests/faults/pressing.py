"""Senders that press on without a pause, or at a steady rate, and take down what fails."""

import asyncio
import contextlib
import itertools
import random
import time

from relays import POLL, Sender

SENDERS = 8
REST = 0.005
"""Seconds between the requests of a sender: far less than a drain waits before it closes
connections that rest, as otherwise one might be closed just when a request sets out."""


PATIENCE = 120.0


def press(relay, senders, failures, stop, rest=REST):
    """Tasks that send until `stop` is set; what fails goes to `failures`."""
    return [
        asyncio.create_task(_sends(relay, senders, failures, number, stop, rest))
        for number in range(SENDERS)
    ]


async def _sends(relay, senders, failures, number, stop, rest):
    """Half of the senders open a connection for each request."""
    chance = random.Random(number)
    close = bool(number % 2)
    async with Sender(relay.port, senders) as sender:
        for count in itertools.count():
            if stop.is_set():
                return
            try:
                async with asyncio.timeout(20):
                    status = await sender.send(
                        f"{number}-{count}", number * 50 + count % 50, close=close
                    )
            except (OSError, EOFError) as error:
                failures.append(repr(error))
            else:
                if status != 200:
                    failures.append(status)
            await asyncio.sleep(chance.uniform(0, 2 * rest))


async def sent(senders, number):
    """Wait until so many requests have been made."""
    async with asyncio.timeout(PATIENCE):
        while len(senders.sent) < number:
            await asyncio.sleep(POLL)


@contextlib.asynccontextmanager
async def trickle(relay, senders, name, *, rate=200.0, failures=None):
    """Callbacks at a steady rate; for how long each waited, from when it was due.

    What fails goes to `failures`, if there are any to be expected.
    """
    waits: list[float] = []
    begun = time.monotonic()

    async def send(first):
        async with Sender(relay.port, senders) as sender:
            for number in itertools.count(first, SENDERS):
                due = begun + number / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                try:
                    status = await sender.send(f"{name}-{number}", number % 900)
                except (OSError, EOFError) as error:
                    status = repr(error)
                if status == 200:
                    waits.append(time.monotonic() - due)
                else:
                    assert failures is not None, status
                    failures.append(status)

    sending = [asyncio.create_task(send(first)) for first in range(SENDERS)]
    try:
        yield waits
        for task in sending:
            assert not task.done(), task
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
