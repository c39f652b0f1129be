"""The whole relay in this process with one sink, `crm`, as a test sees it: callbacks, commands."""

import asyncio
import itertools
import json
from contextlib import asynccontextmanager

import httpx
import yaml
from click.testing import CliRunner

from relay import service
from relay.cli import main
from relay.config import loader

SETTINGS = {
    "server": {"listen": "127.0.0.1:0"},
    "admin": {"listen": "127.0.0.1:0"},
    "sources": {"sumotext": {"country": "US"}},
}
SOON = {"retry": {"initial": "10ms", "max": "50ms"}, "breaker": {"failures": 1000}}
PATIENCE = 20.0


class Relay:
    """A running relay; its commands run in a thread, as they have an event loop of their own."""

    def __init__(self, path, loaded, running, http):
        self.path = path
        self.config = loaded
        self._running = running
        self._url = f"http://127.0.0.1:{running.address[1]}/callbacks/sumotext"
        self._http = http
        self._numbers = itertools.count(1)

    async def send(self, contact, message="hello"):
        """A text message of this contact; gives the event's id."""
        parameters = {
            "mobile": f"212555{contact:04}",
            "smsid": f"m{next(self._numbers)}",
            "shortcode": "84700",
            "key": "JOIN",
            "msg": message,
            "Name": f"Name{contact}",
        }
        answer = await self._http.get(self._url, params=parameters)
        assert answer.status_code == 200
        return answer.json()["id"]

    async def send_many(self, contacts, message="hello"):
        return await asyncio.gather(*(self.send(each, message) for each in contacts))

    async def backlog(self, contacts):
        """Have events wait for all of these before the first is delivered."""
        await self.command("sinks", "pause", "crm")
        await self.send_many(contacts)
        await self.command("sinks", "resume", "crm")

    async def command(self, *arguments):
        """What a command says; it has to succeed."""
        words = [*arguments, "--config", str(self.path)]
        result = await asyncio.to_thread(CliRunner().invoke, main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def asked(self, *arguments):
        """What a command says as JSON."""
        return json.loads(await self.command(*arguments, "--json"))

    async def status(self):
        """The counts of the sink, its `state`, and the `reason` for that."""
        found = await self._running.readings()
        counts = found.sinks["crm"]
        told = {name: getattr(counts, name) for name in ("pending", "delivered", "dead")}
        return told | found.states["crm"].to_dict()

    async def event(self, event_id):
        """The event in the store, with its deliveries."""
        return await self._running._store.event(event_id)

    async def reached(self, **expected):
        """Wait until the sink's counts and state are these."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await self.status()
                if {name: found[name] for name in expected} == expected:
                    return found
                await asyncio.sleep(0.01)


@asynccontextmanager
async def relaying(folder, sink, *, clock=None):
    """A relay with the sink of these settings; what they leave out is set for a quick test."""
    path = folder / "relay.yaml"
    crm = {"allow_private": ["127.0.0.0/8"]} | SOON | sink
    path.write_text(yaml.safe_dump(SETTINGS | {"sinks": {"crm": crm}}))
    limits = httpx.Limits(max_connections=20)
    loaded = loader.load(path, {})
    async with (
        service.started(loaded, clock=clock) as running,
        httpx.AsyncClient(trust_env=False, verify=False, limits=limits, timeout=PATIENCE) as http,
    ):
        await running.opened()  # on a busy machine it takes callbacks before
        yield Relay(path, loaded, running, http)
