"""`relay consent`: who opted out or in, and when each sink accepted it."""

import csv
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click
import orjson

from relay.api.requests import PAGE
from relay.cli import client, options
from relay.cli.client import Client
from relay.cli.help_group import Family
from relay.cli.output import print_json
from relay.config.loader import Config

COLUMNS = ("received", "source", "mobile", "contact", "word", "test", "sink", "accepted")


@click.group(cls=Family)
def consent() -> None:
    """Show the log of opt-outs and opt-ins, which no retention touches."""


@consent.command()
@options.config
@click.option("--json", "as_json", is_flag=True, help="One array; else CSV, a line for each sink.")
def export(config: Config, as_json: bool) -> None:
    """Write every opt-out and opt-in: when it was received, when each sink first accepted it.

    `mobile` is the number as long as its event is kept; `contact` is a keyed hash, which stays
    the same for good.
    """
    found = client.ask(config, _words)
    if as_json:
        print_json(found)
    else:
        _print_csv(found)


async def _words(session: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := await session.get("/words", after=found[-1]["seq"] if found else 0, limit=PAGE):
        found += page
    return [{name: each[name] for name in each if name != "seq"} for each in found]


def _print_csv(found: Iterable[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    for each in found:
        writer.writerows(_lines(each))


def _lines(word: dict[str, Any]) -> Iterator[list[Any]]:
    """One for each sink that accepted it, or one."""
    said = [word[name] for name in COLUMNS[:5]] + [orjson.dumps(word["test"]).decode()]
    for sink, accepted in word["accepted"].items() or [(None, None)]:
        yield [*said, sink, accepted]
