"""The soak: callbacks at a steady rate for an hour, with random faults; nothing may grow.

`python tests/faults/soak.py [SECONDS]` prints what it measured, and ends with 1 where something
was lost or grew. With --leak the relay has a sink that leaks, as a control.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "faults")]

import uvloop  # noqa: E402
from oracle import Senders, in_csv, judge  # noqa: E402
from pressing import trickle  # noqa: E402
from relays import Relay, Sender  # noqa: E402
from stubs.receiver import Receiver, drip, drop, hang, status  # noqa: E402

HOUR = 3600.0
RATE = 200.0
EVERY = 0.5
"""Seconds between two looks at what may grow."""
WARM_UP = 0.25
"""The share of each life that does not count: caches fill up."""
MOST = {"memory": 48.0, "descriptors": 24.0, "log": 72.0}
"""MiB, files and MiB by which each may drift in the whole run."""
UPKEEP = ("relay.retention.FIRST=5", "relay.retention.EVERY=30")
SETTINGS = "retention: {delivered: 1m, quarantine: 1m}\n"
HOOK = """  hook:
    plugin: webhook
    options: {{url: "{url}"}}
    allow_private: [127.0.0.0/8]
    timeout: 1s
    retry: {{initial: 50ms, max: 1s}}
    breaker: {{cooldown: 1s}}
"""
LEAK = """  leak:
    plugin: leak
"""
LEAKY = """
import os
import relay

class Leak(relay.Sink):
    kept = []

    async def send(self, delivery):
        self.kept.append((bytearray(20_000), os.dup(1)))

@relay.hookimpl
def register_sinks(register):
    register("leak", Leak)
