"""`relay purge`: let go of what is older than its term, now."""

from typing import Any

import click

from relay.cli import client, options
from relay.cli.client import Client
from relay.cli.jobs import finished
from relay.cli.output import count, print_json
from relay.config.loader import Config
from relay.units import duration


def _duration(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@options.config
@options.as_json
@options.yes
@click.option(
    "--older-than",
    type=_duration,
    metavar="DURATION",
    help="Whatever was received longer ago, 7d say; not the terms of relay.yaml.",
)
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
def purge(
    config: Config, as_json: bool, yes: bool, older_than: float | None, dry_run: bool
) -> None:
    """Delete events and quarantined callbacks whose term has passed.

    The running relay does so by itself, as `retention` in relay.yaml says. What still has to be
    delivered somewhere stays, and so does an opt-out that something older may have to be followed
    by.
    """
    if older_than is not None and not dry_run and not yes:
        click.confirm("Delete all of that age for good, dead ones too?", abort=True, err=True)

    async def question(session: Client) -> dict[str, Any]:
        asked = {"older_than": older_than, "dry_run": dry_run}
        return await finished(session, "/purge", "purging", **asked)

    found = client.ask(config, question)
    if as_json:
        print_json(found)
        return
    events, callbacks = count(found["events"], "event"), count(found["callbacks"], "callback")
    word = "would go" if dry_run else "deleted"
    click.echo(f"{events} and {callbacks} in quarantine {word}.")
