"""Waiting for one thing or another."""

import asyncio
from collections.abc import Iterable
from typing import Any

from relay.clock import Clock


async def until(event: asyncio.Event, clock: Clock, seconds: float) -> None:
    """Return when the event is set, or so many seconds have passed."""
    if seconds == float("inf"):
        await event.wait()
        return
    tasks = [
        asyncio.ensure_future(event.wait()),
        asyncio.ensure_future(clock.sleep(seconds)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel the tasks and wait until they are over."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
