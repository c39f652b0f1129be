"""`relay events`: what has come in."""

import asyncio
from collections.abc import Iterable
from typing import Any

import click

from relay.cli import client, options
from relay.cli.help_group import Family
from relay.cli.output import (
    kind_of,
    local_time,
    print_callback,
    print_json,
    print_json_line,
    print_pairs,
    print_table,
    printable,
)
from relay.cli.preview import as_text
from relay.cli.times import Resolve
from relay.config.loader import Config
from relay.redact import mask, mask_all, mask_in

EVERY = 0.5
SAYS = 40


@click.group(cls=Family)
def events() -> None:
    """Look at the events."""


@events.command("list")
@options.config
@options.as_json
@options.limit
@options.where
def list_(
    config: Config,
    as_json: bool,
    limit: int,
    since: Resolve | None,
    until: Resolve | None,
    **where: Any,
) -> None:
    """List events, the newest first."""
    where |= options.moments(config, since, until)
    page = client.ask(config, lambda session: session.get("/events", limit=limit, **where))
    found = page["items"]
    if as_json:
        print_json(found)
    elif found:
        print_table(HEADINGS, [row(event, config) for event in found])
    else:
        click.echo("No such events. `relay send web_form Name=Bill` makes one.")


@events.command()
@click.argument("event_id", metavar="ID")
@options.config
@options.as_json
def show(config: Config, as_json: bool, event_id: str) -> None:
    """Show one event, its deliveries, and what failed on the way."""
    found = client.ask(config, lambda session: session.get(f"/events/{client.part(event_id)}"))
    if as_json:
        print_json(found)
        return
    print_pairs(
        [(name, found.get(name)) for name in ("id", "type", "source")]
        + [("subject", masked_subject(found)), ("test", found.get("test"))]
        + [("time", local_time(found["time"], config.timezone))]
    )
    click.echo(as_text(found["data"], found["data"]["mobile"]))
    _print_deliveries(found["deliveries"], config, found["data"]["mobile"])
    _print_attempts(found["attempts"], config, found["data"]["mobile"])
    click.echo("As it came")
    print_callback(found["callback"])


@events.command()
@options.config
@options.as_json
@click.option("--lines", "-n", type=click.IntRange(0, 1000), default=10, show_default=True)
def tail(config: Config, as_json: bool, lines: int) -> None:
    """Show the last events, and each new one until stopped."""
    try:
        asyncio.run(_tail(config, lines, as_json=as_json))
    except KeyboardInterrupt:
        click.echo(err=True)


async def _tail(config: Config, lines: int, *, as_json: bool) -> None:
    async with client.session(config) as session:
        newest = (await session.get("/events", limit=max(lines, 1)))["items"]
        last = _print_lines(reversed(newest), config, after=0, lines=lines, as_json=as_json)
        while session.live:
            await asyncio.sleep(EVERY)
            found = (await session.get("/events", after=last, limit=1000))["items"]
            last = _print_lines(found, config, after=last, lines=len(found), as_json=as_json)
    click.echo("The relay is not running, so nothing new comes; `relay run` starts it.", err=True)


def _print_lines(
    found: Iterable[dict[str, Any]], config: Config, *, after: int, lines: int, as_json: bool
) -> int:
    """Print the last `lines` of those found; return the seq of the newest."""
    rows = list(found)
    for event in rows[-lines:] if lines else []:
        if as_json:
            print_json_line(event)
        else:
            click.echo("  ".join(printable(str(cell or "-")) for cell in row(event, config)))
    return rows[-1]["seq"] if rows else after


def masked_subject(event: dict[str, Any]) -> str | None:
    """Each part by itself, as the short code and a keyword of digits make no number together."""
    subject: str | None = event.get("subject")
    return subject and "/".join(map(mask_all, subject.split("/")))


HEADINGS = ("Received", "Kind", "Contact", "Subject", "Says", "Id")


def row(event: dict[str, Any], config: Config) -> list[Any]:
    """An event as a table shows it."""
    data = event["data"]
    says = data["message"] or data["label"] or data["reply"] or ""
    return [
        local_time(event["time"], config.timezone),
        kind_of(event["type"]) + (" (test)" if event.get("test") else ""),
        mask(data["mobile"]),
        masked_subject(event),
        mask_all(says)[:SAYS],
        event["id"],
    ]


def _print_deliveries(deliveries: list[dict[str, Any]], config: Config, mobile: str) -> None:
    if not deliveries:
        click.echo("No sink was to get it; `relay preview --event ID` says what each would get.")
        return
    print_table(
        ("Sink", "State", "Attempts", "Due", "Settled", "Error or reference"),
        [
            [
                each["sink"],
                each["state"],
                each["attempts"],
                local_time(each["due"], config.timezone),
                local_time(each["settled"], config.timezone),
                mask_in(each["error"], mobile) or _reference(each, mobile),
            ]
            for each in deliveries
        ],
    )


def _reference(delivery: dict[str, Any], mobile: str) -> str:
    """What the sink calls the record, and what was left out of it."""
    note = mask_in(delivery.get("note"), mobile)
    return "; ".join(filter(None, (delivery["reference"], note)))


def _print_attempts(attempts: list[dict[str, Any]], config: Config, mobile: str) -> None:
    if not attempts:
        return
    click.echo("Failed attempts")
    print_table(
        ("Sink", "No", "Started", "Seconds", "Status", "Error", "Answer"),
        [
            [
                each["sink"],
                each["number"],
                local_time(each["started"], config.timezone),
                f"{each['duration']:.1f}",
                each["status"],
                mask_in(each["error"], mobile),
                mask_in(each["answer"] or "", mobile),
            ]
            for each in attempts
        ],
    )
