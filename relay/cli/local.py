"""What a command does in its own process: the API on the store, a sink's calls to its vendor."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import httpx

from relay.account import Accounts
from relay.api.app import make_app
from relay.cli import client
from relay.clock import SystemClock
from relay.config.loader import Config
from relay.delivery.manager import NoWorkers
from relay.sources.router import Router
from relay.spill.disk import DiskGuard
from relay.store import StoreLocked
from relay.store.sqlite import SqliteStore, notes
from relay.store.sqlite.connection import look_into


@asynccontextmanager
async def connection(config: Config) -> AsyncIterator[client.ApiClient | None]:
    """A client of this process, which owns the store; None where another process holds it."""
    clock = SystemClock()
    DiskGuard(config.state, config.store_reserve).release_ballast()
    store = None
    with suppress(StoreLocked):
        store = await SqliteStore.open(client.store_file(config), clock=clock)
    if store is None:
        yield None
        return
    try:
        app = make_app(Router(config, store, clock), store, config, NoWorkers(store))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://relay") as http:
            yield client.ApiClient(sender(http), live=False)
    finally:
        await store.close()


def sender(http: httpx.AsyncClient) -> client.Send:
    """What sends a request of a `Client` through httpx."""

    async def send(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        response = await http.request(method, path, content=body)
        return response.status_code, response.content

    return send


def accounts_of(config: Config) -> Accounts:
    """The vendors' accounts, with what the store keeps of them, as in the running relay."""
    return Accounts(_AccountNotes(config))


class _AccountNotes:
    """Reads the store's file, as no secret goes through the API; writes through the API."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def recall(self, account: str, name: str) -> str | None:
        return await asyncio.to_thread(self._read, account, name)

    def _read(self, account: str, name: str) -> str | None:
        if not client.has_store(self._config):
            return None
        with closing(look_into(client.store_file(self._config))) as store:
            return notes.recall(store, account, name)

    async def keep(self, account: str, name: str, value: str) -> None:
        async with client.session(self._config) as session:
            await session.post("/accounts", account=account, name=name, value=value)
