"""`relay status` and `relay sinks`: counts, states, and what an operator does to a sink."""

import asyncio
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import click

from relay import ownership
from relay.cli import HelpGroup, client, options
from relay.cli.client import ApiClient
from relay.cli.output import count, print_json, print_table, printable, reason_of
from relay.fsutil import path_from_utf8
from relay.state_directory import DEFAULT_STORE, StateDirectory

if TYPE_CHECKING:
    from relay.config.loader import Config


class Known(NamedTuple):
    """What this needs of a relay.yaml that the running relay has read as it is now."""

    path: Path
    state: StateDirectory
    timezone: tzinfo


@click.command()
@options.config_path
@options.as_json
def status(path: Path, as_json: bool) -> None:
    """Show how many events there are, and how each sink stands."""
    if (known := _quickly(path)) is not None:
        _show(*known, live=True, as_json=as_json)
        return
    config = options.usable_config(path)
    found, live = client.ask(config, _status)
    _show(config, found, live=live, as_json=as_json)


async def _status(session: ApiClient) -> tuple[dict[str, Any], bool]:
    return await session.get("/status"), session.live


def _show(config: "Config | Known", found: dict[str, Any], *, live: bool, as_json: bool) -> None:
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
        said = f"What {config.state.spill} holds cannot be delivered so far"
        click.echo(f"{said}: {printable(trouble)}.")
    if found["spill"]:
        spilled = count(found["spill"], "callback")
        wait = "waits" if found["spill"] == 1 else "wait"
        click.echo(f"{spilled} could not be stored so far, and {wait} in {config.state.spill}.")
    for line in _configuration(found["configuration"], config.path):
        click.echo(line)
    for each in found["configuration"].get("warnings", ()):
        click.echo(f"Warning: {printable(each)}")
    print_sinks([{"name": name, **sink} for name, sink in found["sinks"].items()], config.timezone)
    for line in _hints(found):
        click.echo(line)


def _quickly(path: Path) -> tuple[Known, dict[str, Any]] | None:
    """The status without a check of relay.yaml, which the running relay made when it read the file.

    None where the relay does not run, or has not read the file as it is now. An empty outline is a
    file that could not be read.
    """
    given = options.outline(path)
    if not given:
        return None
    store = given.get("store", DEFAULT_STORE)
    spill = given.get("store_fallback") or ""
    zone = given.get("timezone") or "UTC"
    if not all(isinstance(each, str) and "$" not in each for each in (store, spill, zone)):
        return None
    home = path.absolute().parent
    state = StateDirectory.around(
        home / path_from_utf8(store), home / path_from_utf8(spill) if spill else None
    )
    try:
        known = Known(path, state, ZoneInfo(zone))
        with ownership.acting_for(state.store):
            if not client.served(state):
                return None
            found = asyncio.run(client.service(state).get("/status"))
    except (TypeError, ValueError, KeyError, OSError, click.ClickException):
        return None  # the ordinary way finds out what is wrong, and says it
    return (known, found) if found["configuration"]["state"] == "current" else None


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


sink_name = click.argument("name", shell_complete=options.sink_names)


@click.group(cls=HelpGroup)
def sinks() -> None:
    """Look at the sinks; pause, resume, rename, discard."""


@sinks.command("list")
@options.config
@options.as_json
def sinks_list(config: "Config", as_json: bool) -> None:
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
def sinks_pause(config: "Config", name: str, reason: str | None) -> None:
    """Deliver nothing to a sink until it is resumed; its deliveries queue up."""
    body = {"reason": reason} if reason else {}
    client.ask(config, lambda session: session.post(f"/sinks/{client.part(name)}/pause", **body))
    click.echo(f"{name} is paused; `relay sinks resume {name}` lets it go on.")


@sinks.command("resume")
@sink_name
@options.config
def sinks_resume(config: "Config", name: str) -> None:
    """Deliver to a sink again, at once, whatever had stopped it."""
    client.ask(config, lambda session: session.post(f"/sinks/{client.part(name)}/resume"))
    click.echo(f"{name} goes on.")


@sinks.command("rename")
@click.argument("old", shell_complete=options.sink_names)
@click.argument("new", shell_complete=options.sink_names)
@options.config
def sinks_rename(config: "Config", old: str, new: str) -> None:
    """Give the deliveries of a sink that has gone from relay.yaml to another name."""
    answer = client.ask(
        config, lambda session: session.post(f"/sinks/{client.part(old)}/rename", to=new)
    )
    click.echo(f"{count(answer['renamed'], 'delivery')} of {old} belong to {new} now.")


@sinks.command("discard")
@sink_name
@options.config
@options.yes
def sinks_discard(config: "Config", name: str, yes: bool) -> None:
    """Give up what is left of a sink that has gone from relay.yaml; the events stay."""
    if not yes:
        click.confirm(f"Give up all deliveries of {name} for good?", abort=True, err=True)
    answer = client.ask(config, lambda session: session.post(f"/sinks/{client.part(name)}/discard"))
    click.echo(f"{count(answer['discarded'], 'delivery')} of {name} discarded.")
