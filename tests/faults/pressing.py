"""Senders that press on without a pause, and take down every request that fails."""

import asyncio
import itertools
import random

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
