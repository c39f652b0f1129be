"""A store with a backlog, filled by its own `add`.

`python backlog.py fill PATH COUNT SINK` fills it and ends. `python backlog.py turn PATH COUNT`
fills it up to COUNT and then, for each number read from standard input, claims and settles so
many deliveries and prints the seconds that took; what was taken is filled up again, unmeasured.
"""

import asyncio
import itertools
import sys
import time
from pathlib import Path

import uvloop
from arrivals import arrival, delivered

from relay.store.sqlite import SqliteStore

AT_ONCE = 2_000
CLAIM = 64


async def add(store, count: int, sink: str) -> None:
    left = count
    while left:
        size = min(left, AT_ONCE)
        await asyncio.gather(*(store.add(arrival(sinks=[sink])) for _ in range(size)))
        left -= size


async def take(store, count: int, sink: str) -> None:
    """Claim and settle; the next claim is on its way while a batch is settled, as in a worker."""
    left = count
    while left:
        claims = (await store.claim(sink, min(CLAIM, left))).claims
        left -= len(claims)
        await store.settle([delivered(claim) for claim in claims])


async def fill(path: Path, count: int, sink: str) -> None:
    store = await SqliteStore.open(path)
    await add(store, count, sink)
    await store.close()


async def turn(path: Path, count: int) -> None:
    sink = "crm"
    store = await SqliteStore.open(path)
    counts = (await store.sink_counts()).get(sink)
    await add(store, count - (counts.pending if counts else 0), sink)
    print("ready", flush=True)
    for _ in itertools.count():
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line.strip():
            break
        total, spent = int(line), 0.0
        while total:
            size = min(total, count // 2)
            begun = time.perf_counter()
            await take(store, size, sink)
            spent += time.perf_counter() - begun
            await add(store, size, sink)
            total -= size
        print(spent, flush=True)
    await store.close()


if __name__ == "__main__":
    what, path, count, *rest = sys.argv[1:]
    if what == "fill":
        uvloop.run(fill(Path(path), int(count), *rest))
    else:
        uvloop.run(turn(Path(path), int(count)))
