"""`relay quarantine`: callbacks that were not understood, or refused for their token."""

from typing import Any

import click

from relay.cli import client, options
from relay.cli.client import Client
from relay.cli.family import Family
from relay.cli.output import (
    count,
    kind_of,
    local_time,
    print_callback,
    print_json,
    print_pairs,
    print_table,
    progress,
)
from relay.cli.preview import as_text
from relay.configuration.config import Config
from relay.control.questions import CHUNK, PAGE
from relay.mask import mask_all
from relay.preview import Preview


@click.group(cls=Family)
def quarantine() -> None:
    """Look at callbacks that became no event, and release them after a fix."""


@quarantine.command("list")
@options.config
@options.as_json
@options.limit
def list_(config: Config, as_json: bool, limit: int) -> None:
    """List what is in quarantine, the newest first."""
    found = client.ask(config, lambda session: session.get("/quarantine", limit=limit))
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("Received", "Source", "Answer", "Reason", "Id"),
            [
                [
                    local_time(each["received"], config.timezone),
                    each["source"],
                    str(each["status"]),
                    each["reason"],
                    each["id"],
                ]
                for each in found
            ],
        )
        click.echo("`relay quarantine release ID` takes one in when the cause is mended.")
    else:
        click.echo("Nothing is in quarantine: every callback was understood.")


@quarantine.command()
@click.argument("quarantine_id", metavar="ID")
@options.config
@options.as_json
def show(config: Config, as_json: bool, quarantine_id: str) -> None:
    """Show one callback as it came."""
    found = client.ask(
        config, lambda session: session.get(f"/quarantine/{client.part(quarantine_id)}")
    )
    if as_json:
        print_json(found)
        return
    callback = found.pop("callback")
    found["received"] = local_time(found["received"], config.timezone)
    print_pairs(found.items())
    print_callback(callback)
    if callback["parameters"] is not None:
        print_table(
            ("Parameter", "Value"),
            [[name, mask_all(value)] for name, value in callback["parameters"]],
        )


@quarantine.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@options.config
@options.as_json
@click.option("--all", "all_", is_flag=True, help="All of them, the oldest first.")
@click.option("--dry-run", is_flag=True, help="Show what each sink would get; change nothing.")
def release(config: Config, as_json: bool, ids: tuple[str, ...], all_: bool, dry_run: bool) -> None:
    """Take callbacks in after all, by the configuration of today."""
    if bool(ids) == all_:
        raise click.UsageError("name callbacks, or say --all")

    async def question(session: Client) -> dict[str, list[dict[str, Any]]]:
        wanted = await _oldest_first(session) if all_ else list(ids)
        total: dict[str, list[dict[str, Any]]] = {"released": [], "failed": []}
        with progress(len(wanted), "releasing") as bar:
            for start in range(0, len(wanted), CHUNK):
                chunk = wanted[start : start + CHUNK]
                answer = await session.post("/quarantine/release", ids=chunk, dry_run=dry_run)
                for part in total:
                    total[part] += answer[part]
                bar.advance(bar.task_ids[0], len(chunk))
        return total

    total = client.ask(config, question)
    if as_json:
        print_json(total)
    else:
        _print_released(total["released"], total["failed"], dry_run=dry_run)
    if total["failed"]:
        raise click.exceptions.Exit(1)


@quarantine.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@options.config
@options.yes
@click.option("--all", "all_", is_flag=True, help="All of them.")
def discard(config: Config, yes: bool, ids: tuple[str, ...], all_: bool) -> None:
    """Throw callbacks away for good."""
    if bool(ids) == all_:
        raise click.UsageError("name callbacks, or say --all")
    if not yes:
        click.confirm("Throw them away for good?", abort=True, err=True)
    number = client.ask(
        config,
        lambda session: session.post("/quarantine/discard", ids=None if all_ else list(ids)),
    )["discarded"]
    click.echo(f"{count(number, 'callback')} discarded.")
    if ids and not number:
        raise click.exceptions.Exit(1)


async def _oldest_first(session: Client) -> list[str]:
    """Every id, so that a contact's callbacks are released in the order in which they came."""
    ids: list[str] = []
    while rows := await session.get("/quarantine", before=ids[-1] if ids else None, limit=PAGE):
        ids += [row["id"] for row in rows]
    return ids[::-1]


def _print_released(
    released: list[dict[str, Any]], failed: list[dict[str, Any]], *, dry_run: bool
) -> None:
    for each in released:
        if dry_run:
            _print_would(each)
        else:
            click.echo(f"{each['id']} is now the {kind_of(each['type'])} {each['event']}.")
    for each in failed:
        click.echo(f"{each['id']} stays: {each['reason']}", err=True)
    would = "would be released" if dry_run else "released"
    click.echo(f"{count(len(released), 'callback')} {would}, {len(failed)} not.")


def _print_would(each: dict[str, Any]) -> None:
    click.echo(f"{each['id']} would be a {kind_of(each['type'])}")
    for sink in each["sinks"]:
        would = Preview(**sink)
        click.echo(f"  {would.sink}: {would.verdict}")
        if would.record is not None:
            click.echo(as_text(would.record, each["mobile"]))
