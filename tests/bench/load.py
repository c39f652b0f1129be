"""The load: callbacks over keep-alive connections, each of another contact.

`python load.py '[{"port": 8080, "seconds": 5}]' 1` prints what it measured as JSON, for each plan.
Several plans take turns, as often as said: a machine that is faster now than then is so for all.
It sends as fast as it is answered, or `rate` a second, whatever the answers do; then a callback
that has to wait for a free connection counts from when it was due.
"""

import asyncio
import gc
import itertools
import json
import random
import re
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import uvloop

# Area codes of large cities. With every exchange they make 32,000 prefixes.
AREAS = [
    *(205, 206, 212, 213, 214, 215, 303, 305, 312, 313, 314, 404, 407, 412, 414, 415, 425, 469),
    *(503, 504, 512, 513, 602, 612, 615, 617, 619, 702, 703, 704, 713, 716, 718, 773, 801, 813),
    *(816, 901, 904, 919),
]
WEB_FORM = (
    b"country=USA&shortcode=84700&key=SOMEKEY&mobile=%s&carrierId=VERIZONUS&Name=Bill"
    b"&DOB=1/1/2000&Zip=10024&sent=%s"
)
POLL = b"mobile=%s&carrier=VERIZONUS&shortcode=84700&key=FB1&reply=A&city=Tampa&sent=%s"
TEXT_4_INFO = b"lead=keyword&&mobile=%s&msg=ServerMsg&sent=%s"
MESSAGE = (
    b"mobile=%s&carrier=VERIZONUS&smsid=s%s&shortcode=84700&key=SUMOX&msg=have%%20a%%20nice%%20day"
)
REQUEST = b"GET /callbacks/sumotext?%s HTTP/1.1\r\nHost: relay.example\r\nUser-Agent: load\r\n\r\n"
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
WARM_UP = 0.2
"""The part of the time at the beginning that does not count."""


@dataclass
class Plan:
    """What to send. With `count` it ends after so many callbacks, else after `seconds`."""

    port: int
    connections: int = 128
    seconds: float = 5.0
    rate: float | None = None
    count: int | None = None
    mixed: bool = False
    """All four kinds in turn; else web forms."""


@dataclass
class Measured:
    waits: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    failed: int = 0


def callbacks(plan: Plan) -> "Callbacks":
    return Callbacks((WEB_FORM, POLL, TEXT_4_INFO, MESSAGE) if plan.mixed else (WEB_FORM,))


class Callbacks:
    """Makes requests; no number comes twice."""

    numbers = random.sample(range(8_000_000), 2_000_000)  # exchanges 200 to 999
    made = itertools.count()

    def __init__(self, templates) -> None:
        self._templates = [REQUEST % (template,) for template in templates]

    def next(self) -> bytes:
        made = next(self.made)
        number = self.numbers[made % len(self.numbers)]
        area = AREAS[made % len(AREAS)]
        template = self._templates[made % len(self._templates)]
        return template % (b"%d%07d" % (area, number + 2_000_000), b"%d" % time.time_ns())


class Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, on_answer, on_lost) -> None:
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._buffer = b""
        self.begun = 0.0

    def connection_made(self, transport) -> None:
        self._transport = transport

    def connection_lost(self, _) -> None:
        self._on_lost()

    def close(self) -> None:
        self._transport.abort()

    def ask(self, request: bytes, begun: float) -> None:
        self.begun = begun
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or len(buffer) < end + 4 + int(LENGTH.search(buffer)[1]):
            return
        self._buffer = b""
        self._on_answer(self, buffer.startswith(b"HTTP/1.1 200"))


class Load:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._callbacks = callbacks(plan)
        self._measured = Measured()
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._connections: list[Connection] = []
        self._idle: deque[Connection] = deque()
        self._overdue: deque[float] = deque()
        self._left = plan.count if plan.count is not None else sys.maxsize

    async def run(self) -> dict:
        plan = self._plan
        for _ in range(plan.connections):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._answered, self._lost), "127.0.0.1", plan.port
            )
            self._connections.append(connection)
        self._idle.extend(self._connections)
        self._start = time.perf_counter()
        spent = time.process_time()
        if plan.count is None:
            self._loop.call_later(plan.seconds, self._finish)
        if plan.rate:
            ticking = asyncio.create_task(self._tick())
        else:
            for connection in self._connections:
                self._ask(connection, time.perf_counter())
        await self._over
        busy = (time.process_time() - spent) / (time.perf_counter() - self._start)
        if plan.rate:
            ticking.cancel()
        self._left = 0
        for connection in self._connections:
            connection.close()
        return self._report(busy)

    def _finish(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _ask(self, connection: Connection, begun: float) -> None:
        if self._left:
            self._left -= 1
            connection.ask(self._callbacks.next(), begun)

    def _answered(self, connection: Connection, good: bool) -> None:
        now = time.perf_counter()
        measured = self._measured
        measured.waits.append(now - connection.begun)
        measured.ends.append(now)
        measured.failed += not good
        if len(measured.waits) == self._plan.count:
            self._finish()
        elif not self._plan.rate:
            self._ask(connection, now)
        elif self._overdue:
            self._ask(connection, self._overdue.popleft())
        else:
            self._idle.append(connection)

    def _lost(self) -> None:
        if not self._over.done():
            self._over.set_exception(ConnectionError("the server closed a connection"))

    async def _tick(self) -> None:
        due = time.perf_counter()
        while True:
            due += 1 / self._plan.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if self._idle:
                self._ask(self._idle.popleft(), due)
            else:
                self._overdue.append(due)

    def _report(self, busy: float) -> dict:
        measured = self._measured
        if self._plan.count is None:
            first = self._start + WARM_UP * self._plan.seconds
            span = (1 - WARM_UP) * self._plan.seconds
        else:
            first, span = self._start, measured.ends[-1] - self._start
        pairs = zip(measured.ends, measured.waits, strict=True)
        waits = sorted(wait for end, wait in pairs if end >= first)
        slowest = waits or [span]  # a disk may stand still for the whole of a short turn
        return {
            "first": self._start,
            "rate": len(waits) / span,
            "answered": len(measured.ends),
            "failed": measured.failed,
            "p50": slowest[len(slowest) // 2],
            "p99": slowest[len(slowest) * 99 // 100],
            "busy": busy,
        }


async def take_turns(plans: list[Plan], turns: int) -> list[dict]:
    taken = [[await Load(plan).run() for plan in plans] for _ in range(turns)]
    return [_together(reports) for reports in zip(*taken, strict=True)]


def _together(reports: Sequence[dict]) -> dict:
    """The means, but of what was counted the sums; `first` of the first."""
    means = {name: fmean(report[name] for report in reports) for name in reports[0]}
    sums = {name: sum(report[name] for report in reports) for name in ("answered", "failed")}
    return means | sums | {"first": reports[0]["first"]}


async def main(plans: list[dict], turns: int) -> None:
    gc.disable()
    print(json.dumps(await take_turns([Plan(**plan) for plan in plans], turns)), flush=True)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1]), int(sys.argv[2])))
