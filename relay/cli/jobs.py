"""A job as the command sees it that asked for it: a bar while it goes on, then its result."""

import asyncio
from typing import Any

import click

from relay.cli.client import Client
from relay.cli.output import progress

LOOK_EVERY = 0.1


async def finished(session: Client, path: str, what: str, **body: Any) -> dict[str, Any]:
    """Start the job, look on until it ends, return its result."""
    number = (await session.post(path, **body))["job"]
    with progress(None, what) as bar:
        while True:
            job = await session.get(f"/jobs/{number}")
            if job["error"] is not None:
                raise click.ClickException(job["error"])
            if job["result"] is not None:
                result: dict[str, Any] = job["result"]
                return result
            bar.update(
                bar.task_ids[0],
                completed=job["done"],
                total=job["total"],
                description=job["doing"] or what,
            )
            await asyncio.sleep(LOOK_EVERY)
