"""The baseline of the webhook sink: httpx as it comes, 16 requests in flight.

`python stock.py URL COUNT` posts an event COUNT times.
"""

import asyncio
import sys

import httpx
import uvloop
from arrivals import arrival

IN_FLIGHT = 16


async def main(url: str, count: int) -> None:
    event = arrival().event.to_dict()
    numbers = iter(range(count))

    async def work(client) -> None:
        for _ in numbers:
            (await client.post(url, json=event)).raise_for_status()

    async with httpx.AsyncClient() as client:
        await asyncio.gather(*(work(client) for _ in range(IN_FLIGHT)))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
