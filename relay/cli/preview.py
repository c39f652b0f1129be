"""`relay preview`: what each sink would get, with nothing sent."""

import re
import time
from typing import Any
from urllib.parse import urlsplit

import click
import orjson

from relay.cli import client, options, samples
from relay.cli.output import print_json, printable
from relay.config.loader import Config
from relay.event import OPT_OUT, Event, InvalidCallback, RawCallback
from relay.preview import Preview, preview_all
from relay.redact import mask_in
from relay.sources.router import new_id
from relay.sources.sumotext import understand

CALLBACKS = "/callbacks/"
PAIR = re.compile(r'\[\n *("(?:[^"\\]|\\.)*"),\n *("(?:[^"\\]|\\.)*")\n *\]')


@click.command()
@click.argument("what", required=False, metavar="[KIND | URL]")
@click.argument("pairs", nargs=-1, type=samples.pair, metavar="[NAME=VALUE]…")
@options.config
@options.as_json
@click.option("--event", "event_id", help="An event of the store.")
@click.option("--source", help="The source; the first of relay.yaml unless told.")
def preview(
    what: str | None,
    pairs: tuple[tuple[str, str], ...],
    config: Config,
    as_json: bool,
    event_id: str | None,
    source: str | None,
) -> None:
    """Show what each sink would get of a callback or an event, and send nothing.

    By relay.yaml as it is now, also while the relay still runs with an older one.
    """
    if (what is None) == (event_id is None):
        raise click.UsageError("give one of: a kind, a callback's URL, --event ID")
    if event_id is not None:
        event, opted_out = _stored(config, event_id)
    else:
        event = _understood(config, _callback(config, str(what), pairs, source))
        opted_out = event.data["consent"] == OPT_OUT
    previews = preview_all(config.sinks.values(), event, opted_out)
    if as_json:
        print_json({"event": event.to_dict(), "sinks": [each.to_dict() for each in previews]})
    else:
        _show(event, previews)


def _stored(config: Config, event_id: str) -> tuple[Event, bool]:
    found = client.ask(config, lambda session: session.get(f"/events/{client.part(event_id)}"))
    return Event.from_json(orjson.dumps(found)), found["opted_out"]


def _understood(config: Config, callback: RawCallback) -> Event:
    try:
        return understand(callback, config.sources[callback.source], new_id)
    except InvalidCallback as error:
        raise click.ClickException(f"it would go to quarantine: {error.reason}") from error


def _callback(
    config: Config, what: str, pairs: tuple[tuple[str, str], ...], source: str | None
) -> RawCallback:
    if what in samples.SAMPLES:
        query = samples.encoded(samples.callback_of(what, pairs, samples.EXAMPLE))
    elif "?" in what and not pairs:
        try:
            url = urlsplit(what)
        except ValueError as error:
            raise click.UsageError("what was given is no URL") from error
        query = url.query
        if source is None and url.path.startswith(CALLBACKS):
            source = url.path.removeprefix(CALLBACKS).partition("/")[0]
    else:
        raise click.UsageError(
            f"{what!r} is neither a URL with a query nor one of: {', '.join(samples.SAMPLES)}"
        )
    return RawCallback(
        source=options.source_name(config, source),
        method="GET",
        query=query.encode(),
        content_type="",
        body=b"",
        received=time.time_ns() // 1_000,
        test=True,
    )


def _show(event: Event, previews: list[Preview]) -> None:
    click.echo(f"{event.type}, keyword {event.data['keyword'] or '-'}")
    for each in previews:
        click.echo(f"\n{each.sink}: {printable(each.verdict)}")
        if each.record is not None:
            click.echo(as_text(each.record, event.data["mobile"]))


def as_text(record: dict[str, Any], mobile: str) -> str:
    """A record as indented JSON, a pair to a line, with the contact's number masked."""
    text = orjson.dumps(mask_in(record, mobile), option=orjson.OPT_INDENT_2).decode()
    return printable(PAIR.sub(r"[\1, \2]", text))
