"""`relay test`: a callback all the way, from the listener to each sink, and what came of it."""

import asyncio
import time
from typing import Any

import click

from relay.cli import client, options, samples
from relay.cli.client import Client
from relay.cli.output import print_json, print_table
from relay.cli.send import post_or_get, token_header
from relay.config.loader import Config

POLL = 0.1
ENDED = ("delivered", "dead", "discarded")
HALTED = ("paused", "parked", "held")


@click.command()
@click.argument("kind", type=click.Choice(list(samples.SAMPLES)), default="web_form")
@click.argument("pairs", nargs=-1, type=samples.pair, metavar="[NAME=VALUE]…")
@options.filled_config
@options.as_json
@click.option("--source", help="The source; the first of relay.yaml unless told.")
@click.option(
    "--wait", type=float, default=30.0, show_default=True, help="Seconds to wait for the sinks."
)
def test(
    kind: str,
    pairs: tuple[tuple[str, str], ...],
    config: Config,
    as_json: bool,
    source: str | None,
    wait: float,
) -> None:
    """Send a test callback to the running relay, and follow it to each sink.

    It is an example's, of nobody's number, and marked as a test: CRM sinks take note of it and
    send nothing, unless their test_events says so. The exit status is 1 unless each sink that
    wants it has it.
    """
    source = options.source_name(config, source)
    headers = token_header(config, source) | {"X-Relay-Test": "true"}
    callback = samples.callback_of(kind, pairs, samples.EXAMPLE)
    event = post_or_get(config, source, headers, callback)["id"]
    sinks = client.ask(config, lambda session: _followed(session, config, event, wait))
    if as_json:
        print_json({"id": event, "sinks": sinks})
    else:
        click.echo(f"Stored as event {event}.")
        rows = [[name, sink["state"], sink["reason"]] for name, sink in sinks.items()]
        print_table(("Sink", "Delivery", "Reason"), rows)
    if not all(sink["state"] in ("delivered", "none") for sink in sinks.values()):
        raise click.exceptions.Exit(1)


async def _followed(
    session: Client, config: Config, event: str, wait: float
) -> dict[str, dict[str, Any]]:
    """How the event's deliveries stand, once nothing more is to be waited for."""
    end = time.monotonic() + wait
    while True:
        sinks = (await session.get("/status"))["sinks"]
        deliveries = {each["sink"]: each for each in await _deliveries(session, event)}
        found = {
            name: _told(deliveries.get(name), sinks[name], config.sinks[name].enabled)
            for name in config.sinks
        }
        if time.monotonic() > end or not any(sink["state"] == "pending" for sink in found.values()):
            return found
        await asyncio.sleep(POLL)


async def _deliveries(session: Client, event: str) -> list[dict[str, Any]]:
    if spilled := (await session.get("/status")).get("spill"):
        raise click.ClickException(
            f"it is on disk, with {spilled} others, as the store cannot be written: relay doctor"
        )
    return list((await session.get(f"/events/{event}"))["deliveries"])


def _told(
    delivery: dict[str, Any] | None, sink: dict[str, Any], enabled: bool
) -> dict[str, str | None]:
    """`state` is delivered, dead, discarded, waiting, none, pending or that of a halted sink."""
    if delivery is None:
        why = "`when` does not match" if enabled else "the sink is disabled"
        return {"state": "none", "reason": why}
    if delivery["state"] in ENDED:
        return {"state": delivery["state"], "reason": delivery["error"] or delivery["reference"]}
    if sink["state"] in HALTED:
        return {"state": sink["state"], "reason": sink.get("reason")}
    return {"state": "pending", "reason": delivery["error"]}
