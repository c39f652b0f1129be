"""`relay replay`: deliver events of the past once more, or to a sink that is new."""

from typing import Any

import click
from rich.progress import Progress

from relay.api.requests import CHUNK
from relay.cli import client, options
from relay.cli.client import Client
from relay.cli.output import count, print_json, printable, progress
from relay.cli.preview import as_text
from relay.cli.times import Resolve
from relay.config.loader import Config


@click.command()
@options.config
@options.as_json
@click.option("--sink", required=True, help="The sink to deliver to.")
@options.where
@click.option("--as-new", is_flag=True, help="Under new ids: the sink takes them for new events.")
@click.option("--dry-run", is_flag=True, help="Show what the sink would get; change nothing.")
def replay(
    config: Config,
    as_json: bool,
    sink: str,
    since: Resolve | None,
    until: Resolve | None,
    as_new: bool,
    dry_run: bool,
    **where: Any,
) -> None:
    """Deliver events again to a sink, by its `when` and `map` of today.

    Events that are older than the sink count too. The ids stay the same unless --as-new, so
    that a sink which has an event already does not take it twice. What --as-new made before is
    left out.
    """
    if since is None and until is None:
        raise click.UsageError("say which events, with --since or --until (--since 2h)")
    asked = {"sink": sink, "as_new": as_new, "dry_run": dry_run}
    asked |= where | options.moments(config, since, until)

    async def question(session: Client) -> dict[str, int]:
        with progress(None, "replaying", shown=not dry_run) as bar:
            return await _replayed(session, asked, bar, as_json=as_json)

    total = client.ask(config, question)
    if not (dry_run and as_json):
        _report(total, sink, as_json=as_json, dry_run=dry_run)


async def _replayed(
    session: Client, asked: dict[str, Any], bar: Progress, *, as_json: bool
) -> dict[str, int]:
    """Ask chunk by chunk, so that the relay is never held for long."""
    total = {"made": 0, "skipped": 0}
    records: list[dict[str, Any]] = []
    position: dict[str, int] = {}
    start = None
    behind = None
    while True:
        try:
            answer = await session.post("/replay", **asked, **position)
        except BaseException:  # Ctrl-C, or the relay has stopped
            if behind and not asked["dry_run"]:
                _say_how_far(total["made"], behind, as_new=asked["as_new"])
            raise
        behind = answer["behind"] or behind
        start = start or answer["first"]
        for name in total:
            total[name] += answer[name]
        for error in answer["errors"]:
            click.echo(f"{error['id']}: {error['error']}", err=True)
        for record in answer.get("records", ()):
            records.append(record) if as_json else _print_record(record)
        if answer["next"] is None:
            break
        position = {"after": answer["next"], "through": answer["through"]}
        bar.update(
            bar.task_ids[0],
            completed=answer["next"] - start,
            total=answer["through"] - start,
        )
    if as_json and asked["dry_run"]:
        print_json(records)
    return total


def _say_how_far(made: int, behind: str, *, as_new: bool) -> None:
    """Where to go on: what goes once more as new is doubled."""
    click.echo(
        f"Broken off: {count(made, 'event')} on the way, of those before {behind}.", err=True
    )
    if as_new:
        click.echo(
            f"What goes --as-new once more is doubled: go on with --since {behind},"
            f" when you have looked whether the next {CHUNK} have gone, too.",
            err=True,
        )


def _print_record(record: dict[str, Any]) -> None:
    click.echo(f"{record['id']}" + (f" fails, {record['error']}" if record["error"] else ""))
    if record["record"] is not None:
        click.echo(as_text(record["record"], record["mobile"]))


def _report(total: dict[str, int], sink: str, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json(total)
        return
    verb = "would go" if dry_run else "on the way"
    click.echo(f"{count(total['made'], 'event')} {verb} to {printable(sink)}.")
    if total["skipped"]:
        click.echo(f"{count(total['skipped'], 'event')} left out by its `when`.")
    if not sum(total.values()):
        click.echo("No events in that time; `relay events list` shows what there is.")
