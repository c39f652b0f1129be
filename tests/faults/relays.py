"""The real relay as a process of its own, the crowd that sends to it, and its sinks.

async with Receiver() as receiver:
    relay = Relay(tmp_path, receiver.url)
    async with crowd(relay) as senders:
        await relay.start(); relay.kill(); ...
    await relay.finish(senders)   # a last start, a fresh event, all delivered, a clean stop
    (await relay.verdict(senders, receiver)).sound()
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import orjson
from oracle import Senders, Verdict, in_csv, in_receiver, in_store, integrity, judge, unfinished

from relay.state_directory import StateDirectory
from relay.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds after which something hangs, on a busy machine, too."""
POLL = 0.02
DURING_START = 0.15
"""The share of lives that end before the relay takes callbacks."""
OF_NOBODY_ELSE = 9999
"""The contact of the fresh events."""
CONTROL = "http://relay/api/v1"
RUN = ("-m", "relay.cli", "run")
EAGER = (
    *("-m", "altered"),
    *("relay.health.BACKOFF_FIRST=1", "relay.service.TRY_AGAIN=1"),
    "run",
)
"""A relay that tries a store that broke, or that cannot be opened, again after a second."""

CONFIG = """
server: {{listen: "127.0.0.1:{port}"}}
admin: {{listen: "127.0.0.1:{admin}"}}
store: data/relay.db
plugins: [{plugins}]
sources: {{sumotext: {{limit: {{rate: 1000000/1s, bytes: 10GiB/1s}}}}}}
sinks:
"""
ARCHIVE = """  archive:
    plugin: csv
    options: {path: out/events.csv}
    retry: {initial: 50ms, max: 1s}
    breaker: {cooldown: 1s}
"""
HOOK = """  hook:
    plugin: webhook
    options: {{url: "{url}"}}
    allow_private: [127.0.0.0/8]
    retry: {{initial: 50ms, max: 1s}}
    breaker: {{cooldown: 1s}}
"""


async def within(seconds: float, happened: Callable[[], bool]) -> bool:
    """Wait for it for so many seconds; whether it happened.

    The seconds are counted in polls: where the machine stands still, none passes.
    """
    for _ in range(round(seconds / POLL)):
        if happened():
            return True
        await asyncio.sleep(POLL)
    return happened()


