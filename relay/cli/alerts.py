"""`relay alerts`: whether those who are to be told can be."""

import asyncio

import click

from relay.alerts.monitor import channels
from relay.alerts.policy import Alert, Note
from relay.alerts.webhook import Channel, NotSaid
from relay.cli import options
from relay.cli.help_group import Family
from relay.cli.output import printable
from relay.clock import SystemClock
from relay.config.loader import Config


@click.group(cls=Family)
def alerts() -> None:
    """Who is told when something is wrong."""


@alerts.command("test")
@options.filled_config
def test(config: Config) -> None:
    """Send a note to the webhook and the mailbox of `alerts`, as an alert would."""
    if not asyncio.run(_all_told(config)):
        raise click.exceptions.Exit(1)


async def _all_told(config: Config) -> bool:
    found = channels(config.alerts)
    if not found:
        raise click.ClickException("alerts names no webhook and no email: only the log is told")
    now = SystemClock().now()
    note = Note(now, [Alert("test", "", "This is a test: nothing is wrong.", now, now)], [], [])
    return all([await _told(channel, note) for channel in found])


async def _told(channel: Channel, note: Note) -> bool:
    """Tell it, and say what came of it."""
    try:
        await channel.say(note)
    except NotSaid as error:
        click.echo(f"{channel.name}: {printable(str(error))}")
        return False
    finally:
        await channel.close()
    click.echo(f"{channel.name}: told")
    return True
