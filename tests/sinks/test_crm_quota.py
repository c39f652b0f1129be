"""The CRM sinks and the calls of a day: a real worker and store, a clock moved by hand."""

import asyncio
from contextlib import asynccontextmanager
from typing import NamedTuple

import hubspotsink
import pytest
import salesforcesink
from arrivals import arrival
from stubs.hubspot import HubSpotStub
from stubs.vendor import serving
from workers import PATIENCE, counts, eventually, landed, reached, running

from relay.quota import LOOK_AGAIN
from relay.store.sqlite import SqliteStore
from relay.templating.expressions import Compiler

REFUSED = {401, 403, 429}
MAPS = {
    "salesforce": {"LastName": "Doe", "MobilePhone": "{{ data.mobile }}"},
    "hubspot": {"firstname": "Ann", "mobilephone": "{{ data.mobile }}"},
}


class Crm(NamedTuple):
    """A vendor that allows a hundred calls a day, and the sink before it."""

    stub: object
    sink: object
    map: object


@asynccontextmanager
async def salesforce():
    async with salesforcesink.connected(columns=tuple(MAPS["salesforce"])) as (stub, sink):
        yield stub, sink


@asynccontextmanager
async def hubspot():
    stub = HubSpotStub(token=hubspotsink.TOKEN)
    async with (
        serving(stub.app) as url,
        hubspotsink.opened(url, columns=tuple(MAPS["hubspot"])) as sink,
    ):
        yield stub, sink


@pytest.fixture(params=[salesforce, hubspot], ids=lambda vendor: vendor.__name__)
async def crm(request, clock):
    async with request.param() as (stub, sink):
        stub.api_most = 100
        sink.quota._clock = clock
        yield Crm(stub, sink, Compiler().mapping(MAPS[request.param.__name__]))


@pytest.fixture
async def store(tmp_path, clock):
    opened = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    yield opened
    await opened.close()


async def add(store, number, **more):
    for _ in range(number):
        await store.add(arrival(**more))


async def pass_time(clock, store, pending):
    """Move the clock on, a minute at a time, until so few are pending."""
    async with asyncio.timeout(PATIENCE):
        while (await counts(store))[0] > pending:
            await clock.advance(60.0)
            await asyncio.sleep(0.02)


async def test_from_nine_tenths_on_only_opt_outs_go_and_then_all_by_itself(crm, store, clock):
    crm.stub.api_used = 85
    async with running(store, clock, crm.sink, map=crm.map) as worker:
        await add(store, 20)
        await eventually(lambda: "only opt-outs go" in (worker.status().reason or ""))
        await landed(store)
        pending, delivered, _ = await counts(store)
        assert (crm.stub.api_used, pending + delivered) == (90, 20)
        await add(store, 1, consent="opt_out")
        await reached(store, pending, delivered + 1, 0)
        crm.stub.api_used = 0
        await clock.advance(0.9 * LOOK_AGAIN)
        assert crm.stub.api_used == 0
        await pass_time(clock, store, pending=0)
        assert await counts(store) == (0, 21, 0)
        assert worker.status().reason is None
    assert not REFUSED & {call.status for call in crm.stub.calls}


async def test_when_others_have_used_all_of_them_nothing_is_lost(crm, store, clock):
    async with running(store, clock, crm.sink, map=crm.map) as worker:
        await add(store, 1)
        await reached(store, 0, 1, 0)
        crm.stub.api_used = 100
        await add(store, 5)
        await eventually(lambda: worker.status().state == "paused")
        await clock.advance(3600.0)
        crm.stub.api_used = 0
        await pass_time(clock, store, pending=0)
        assert await counts(store) == (0, 6, 0)
        assert worker.status().state == "running"
