"""A relay in this process with CRM sinks, and what it says of them."""

import asyncio
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import httpx
import yaml
from click.testing import CliRunner
from workers import eventually

from relay import service
from relay.cli import main
from relay.config import loader

OAUTH = {"client_id": "client", "client_secret": "secret", "refresh_token": "refresh-1"}
SECRET = {"client_id": "id", "client_secret": "secret"}
SETTINGS = {
    "server": {"listen": "127.0.0.1:0"},
    "admin": {"listen": "127.0.0.1:0"},
    "sources": {"sumotext": {"country": "US"}},
}
QUICK = {"allow_private": ["127.0.0.0/8"], "retry": {"initial": "10ms", "max": "50ms"}}


def into_hubspot(stub, key="", **options):
    """A sink; `key` has its records be others than those of another sink."""
    return {
        "plugin": "hubspot",
        "map": {"firstname": "Ann", "mobilephone": "{{ data.mobile }}"},
        "options": {"base_url": stub.url, "key": f"{key}{{{{ data.mobile }}}}"} | options,
    }


def into_salesforce(stub, **options):
    return {
        "plugin": "salesforce",
        "map": {"LastName": "Doe", "MobilePhone": "{{ data.mobile }}"},
        "options": {"login_url": stub.url} | SECRET | options,
    }


class Relay:
    """A running relay."""

    def __init__(self, running, http):
        self._running = running
        self._http = http

    async def send(self, number, **more):
        parameters = {"mobile": f"212555{number:04}", "carrierId": "V", "key": "JOIN"} | more
        url = f"http://127.0.0.1:{self._running.address[1]}/callbacks/sumotext"
        assert (await self._http.get(f"{url}?{urlencode(parameters)}")).status_code == 200

    async def states(self):
        return (await self._running.readings()).states

    async def counts(self):
        """Of each sink: pending, delivered, dead."""
        found = (await self._running.readings()).sinks
        return {name: (each.pending, each.delivered, each.dead) for name, each in found.items()}

    async def delivered(self, number):
        """Wait until each sink has delivered so many, and nothing waits."""

        async def all_there():
            counts = await self.counts()
            return counts and set(counts.values()) == {(0, number, 0)}

        await eventually(all_there)


def written(folder, sinks):
    """relay.yaml with these sinks."""
    path = folder / "relay.yaml"
    settings = SETTINGS | {"sinks": {name: QUICK | sink for name, sink in sinks.items()}}
    path.write_text(yaml.safe_dump(settings))
    return path


async def command(folder, *words):
    """What a command says; it has to succeed."""
    given = [*words, "--config", str(folder / "relay.yaml")]
    result = await asyncio.to_thread(CliRunner().invoke, main, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@asynccontextmanager
async def relaying(folder, sinks, clock=None):
    """A relay with these sinks; in the same folder it goes on with the store of the last."""
    path = written(folder, sinks)
    async with (
        service.started(loader.load(path, {}), clock=clock) as running,
        httpx.AsyncClient(trust_env=False, verify=False) as http,
    ):
        await running.opened()
        yield Relay(running, http)
