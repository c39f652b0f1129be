"""`relay status`: how all of it stands, at a glance."""

from datetime import tzinfo
from pathlib import Path
from typing import Any

import click

from relay.cli import client, options
from relay.cli.client import Client
from relay.cli.output import count, print_json, print_table, printable, reason_of
from relay.config.loader import Config


@click.command()
@options.config
@options.as_json
def status(config: Config, as_json: bool) -> None:
    """Show how many events there are, and how each sink stands."""

    async def question(session: Client) -> tuple[dict[str, Any], bool]:
        return await session.get("/status"), session.live

    found, live = client.ask(config, question)
    if as_json:
        print_json(found)
        return
    quarantine = f"{count(found['quarantine'], 'callback')} in quarantine"
    click.echo(f"{count(found['events'], 'event')}, {quarantine}.")
    if not live:
        click.echo("The relay is not running; `relay run` starts it.")
    if refusal := found.get("refusal"):
        click.echo(f"Callbacks are refused (503): {printable(refusal)}.")
    if trouble := found.get("spill_trouble"):
        said = f"What {config.store_fallback} holds cannot be delivered so far"
        click.echo(f"{said}: {printable(trouble)}.")
    if found["spill"]:
        spilled = count(found["spill"], "callback")
        wait = "waits" if found["spill"] == 1 else "wait"
        click.echo(f"{spilled} could not be stored so far, and {wait} in {config.store_fallback}.")
    for line in _configuration(found["configuration"], config.path):
        click.echo(line)
    for each in found["configuration"].get("warnings", ()):
        click.echo(f"Warning: {printable(each)}")
    print_sinks([{"name": name, **sink} for name, sink in found["sinks"].items()], config.timezone)
    for line in _hints(found):
        click.echo(line)


def print_sinks(sinks: list[dict[str, Any]], zone: tzinfo) -> None:
    """A table of the sinks."""
    columns = ("sink", "state", "pending", "delivered", "dead", "reason")
    shown = [{**sink, "sink": sink["name"], "reason": reason_of(sink, zone)} for sink in sinks]
    print_table(
        [column.capitalize() for column in columns],
        [[sink.get(column) for column in columns] for sink in shown],
    )


def _configuration(found: dict[str, Any], path: Path) -> list[str]:
    """What is to be said where relay.yaml is not what the relay goes by."""
    match found:
        case {"state": "current"}:
            return []
        case {"problems": []}:
            return [f"{path} has changed since: `relay reload` has the relay use it."]
        case {"state": "last_valid"}:
            said = f"{path} is wrong; the last valid configuration is used instead:"
        case _:
            said = f"{path} is wrong; what was read before is used instead:"
    return [said, *(f"  {printable(problem)}" for problem in found["problems"])]


def _hints(found: dict[str, Any]) -> list[str]:
    """What to do next, where something waits for a person."""
    sinks = found["sinks"].values()
    states = {sink["state"] for sink in sinks}
    hints = {
        "No events yet: `relay send web_form Name=Bill` sends one as Sumotext would.": (
            not found["events"]
        ),
        "`relay quarantine list` shows what was not understood.": found["quarantine"],
        "`relay dead list` shows what was given up.": any(sink["dead"] for sink in sinks),
        "`relay sinks resume NAME` when the reason of a pause is mended.": "paused" in states,
        "`relay sinks rename OLD NEW` or `discard OLD` for a sink that has gone.": (
            "orphaned" in states
        ),
    }
    return [hint for hint, wanted in hints.items() if wanted]