"""


class Heard(list):
    """What a receiver got, of each only what the oracle wants."""

    def append(self, request) -> None:
        event = json.loads(request.body)
        super().append((event["id"], event["data"]["message"]))


@dataclass
class Soak:
    """A run: the relay, what it gets, what was done to it, and what was seen of it."""

    relay: Relay
    receiver: Receiver
    chance: random.Random
    senders: Senders = field(default_factory=Senders)
    failures: list = field(default_factory=list)
    fired: Counter = field(default_factory=Counter)
    lives: list = field(default_factory=lambda: [[]])
    """For each life of the process, its samples: (time, what may grow)."""

    # what may grow

    async def watch(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # between two lives
                self.lives[-1].append((time.monotonic(), self._look()))
            await asyncio.sleep(EVERY)

    def _look(self) -> dict[str, float]:
        process = Path(f"/proc/{self.relay.process.pid}")
        pages = int((process / "statm").read_text().split()[1])
        log = self.relay.store.with_name("relay.db-wal").stat().st_size
        return {
            "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "descriptors": float(len(list((process / "fd").iterdir()))),
            "log": log / 2**20,
        }

    # what is done to it

    async def suffer(self, first: Sequence, faults: dict, rest: float) -> None:
        """The first ones in their order, then any by their weights, with a rest between them."""
        waiting = list(first)
        while True:
            await asyncio.sleep(self.chance.uniform(0.5, 1.5) * rest)
            if waiting:
                fault = waiting.pop(0)
            else:
                (fault,) = self.chance.choices(list(faults), list(faults.values()))
            await fault(self)
            self.fired[fault.__name__] += 1

    def new_life(self) -> None:
        self.lives.append([])


async def a_sink_in_trouble(soak: Soak) -> None:
    troubles = (status(503), status(429, {"retry-after": "2"}), hang, drop, drip(), status(302))
    soak.receiver.otherwise = soak.chance.choice(troubles)
    await asyncio.sleep(soak.chance.uniform(0.5, 3.0))
    soak.receiver.otherwise = status(200)


async def a_stop(soak: Soak) -> None:
    soak.relay.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(soak.chance.uniform(0.1, 2.0))
    soak.relay.process.send_signal(signal.SIGCONT)


async def slow_connections(soak: Soak) -> None:
    senders = [Sender(soak.relay.port, Senders()) for _ in range(100)]
    try:
        await asyncio.gather(*(sender.connect() for sender in senders), return_exceptions=True)
        await asyncio.sleep(soak.chance.uniform(0.5, 5.0))
    finally:
        for sender in senders:
            sender.hang_up()


async def nonsense(soak: Soak) -> None:
    for _ in range(50):
        reader, writer = await asyncio.open_connection("127.0.0.1", soak.relay.port)
        junk = soak.chance.choice([b"GET /callbacks/sumotext?a=1 HTTP/1.1\r\n\r\n", os.urandom(99)])
        with contextlib.closing(writer), contextlib.suppress(OSError):
            writer.write(junk)
            await asyncio.wait_for(reader.read(99), 5.0)


async def a_command(soak: Soak) -> None:
    copy = soak.relay.folder / "copy.db"
    words = soak.chance.choice([["status"], ["doctor"], ["events", "list"], ["backup", copy]])
    command = [sys.executable, "-m", "relay.cli", *words, "--config", soak.relay.config]
    await asyncio.to_thread(
        subprocess.run, command, capture_output=True, check=False, env=soak.relay.environment
    )
    copy.unlink(missing_ok=True)


async def a_reload(soak: Soak) -> None:
    soak.relay.process.send_signal(signal.SIGHUP)
    await asyncio.sleep(3.0)
    await soak.relay.answers()
    soak.new_life()


async def a_restart(soak: Soak) -> None:
    await soak.relay.stop()
    await soak.relay.start()
    soak.new_life()


async def a_kill(soak: Soak) -> None:
    soak.relay.kill()
    await soak.relay.start()
    soak.new_life()


FAULTS = {
    a_sink_in_trouble: 40,
    a_stop: 15,
    slow_connections: 15,
    nonsense: 15,
    a_command: 10,
}
"""Each with its weight."""
BIRTHS = (a_reload, a_restart, a_kill)
"""Each begins a new life. They come first, so that the last life is long enough to see it grow."""


def slopes(lives) -> dict[str, float]:
    """By how much each thing grows in an hour: one line for all lives, each from its own level."""
    return {what: _slope([_points(life, what) for life in lives]) for what in MOST}


def _points(life, what: str) -> list[tuple[float, float]]:
    return [(moment, seen[what]) for moment, seen in life[int(len(life) * WARM_UP) :]]


def _slope(lives: list[list[tuple[float, float]]]) -> float:
    above = below = 0.0
    for points in filter(None, lives):
        middle = sum(x for x, _ in points) / len(points)
        level = sum(y for _, y in points) / len(points)
        above += sum((x - middle) * (y - level) for x, y in points)
        below += sum((x - middle) ** 2 for x, _ in points)
    return HOUR * above / below if below else 0.0


async def soak_for(
    folder: Path,
    seconds: float,
    *,
    seed: int,
    leak=False,
    first=BIRTHS,
    faults=FAULTS,
    rest: float = 8.0,
    most_wait: float = 0.0,
    enough: Callable[[Soak], bool] = lambda _: True,
) -> Soak:
    """Run it; the oracle's word is good, or this fails.

    Where there is not `enough` by then, as on a slow machine, it goes on for `most_wait` seconds.
    """
    (folder / "plugins").mkdir(parents=True)
    (folder / "plugins/leak.py").write_text(LEAKY)
    async with Receiver() as receiver:
        receiver.requests = Heard()
        relay = Relay(
            folder,
            plugins="plugins",
            sinks=HOOK.format(url=receiver.url) + (LEAK if leak else "") + SETTINGS,
            command=["-m", "altered", *UPKEEP, "run"],
        )
        soak = Soak(relay, receiver, random.Random(seed))
        try:
            await relay.start()
            working = [
                asyncio.create_task(soak.watch()),
                asyncio.create_task(soak.suffer(first, faults, rest)),
            ]
            async with trickle(relay, soak.senders, "soak", rate=RATE, failures=soak.failures):
                begun, wait = time.monotonic(), seconds
                while wait > 0:
                    done, _ = await asyncio.wait(working, timeout=wait)
                    for task in done:
                        task.result()
                    late = time.monotonic() - begun - seconds
                    wait = 0.0 if enough(soak) or late > most_wait else EVERY
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            relay.process.send_signal(signal.SIGCONT)
            receiver.otherwise = status(200)
            await relay.answers()
            await relay.finish(soak.senders, patience=300 + seconds / 10)
        finally:
            relay.close()
        # What is delivered is purged by now: the archive stands for the store.
        judge(soak.senders, in_csv(relay.csv), {"hook": receiver.requests}).sound()
    return soak


def report(soak: Soak, seconds: float) -> bool:
    """Print what was seen; whether anything grew."""
    print(
        f"\n{seconds:g} s at {RATE:g} a second: {len(soak.senders.sent)} sent,"
        f" {len(soak.senders.acked)} acknowledged, {len(soak.failures)} failed, 0 missing,"
        f" 0 invented; {sum(soak.fired.values())} faults: {dict(soak.fired)}"
    )
    grown = False
    longest = slopes([max(soak.lives, key=len)])
    for what, slope in slopes(soak.lives).items():
        seen = [sample[what] for life in soak.lives for _, sample in life]
        drift = slope * seconds / HOUR
        grown |= drift > MOST[what]
        print(
            f"{what}: {slope:+.1f} an hour, {longest[what]:+.1f} in the longest of"
            f" {len(soak.lives)} lives, {min(seen):.0f} to {max(seen):.0f}"
        )
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=float, nargs="?", default=HOUR)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--leak", action="store_true", help="with a sink that leaks: a control")
    arguments = parser.parse_args()
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the receiver's, on its troubles
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="relay-soak-") as folder:
        soak = uvloop.run(  # a receiver on the other loop takes 40 ms an answer
            soak_for(Path(folder), arguments.seconds, seed=arguments.seed, leak=arguments.leak)
        )
    return int(report(soak, arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
