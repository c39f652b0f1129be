"""The installed relay, in a machine of its own: its unit, its process, its words."""

import asyncio
import itertools
import json
import time

from oracle import in_csv, in_store, integrity, judge, unfinished
from relays import Sender

from relay.install import CONFIG, PLUGINS, SERVICE, SOCKET
from relay.store.sqlite import SqliteStore

STORE = "/var/lib/relay/relay.db"
TOKENS = 'tokens: ["${credential:sumotext-token}"]'
NEIGHBOURS = "allow_from: [127.0.0.0/8]"
TAKEN = "callbacks are taken on"
UNITS = (SOCKET.name, SERVICE.name)


class Installed:
    """The relay in the machine. Each test has it anew, as it is just after its installation."""

    port = 8080

    def __init__(self, machine):
        self.machine = machine
        self.run = machine.run
        self._numbers = itertools.count()
        self._original = machine.file(CONFIG).read_text()
        self._text = self._original

    def renew(self, *, token=True):
        """Forget what there was. Without a token the usual senders can be used."""
        self.run("systemctl", "stop", *UNITS)
        left = f"/var/lib/relay/* /var/lib/relay/.[a-z]* {SERVICE}.d {PLUGINS}/*"
        self.run("sh", "-c", f"rm -rf {left}")
        self.run("journalctl", "--rotate", "--vacuum-size=1")
        self._text = self._original if token else self._original.replace(TOKENS, NEIGHBOURS)
        self.configure()
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "start", *UNITS)

    def configure(self, sinks=""):
        """relay.yaml as it was installed, with these lines more under `sinks`."""
        self.machine.file(CONFIG).write_text(self._text + sinks)

    def plug_in(self, text):
        """Have a plugin `odd` of this text, in a folder, and a sink for it; where it is."""
        place = PLUGINS / "odd/__init__.py"
        self.machine.file(place).parent.mkdir()
        self.machine.file(place).write_text(text)
        self.configure("  odd: {plugin: odd}\n")
        return place

    def drop_in(self, text):
        """Change the unit, as `systemctl edit` does."""
        place = self.machine.file(f"{SERVICE}.d/trial.conf")
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "restart", SERVICE.name)

    @property
    def pid(self):
        return int(self.machine.shown("MainPID"))

    def starts(self):
        """How often it got so far as to take callbacks."""
        return self.machine.journal().count(TAKEN)

    def complaints(self):
        """What the relay has warned of."""
        lines = self.machine.journal().splitlines()
        return [line for line in lines if '"level":"info"' not in line and line.startswith("{")]

    def of_process(self, name):
        """A file of the relay's in /proc."""
        return self.run("cat", f"/proc/{self.pid}/{name}")

    async def reload(self):
        """Have relay.yaml read again; return when that is done."""
        begun = self.starts()
        await asyncio.to_thread(self.run, "systemctl", "reload", SERVICE.name)
        await self.until(lambda: self.starts() > begun)
        await self.until(lambda: self.machine.shown("ActiveState") == "active")

    async def until(self, condition, seconds=30):
        """Wait for a condition; what it gave."""
        end = time.monotonic() + seconds
        while not (found := await asyncio.to_thread(condition)):
            if time.monotonic() > end:
                raise TimeoutError(self.machine.journal()[-3000:])
            await asyncio.sleep(0.05)
        return found

    async def passes(self, senders):
        """A fresh callback is acknowledged."""
        async with asyncio.timeout(30), Sender(self.port, senders) as sender:
            assert await sender.send(f"fresh-{next(self._numbers)}", 9999) == 200

    async def verdict(self, senders):
        """The oracle's word, after a last callback, all deliveries and an orderly stop."""
        await self.passes(senders)
        await self.until(lambda: not self._pending(), seconds=600)
        self.run("systemctl", "stop", *UNITS)
        path = self.machine.file(STORE)
        assert integrity(path) == "ok"
        store = await SqliteStore.open(path)
        try:
            assert await unfinished(store) == []
            stored = await in_store(store)
        finally:
            await store.close()
        return judge(senders, stored, {"archive": in_csv(path.with_name("events.csv"))})

    def _pending(self):
        sinks = json.loads(self.run("relay", "status", "--json"))["sinks"].values()
        return sum(sink["pending"] for sink in sinks)
