"""Commands for events and their deliveries: events, dead and replay."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import click
from rich.progress import Progress

from relay.api import CHUNK
from relay.cli import HelpGroup, client, options
from relay.cli.client import ApiClient
from relay.cli.options import Resolve
from relay.cli.output import (
    count,
    local_time,
    print_json,
    print_json_line,
    print_pairs,
    print_table,
    printable,
    progress,
)
from relay.cli.records import as_text, event_of, print_callback
from relay.config.loader import Config
from relay.event import Event, kind_of
from relay.redact import mask_all, mask_contact, mask_in

EVERY = 0.5
SAYS = 40


def _where(command: Any) -> Any:
    """The options that say which events."""
    for option in (
        click.option("--keyword", help="Only of this keyword."),
        click.option("--kind", shell_complete=options.kinds, help="Only of this kind."),
        click.option(
            "--source", shell_complete=options.source_names, help="Only from this source."
        ),
        options.until,
        options.since,
    ):
        command = option(command)
    return command


@click.group(cls=HelpGroup)
def events() -> None:
    """List and show the events."""


@events.command("list")
@options.config
@options.as_json
@options.limit
@_where
def events_list(
    config: Config,
    as_json: bool,
    limit: int,
    since: Resolve | None,
    until: Resolve | None,
    **where: Any,
) -> None:
    """List events, the newest first."""
    options.check_kind(config, where["kind"])
    where |= options.moments(config, since, until)
    page = client.ask(config, lambda session: session.get("/events", limit=limit, **where))
    found = page["items"]
    if as_json:
        print_json(found)
    elif found:
        print_table(HEADINGS, [event_row(event_of(each), config) for each in found])
    else:
        click.echo("No such events. `relay send web_form Name=Bill` makes one.")


@events.command("show")
@click.argument("event_id", metavar="ID")
@options.config
@options.as_json
def events_show(config: Config, as_json: bool, event_id: str) -> None:
    """Show one event, its deliveries, and what failed on the way."""
    found = client.ask(config, lambda session: session.get(f"/events/{client.part(event_id)}"))
    if as_json:
        print_json(found)
        return
    event = event_of(found)
    print_pairs(
        [
            ("id", event.id),
            ("type", event.type),
            ("source", event.source),
            ("subject", masked_subject(event)),
            ("test", event.test or None),
            ("time", local_time(event.time, config.timezone)),
        ]
    )
    click.echo(as_text(event.data, event.contact))
    _print_deliveries(found["deliveries"], config, event.contact)
    _print_attempts(found["attempts"], config, event.contact)
    click.echo("As it came")
    print_callback(found["callback"])


@events.command()
@options.config
@options.as_json
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, 1000),
    default=10,
    show_default=True,
    metavar="NUMBER",
    help="How many of the last events to show first.",
)
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
    for each in rows[-lines:] if lines else []:
        if as_json:
            print_json_line(each)
        else:
            cells = event_row(event_of(each), config)
            click.echo("  ".join(printable(str(cell or "-")) for cell in cells))
    return rows[-1]["seq"] if rows else after


def masked_subject(event: Event) -> str | None:
    """Each part by itself, as the short code and a keyword of digits make no number together."""
    return event.subject and "/".join(map(mask_all, event.subject.split("/")))


HEADINGS = ("Received", "Kind", "Contact", "Subject", "Says", "Id")


SAYING = ("message", "label", "reply")
"""Names of an event's data that may have what the contact wrote, the first of them first."""


def event_row(event: Event, config: Config) -> list[Any]:
    """An event as a table shows it."""
    texts = (event.data.get(name) for name in SAYING)
    says = next((text for text in texts if text and isinstance(text, str)), "")
    return [
        local_time(event.time, config.timezone),
        event.kind + (" (test)" if event.test else ""),
        mask_contact(event.contact),
        masked_subject(event),
        mask_all(says)[:SAYS],
        event.id,
    ]


def _print_deliveries(
    deliveries: list[dict[str, Any]], config: Config, contact: str | None
) -> None:
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
                mask_in(each["error"], contact) or _reference(each, contact),
            ]
            for each in deliveries
        ],
    )


def _reference(delivery: dict[str, Any], contact: str | None) -> str:
    """What the sink calls the record, and what was left out of it."""
    note = mask_in(delivery.get("note"), contact)
    return "; ".join(filter(None, (delivery["reference"], note)))


