"""`relay dead`: deliveries that were given up."""

from collections.abc import AsyncIterator
from typing import Any

import click

from relay.api.requests import CHUNK
from relay.cli import client, options
from relay.cli.client import Client
from relay.cli.help_group import Family
from relay.cli.output import count, kind_of, local_time, print_json, print_table, progress
from relay.config.loader import Config
from relay.redact import mask_all


@click.group(cls=Family)
def dead() -> None:
    """Look at deliveries that were given up, and try them again."""


@dead.command("list")
@options.config
@options.as_json
@options.limit
@click.option("--sink", help="Only of this sink.")
def list_(config: Config, as_json: bool, limit: int, sink: str | None) -> None:
    """List dead deliveries, the newest first."""
    page = client.ask(config, lambda session: session.get("/dead", limit=limit, sink=sink))
    found = page["items"]
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("Sink", "Received", "Kind", "Attempts", "Error", "Event"),
            [
                [
                    each["sink"],
                    local_time(each["received"], config.timezone),
                    kind_of(each["type"]),
                    each["attempts"],
                    mask_all(each["error"] or ""),
                    each["id"],
                ]
                for each in found
            ],
        )
        click.echo("`relay dead replay EVENT` or `--all` tries again when the cause is mended.")
    else:
        click.echo("Nothing is dead. `relay status` shows what is pending.")


def _which(command: Any) -> Any:
    for option in (
        click.option("--sink", help="Only of this sink."),
        click.option("--all", "all_", is_flag=True, help="All that are dead."),
        click.argument("events", nargs=-1, metavar="[EVENT]…"),
    ):
        command = option(command)
    return command


@dead.command()
@options.config
@_which
def replay(config: Config, events: tuple[str, ...], all_: bool, sink: str | None) -> None:
    """Deliver again, with fresh attempts, what each sink's `when` still lets through."""
    _check(events, all_=all_)

    async def question(session: Client) -> dict[str, int]:
        sinks = [sink] if sink else await _dead_sinks(session, known=True)
        total = {"made": 0, "skipped": 0}
        with progress(None, "delivering again") as bar:
            async for name, seqs in _chunks(session, events, sinks):
                answer = await session.post("/dead/replay", sink=name, seqs=seqs)
                for error in answer["errors"]:
                    click.echo(f"{name}: {error['id']}: {error['error']}", err=True)
                total["made"] += answer["made"]
                total["skipped"] += answer["skipped"]
                bar.advance(bar.task_ids[0], len(seqs))
        return total

    total = client.ask(config, question)
    click.echo(f"{count(total['made'], 'delivery')} on the way again.")
    if total["skipped"]:
        click.echo(f"{count(total['skipped'], 'delivery')} left dead: `when` does not match now.")
    if events and not total["made"]:
        raise click.exceptions.Exit(1)


@dead.command()
@options.config
@options.yes
@_which
def discard(
    config: Config, yes: bool, events: tuple[str, ...], all_: bool, sink: str | None
) -> None:
    """Give up dead deliveries for good; their events stay."""
    _check(events, all_=all_)
    if not yes:
        click.confirm("Give them up for good?", abort=True, err=True)

    async def question(session: Client) -> int:
        sinks = [sink] if sink else await _dead_sinks(session, known=False)
        number = 0
        async for name, seqs in _chunks(session, events, sinks):
            number += (await session.post("/dead/discard", sink=name, seqs=seqs))["discarded"]
        return number

    number = client.ask(config, question)
    click.echo(f"{count(number, 'delivery')} discarded.")
    if events and not number:
        raise click.exceptions.Exit(1)


def _check(events: tuple[str, ...], *, all_: bool) -> None:
    if bool(events) == all_:
        raise click.UsageError("name events, or say --all")


async def _dead_sinks(session: Client, *, known: bool) -> list[str]:
    """The sinks with dead deliveries; with `known` only those that can get them again."""
    return [
        sink["name"]
        for sink in await session.get("/sinks")
        if sink["dead"] and not (known and sink["state"] == "orphaned")
    ]


async def _chunks(
    session: Client, events: tuple[str, ...], sinks: list[str]
) -> AsyncIterator[tuple[str, list[int]]]:
    """The dead deliveries of these sinks, of these events or of all, a chunk of a sink a time."""
    for event in events:
        for each in (await session.get(f"/events/{client.part(event)}"))["deliveries"]:
            if each["state"] == "dead" and each["sink"] in sinks:
                yield each["sink"], [each["seq"]]
    for name in [] if events else sinks:
        async for rows in session.pages("/dead", sink=name, limit=CHUNK):
            yield name, [row["seq"] for row in rows]
