"""Accounts, where a command itself calls a sink's other side."""

import asyncio
from contextlib import closing

from relay.account import Accounts
from relay.cli import client
from relay.config.loader import Config
from relay.store.sqlite import accounts
from relay.store.sqlite.connection import look_into


def of_store(config: Config) -> Accounts:
    """Those that go on with what the store keeps, as the relay's own do."""
    return Accounts(_Store(config))


class _Store:
    """Read from its file: no secret goes through control. Written by whoever owns it."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def recall(self, account: str, name: str) -> str | None:
        return await asyncio.to_thread(self._read, account, name)

    def _read(self, account: str, name: str) -> str | None:
        if not client.has_store(self._config):
            return None
        with closing(look_into(client.store_file(self._config))) as store:
            return accounts.recall(store, account, name)

    async def keep(self, account: str, name: str, value: str) -> None:
        async with client.session(self._config) as session:
            await session.post("/accounts", account=account, name=name, value=value)
