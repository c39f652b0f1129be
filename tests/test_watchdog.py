"""The watchdog is fed while both the event loop and the store's writer are alive."""

import asyncio
import os
import time

import pytest

from relay.store import StoreFull
from relay.systemd import Watchdog, interval


class Meals:
    """Stands for the notifier; counts."""

    def __init__(self):
        self.number = 0

    def feed_watchdog(self):
        self.number += 1


@pytest.fixture
async def meals():
    return Meals()


@pytest.fixture
async def watchdog(meals):
    watchdog = Watchdog(meals, 0.01)
    watchdog.start()
    yield watchdog
    watchdog.stop()


async def more(meals, number=3):
    async with asyncio.timeout(5):
        wanted = meals.number + number
        while meals.number < wanted:
            await asyncio.sleep(0.005)


async def test_it_is_fed_from_the_start_while_there_is_no_store_yet(watchdog, meals):
    await more(meals)


async def test_it_is_fed_while_the_disk_hangs_but_not_for_ever(meals):
    watchdog = Watchdog(meals, 0.02, longest_hang=0.3)
    begun = time.monotonic()
    watchdog.require(asyncio.Event().wait)
    watchdog.start()
    await more(meals)
    async with asyncio.timeout(5):
        while True:
            before = meals.number
            await asyncio.sleep(0.2)
            if meals.number == before:
                break
    assert time.monotonic() - begun > 0.3
    watchdog.stop()


async def test_it_is_not_fed_while_the_writer_does_not_answer(meals):
    watchdog = Watchdog(meals, 0.01, longest_hang=0.0)
    watchdog.start()
    answered = asyncio.Event()
    asked = asyncio.Event()

    async def pulse():
        asked.set()
        await answered.wait()

    watchdog.require(pulse)
    await asked.wait()
    before = meals.number
    await asyncio.sleep(0.1)
    assert meals.number == before
    answered.set()
    await more(meals)
    watchdog.stop()


async def test_it_is_not_fed_while_the_loop_stands_still(watchdog, meals):
    await more(meals)
    before = meals.number
    time.sleep(0.1)
    assert meals.number == before
    await more(meals)


async def test_a_store_that_cannot_write_is_alive(watchdog, meals):
    async def pulse():
        raise StoreFull("the disk is full")

    watchdog.require(pulse)
    await more(meals)


async def test_when_the_store_closes_the_loop_alone_has_to_turn(watchdog, meals):
    asked = asyncio.Event()

    async def pulse():
        asked.set()
        await asyncio.sleep(0)

    watchdog.require(pulse)
    await asked.wait()
    watchdog.require(None)
    await more(meals)


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
    ],
)
def test_how_often_it_is_fed(environ, seconds):
    assert interval(environ) == seconds


async def test_nobody_is_fed_where_nobody_waits(meals):
    watchdog = Watchdog(meals, None)
    watchdog.start()
    await asyncio.sleep(0.02)
    watchdog.stop()
    assert meals.number == 0