class Relay:
    """`relay run` in a folder of its own, on ports that stay the same over its lives."""

    def __init__(
        self,
        folder: Path,
        url: str | None = None,
        *,
        archive: bool = True,
        sinks: str = "",
        plugins: str = "",
        command: Sequence[str] = RUN,
        under: Sequence[str] = (),
        descriptors: Sequence[int] = (),
        port: int | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self.admin = free_port()
        self.config = folder / "relay.yaml"
        self.store = folder / "data/relay.db"
        self.csv = folder / "out/events.csv"
        self.log = folder / "relay.log"
        self.lives = 0
        self.up = asyncio.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
        self.command = list(command)
        self.under = list(under)
        self._files = archive
        self._descriptors = descriptors
        self._fresh = itertools.count()
        self.config.write_text(
            CONFIG.format(port=self.port, admin=self.admin, plugins=plugins)
            + (ARCHIVE if archive else "")
            + (HOOK.format(url=url) if url else "")
            + sinks
        )

    # its life

    def spawn(self) -> None:
        """Start it; return at once."""
        self.lives += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.under, sys.executable, *self.command, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                pass_fds=self._descriptors,
            )

    async def start(self) -> None:
        """Start it; return when it takes callbacks, fail when it ends instead."""
        self.spawn()
        await self.answers()

    async def up_or_ended(self) -> bool:
        """Start it; whether it got so far as to take callbacks."""
        self.spawn()
        try:
            await self.answers()
        except AssertionError:
            return False
        return True

    async def under_load(self, seconds: float) -> Senders:
        """Send until the relay ends, or for a while; what the senders know."""
        async with crowd(self, size=4) as senders:
            end = time.monotonic() + seconds
            while self.process.poll() is None and time.monotonic() < end:
                await asyncio.sleep(POLL)
        return senders

    async def answers(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self._answers():
                assert self.process.poll() is None, self.last_words()
                await asyncio.sleep(POLL)
        self.up.set()

    def _answers(self) -> bool:
        """Whether the commands' socket is there, and the public one, which comes last."""
        if not self.store.parent.is_dir() or not StateDirectory.around(self.store).is_served():
            return False
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def kill(self) -> None:
        """The end without a word."""
        self.up.clear()
        self.process.kill()
        self.process.wait()

    async def stop(self) -> int:
        """The orderly end; its exit status."""
        self.up.clear()
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait until it ends by itself; its exit status."""
        status = await asyncio.to_thread(self.process.wait, PATIENCE)
        self.up.clear()
        return status

    def close(self) -> None:
        """Leave no process behind."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def last_words(self) -> str:
        return self.log.read_text()[-2000:]

    # what it says

    @contextlib.asynccontextmanager
    async def control(self):
        """A client of the running relay's control."""
        with StateDirectory.around(self.store).control_address() as address:
            transport = httpx.AsyncHTTPTransport(uds=address)
            async with httpx.AsyncClient(
                transport=transport, base_url=CONTROL, timeout=PATIENCE
            ) as client:
                yield client

    async def status(self) -> dict:
        async with self.control() as control:
            return (await control.get("/status")).raise_for_status().json()

    async def delivered(self, patience: float = PATIENCE) -> None:
        """Wait until no callback is in the spill, and no delivery is pending."""
        async with asyncio.timeout(patience), self.control() as control:
            while True:
                status = (await control.get("/status")).raise_for_status().json()
                pending = any(sink["pending"] for sink in status["sinks"].values())
                if not pending and not status["spill"]:
                    return
                await asyncio.sleep(POLL)

    async def fresh(self, senders: Senders) -> None:
        """A fresh event still passes."""
        number = f"fresh-{next(self._fresh)}"
        async with asyncio.timeout(PATIENCE), Sender(self.port, senders) as sender:
            assert await sender.send(number, OF_NOBODY_ELSE) == 200

    async def finish(self, senders: Senders, patience: float = PATIENCE) -> None:
        """Start it unless it runs, pass a fresh event, deliver all there is, and stop."""
        if self.process is None or self.process.poll() is not None:
            await self.start()
        await self.fresh(senders)
        await self.delivered(patience)
        assert await self.stop() == 0, self.last_words()

    async def verdict(self, senders: Senders, receiver=None) -> Verdict:
        """The oracle's word on a relay that has stopped."""
        assert integrity(self.store) == "ok"
        store = await SqliteStore.open(self.store)
        try:
            left = await unfinished(store)
            assert not left, left[:5]
            stored = await in_store(store)
        finally:
            await store.close()
        sinks = {}
        if self._files:
            sinks["archive"] = in_csv(self.csv)
        if receiver is not None:
            sinks["hook"] = in_receiver(request.body for request in receiver.requests)
        return judge(senders, stored, sinks)


async def live(relay, chance):
    """Some life: mostly under load, now and then too short to get that far."""
    if chance.random() < DURING_START:
        relay.spawn()
        await asyncio.sleep(chance.uniform(0, 1.2))
    else:
        await relay.start()
        await asyncio.sleep(chance.uniform(0.05, 1.0))


def activated(sockets: Mapping[str, socket.socket]) -> list[str]:
    """What starts a program with these sockets, each by its name, as systemd would."""
    passed = ",".join(f"{each.fileno()}={name}" for name, each in sockets.items())
    return [sys.executable, str(Path(__file__).with_name("activated.py")), passed]


class Sender:
    """One keep-alive connection that sends callbacks and takes down what is acknowledged."""

    def __init__(self, port: int, senders: Senders, *, padding: int = 0) -> None:
        self._port = port
        self._senders = senders
        self._padding = "x" * padding
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.headers: dict[str, str] = {}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self.hang_up()

    async def send(self, message: str, contact: int = 0, *, close: bool = False) -> int:
        """The status of the answer. Raises OSError or EOFError where none comes."""
        body = (
            f"mobile={2125550000 + contact}&carrierId=TEST&shortcode=84700&key=JOIN"
            f"&msg={message}&padding={self._padding}"
        ).encode()
        reader, writer = self._streams or await self.connect()
        self._senders.sent.add(message)
        try:
            writer.write(
                b"POST /callbacks/sumotext HTTP/1.1\r\nHost: relay\r\n%s"
                b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s"
                % (b"Connection: close\r\n" if close else b"", len(body), body)
            )
            status, answer = await self._answer(reader)
        except BaseException:
            self.hang_up()
            raise
        if status == 200:
            self._senders.acked[orjson.loads(answer)["id"]] = message
        if close or self.headers.get("connection") == "close":
            self.hang_up()
        return status

    async def connect(self):
        """Open the connection; `send` would do it by itself."""
        self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        self.headers = {name.lower(): value for name, value in pairs}
        return int(head[0].split()[1]), await reader.readexactly(
            int(self.headers["content-length"])
        )

    def hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextlib.asynccontextmanager
async def crowd(relay: Relay, *, size: int = 8, pause: float = 0.01, seed: int = 0):
    """Senders at work while the block runs: each message is sent once, whatever becomes of it.

    Each sender has its own few contacts, and sends again as soon as the relay is up.
    """
    senders = Senders()
    tasks = [
        asyncio.create_task(_sends(relay, senders, number, pause, random.Random(seed + number)))
        for number in range(size)
    ]
    try:
        yield senders
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sends(
    relay: Relay, senders: Senders, number: int, pause: float, chance: random.Random
) -> None:
    async with Sender(relay.port, senders) as sender:
        for count in itertools.count():
            await relay.up.wait()
            try:
                async with asyncio.timeout(PATIENCE):
                    await sender.send(f"{number}-{count}", number * 100 + chance.randrange(50))
            except (OSError, EOFError):
                await asyncio.sleep(POLL)  # it is down, or will be noticed as down in a moment
            await asyncio.sleep(chance.uniform(0, 2 * pause))


_CHANCE = random.SystemRandom()
_GIVEN: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on now; below those that the system gives to clients.

    No port is given twice. Hypothesis seeds `random`: two processes would take the same ports.
    """
    for _ in range(100):
        port = _CHANCE.randrange(20000, 32000)
        if port in _GIVEN:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _GIVEN.add(port)
            return port
    raise AssertionError("no free port")


def command(relay: Relay, *words: str) -> subprocess.CompletedProcess[str]:
    """One of the commands, beside the relay."""
    return subprocess.run(
        [sys.executable, "-m", "relay.cli", *words, "--config", relay.config],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
