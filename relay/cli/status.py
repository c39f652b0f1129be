"""`relay status`: how much there is of what, how each sink does, and what to do next."""

from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import click

from relay import ownership
from relay.cli import control, load, options
from relay.cli.output import count, print_json, print_table, printable, reason_of
from relay.fsutil import path_from_utf8
from relay.state_directory import DEFAULT_STORE, StateDirectory

if TYPE_CHECKING:
    from relay.cli.client import ApiClient
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
    found, live = load("relay.cli.client").ask(config, _status)
    _show(config, found, live=live, as_json=as_json)


async def _status(session: "ApiClient") -> tuple[dict[str, Any], bool]:
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
    for line in outdated_lines(found["configuration"], config.path):
        click.echo(line)
    for each in found["configuration"].get("warnings", ()):
        click.echo(f"Warning: {printable(each)}")
    for name, reason in found["configuration"].get("held_sources", {}).items():
        click.echo(f"The source {name} is held, its callbacks are refused: {printable(reason)}.")
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
            if not control.served(state):
                return None
            found = control.get(state, "/status")
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


def outdated_lines(found: dict[str, Any], path: Path) -> list[str]:
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