def _print_attempts(attempts: list[dict[str, Any]], config: Config, contact: str | None) -> None:
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
                mask_in(each["error"], contact),
                mask_in(each["answer"] or "", contact),
            ]
            for each in attempts
        ],
    )


@click.group(cls=HelpGroup)
def dead() -> None:
    """List, replay or discard dead deliveries."""


@dead.command("list")
@options.config
@options.as_json
@options.limit
@click.option("--sink", shell_complete=options.sink_names, help="Only of this sink.")
def dead_list(config: Config, as_json: bool, limit: int, sink: str | None) -> None:
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
        click.option("--sink", shell_complete=options.sink_names, help="Only of this sink."),
        click.option("--all", "all_", is_flag=True, help="All dead deliveries."),
        click.argument("events", nargs=-1, metavar="[EVENT]…"),
    ):
        command = option(command)
    return command


@dead.command("replay")
@options.config
@_which
def dead_replay(config: Config, events: tuple[str, ...], all_: bool, sink: str | None) -> None:
    """Try dead deliveries again, if the sink's `when` still matches."""
    _check_choice(events, all_=all_)

    async def question(session: ApiClient) -> dict[str, int]:
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


@dead.command("discard")
@options.config
@options.yes
@_which
def dead_discard(
    config: Config, yes: bool, events: tuple[str, ...], all_: bool, sink: str | None
) -> None:
    """Discard dead deliveries. Their events stay."""
    _check_choice(events, all_=all_)
    if not yes:
        click.confirm("Give them up for good?", abort=True, err=True)

    async def question(session: ApiClient) -> int:
        sinks = [sink] if sink else await _dead_sinks(session, known=False)
        number = 0
        async for name, seqs in _chunks(session, events, sinks):
            number += (await session.post("/dead/discard", sink=name, seqs=seqs))["discarded"]
        return number

    number = client.ask(config, question)
    click.echo(f"{count(number, 'delivery')} discarded.")
    if events and not number:
        raise click.exceptions.Exit(1)


def _check_choice(events: tuple[str, ...], *, all_: bool) -> None:
    if bool(events) == all_:
        raise click.UsageError("name events, or say --all")


async def _dead_sinks(session: ApiClient, *, known: bool) -> list[str]:
    """The sinks with dead deliveries; with `known` only those that can get them again."""
    return [
        sink["name"]
        for sink in await session.get("/sinks")
        if sink["dead"] and not (known and sink["state"] == "orphaned")
    ]


async def _chunks(
    session: ApiClient, events: tuple[str, ...], sinks: list[str]
) -> AsyncIterator[tuple[str, list[int]]]:
    """The dead deliveries of these sinks, of these events or of all, a chunk of a sink a time."""
    for event in events:
        for each in (await session.get(f"/events/{client.part(event)}"))["deliveries"]:
            if each["state"] == "dead" and each["sink"] in sinks:
                yield each["sink"], [each["seq"]]
    for name in [] if events else sinks:
        async for rows in session.pages("/dead", sink=name, limit=CHUNK):
            yield name, [row["seq"] for row in rows]


@click.command()
@options.config
@options.as_json
@click.option(
    "--sink",
    required=True,
    shell_complete=options.sink_names,
    help="The sink to deliver to.",
)
@_where
@click.option(
    "--as-new", is_flag=True, help="Use new ids, so that the sink takes them for new events."
)
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
    """Deliver events again to a sink, by its present `when` and `map`.

    Events that are older than the sink count too. The ids stay the same unless --as-new, so
    that a sink which has an event already does not take it twice. What --as-new made before is
    left out.
    """
    if since is None and until is None:
        raise click.UsageError("say which events, with --since or --until (--since 2h)")
    asked = {"sink": sink, "as_new": as_new, "dry_run": dry_run}
    options.check_kind(config, where["kind"])
    asked |= where | options.moments(config, since, until)

    async def question(session: ApiClient) -> dict[str, int]:
        with progress(None, "replaying", shown=not dry_run) as bar:
            return await _replayed(session, asked, bar, as_json=as_json)

    total = client.ask(config, question)
    if not (dry_run and as_json):
        _report(total, sink, as_json=as_json, dry_run=dry_run)


async def _replayed(
    session: ApiClient, asked: dict[str, Any], bar: Progress, *, as_json: bool
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
