"""A receiver whose answers have no end, beside a good client: it is cut off, and harms nobody."""

import asyncio
import contextlib
import itertools
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import flooder
import pytest
from listening import answers
from relays import POLL, RUN, Relay, free_port

pytestmark = pytest.mark.alone

REQUEST = (
    b"GET /callbacks/sumotext?mobile=212555%04d&smsid=m%d&shortcode=84700&key=JOIN&msg=hello"
    b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
)
PERIODS = 5
MOST_WAIT = 0.1
"""Seconds for 99 of 100 good callbacks."""
HOPELESS = 3.0
"""Seconds for one, after which it is clear that all wait."""
MOST_MEMORY = 100
"""MiB more than before."""
ENDLESS = 10**9
UNBOUNDED = ("-m", "altered", f"relay.delivery.responses.MOST_INTERIM={ENDLESS}", "run")
UNBOUNDED_CHUNKS = ("-m", "altered", f"relay.delivery.http_message.MOST_SMALL={ENDLESS}", "run")


@dataclass
class Figures:
    """What good callbacks waited for, and the memory that the relay had at the most."""

    waits: list[float] = field(default_factory=list)
    memory: float = 0.0
    p99: list[float] = field(default_factory=list)
    """Of each period."""


@contextlib.asynccontextmanager
async def flooding(folder: Path, kind: str):
    """The receiver as a process of its own, still polite."""
    port, log = free_port(), folder / "floods"
    log.touch()
    process = subprocess.Popen([sys.executable, flooder.__file__, str(port), kind, str(log)])
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                await asyncio.sleep(POLL)
        yield process, f"http://127.0.0.1:{port}/", log
    finally:
        process.kill()
        process.wait()


async def callback(relay: Relay, number: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        writer.write(REQUEST % (number % 10_000, number))
        (answer,) = answers(await reader.read())
        assert answer.status == 200
    finally:
        writer.transport.abort()


async def beside(relay: Relay, seconds: float, numbers: itertools.count, figures: Figures) -> None:
    """A period of good callbacks, each of another contact."""
    waits: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and max(waits, default=0.0) < HOPELESS:
        start = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOPELESS):
                await callback(relay, next(numbers))
        waits.append(time.monotonic() - start)
        status = Path(f"/proc/{relay.process.pid}/status").read_text()
        memory = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
        figures.memory = max(figures.memory, memory)
        await asyncio.sleep(0.01)
    figures.waits += waits
    figures.p99.append(sorted(waits)[int(len(waits) * 0.99)])


def lines(log: Path) -> list[int]:
    """The bytes of each answer that was cut."""
    return [int(line) for line in log.read_text().split()]


async def attacked(folder, kind: str, seconds: float, command=RUN, *, harms=False):
    """The figures before the flood and during it, and the bytes of each answer that was cut.

    The flood goes on, period after period, until enough answers were cut; and where it is not
    clear that it does or does not harm, as on a busy machine, until most periods say so.
    """
    numbers, before, meanwhile = itertools.count(), Figures(), Figures()
    async with flooding(folder, kind) as (process, url, log):
        relay = Relay(folder / "relay", url, archive=False, command=command)
        await relay.start()
        try:
            await beside(relay, 2, numbers, before)
            await relay.delivered()
            process.send_signal(signal.SIGUSR1)
            for _ in range(PERIODS):
                await beside(relay, seconds, numbers, meanwhile)
                enough = harms or (len(lines(log)) > 3 and len(meanwhile.waits) > 20)
                if enough and harmless(before, meanwhile) is not harms:
                    break
        finally:
            relay.close()
        floods = lines(log)
    print(
        f"{kind}: {len(floods)} answers of up to {max(floods, default=0) / 1024:.0f} KiB, p99"
        f" {meanwhile.p99} s (before {before.p99} s),"
        f" memory +{meanwhile.memory - before.memory:.1f} MiB"
    )
    return before, meanwhile, floods


def harmless(before: Figures, meanwhile: Figures) -> bool:
    """On a quiet machine 99 of 100 wait less than 100 ms; on another, see what it was before."""
    most = max(MOST_WAIT, min(4 * median(before.p99), HOPELESS))
    quick = median(meanwhile.p99) < most
    return quick and meanwhile.memory - before.memory < MOST_MEMORY


async def test_interim_answers_without_end_harm_nobody(tmp_path):
    before, meanwhile, floods = await attacked(tmp_path, "interim answers", 3)
    assert len(meanwhile.waits) > 20
    assert len(floods) > 3
    assert max(floods) < 16 * 1024 * 1024  # what the sockets hold
    assert harmless(before, meanwhile)


@pytest.mark.parametrize(
    ("kind", "command"), [("interim answers", UNBOUNDED), ("tiny chunks", UNBOUNDED_CHUNKS)]
)
async def test_control_without_the_bound_everybody_waits(tmp_path, kind, command):
    before, meanwhile, _ = await attacked(tmp_path, kind, 3, command, harms=True)
    assert not harmless(before, meanwhile)


@pytest.mark.faults
@pytest.mark.parametrize("kind", flooder.KINDS)
async def test_no_answer_without_end_harms_anybody(tmp_path, kind):
    before, meanwhile, floods = await attacked(tmp_path, kind, 20)
    assert len(floods) > 10
    assert max(floods) < 64 * 1024 * 1024
    assert harmless(before, meanwhile)
