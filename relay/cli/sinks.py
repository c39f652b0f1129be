"""`relay sinks`: the sinks, and what an operator does to one."""

from typing import Any

import click

from relay.cli import HelpGroup, client, options
from relay.cli.client import ApiClient
from relay.cli.output import count, print_json, print_table, reason_of
from relay.cli.status import outdated_lines
from relay.config.loader import Config

sink_name = click.argument("name", shell_complete=options.sink_names)


@click.group(cls=HelpGroup)
def sinks() -> None:
    """List, pause, resume, rename or discard sinks."""


@sinks.command("list")
@options.config
@options.as_json
def sinks_list(config: Config, as_json: bool) -> None:
    """List the sinks."""
    found = client.ask(config, lambda session: session.get("/sinks"))
    if as_json:
        print_json(found)
    elif found:
        columns = ("name", "plugin", "state", "pending", "delivered", "dead", "reason")
        shown = [{**sink, "reason": reason_of(sink, config.timezone)} for sink in found]
        print_table(
            [column.capitalize() for column in columns],
            [[sink.get(column) for column in columns] for sink in shown],
        )
    else:
        click.echo(
            "No sinks. Add one under `sinks:` in relay.yaml; `relay plugins list` has kinds."
        )


@sinks.command("pause")
@sink_name
@options.config
@click.option("--reason", help="Shown by `relay status`.")
def sinks_pause(config: Config, name: str, reason: str | None) -> None:
    """Stop deliveries to a sink until it is resumed. Its deliveries wait."""
    body = {"reason": reason} if reason else {}
    client.ask(config, lambda session: session.post(f"/sinks/{client.part(name)}/pause", **body))
    click.echo(f"{name} is paused; `relay sinks resume {name}` lets it go on.")


@sinks.command("resume")
@sink_name
@options.config
def sinks_resume(config: Config, name: str) -> None:
    """Deliver to a sink again at once, whatever stopped it."""
    found = client.ask(config, lambda session: _resumed(session, name))
    if found is None:
        click.echo(f"{name} goes on when the relay runs: `relay run` starts it.")
        return
    click.echo(f"{name} goes on.")
    for line in outdated_lines(found["configuration"], config.path):
        click.echo(line)


async def _resumed(session: ApiClient, name: str) -> dict[str, Any] | None:
    """The status of the running relay, which may go by an older relay.yaml; None without one."""
    await session.post(f"/sinks/{client.part(name)}/resume")
    return await session.get("/status") if session.live else None


@sinks.command("rename")
@click.argument("old", shell_complete=options.sink_names)
@click.argument("new", shell_complete=options.sink_names)
@options.config
def sinks_rename(config: Config, old: str, new: str) -> None:
    """Move the deliveries of a sink that relay.yaml no longer has to another sink."""
    answer = client.ask(
        config, lambda session: session.post(f"/sinks/{client.part(old)}/rename", to=new)
    )
    click.echo(f"{count(answer['renamed'], 'delivery')} of {old} belong to {new} now.")


@sinks.command("discard")
@sink_name
@options.config
@options.yes
def sinks_discard(config: Config, name: str, yes: bool) -> None:
    """Discard the deliveries of a sink that relay.yaml no longer has. The events stay."""
    if not yes:
        click.confirm(f"Give up all deliveries of {name} for good?", abort=True, err=True)
    answer = client.ask(config, lambda session: session.post(f"/sinks/{client.part(name)}/discard"))
    click.echo(f"{count(answer['discarded'], 'delivery')} of {name} discarded.")
