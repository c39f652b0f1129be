"""`relay reload`: have the running relay read relay.yaml and the plugins again."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import click

from relay.cli import client, options
from relay.cli.output import count, printable
from relay.config.loader import Config

ATTEMPTS = 600
PAUSE = 0.1
"""Seconds from one look to the next for the image that follows: a drain takes up to ten."""


@click.command()
@options.config
def reload(config: Config) -> None:
    """Have the running relay read relay.yaml and the plugins again. No callback is refused.

    It returns when the relay runs with them. Where something is wrong, the relay goes on as before,
    and the exit status is 78.
    """
    store = client.store_file(config)
    client.become_owner(store)
    if not store.parent.is_dir() or not client.served(store):
        raise click.ClickException("the relay is not running; `relay run` starts it")
    before = asyncio.run(_asked(store))
    if before["problems"]:
        _refuse(config.path, before["problems"], "the relay goes on with what was read before")
    after = asyncio.run(_next_image(store, before["image"]))
    if after["problems"]:  # somebody broke it meanwhile
        _refuse(config.path, after["problems"], "the last valid configuration is used instead")
    warnings = after["warnings"]
    said = f", with {count(len(warnings), 'warning')}" if warnings else ""
    click.echo(f"The relay runs with {config.path} as it is now{said}.")
    for each in warnings:
        click.echo(f"Warning: {printable(each)}")


async def _asked(store: Path) -> dict[str, Any]:
    async with client.service(store) as session:
        answer: dict[str, Any] = await session.post("/reload")
        return answer


async def _next_image(store: Path, before: str) -> dict[str, Any]:
    """What the image of the process that follows says. Raises ClickException where none does."""
    for _ in range(ATTEMPTS):
        if client.served(store):
            with contextlib.suppress(click.ClickException):  # the image before ends
                async with client.service(store) as session:
                    answer: dict[str, Any] = await session.get("/reload")
                    if answer["image"] != before:
                        return answer
        await asyncio.sleep(PAUSE)
    raise click.ClickException("the relay did not come back; its log says why")


def _refuse(path: Path, problems: list[str], instead: str) -> None:
    said = "\n".join(printable(each) for each in problems)
    raise options.WrongConfiguration(f"{said}\n{path} is wrong: {instead}.")
