"""Commands that try out a callback: send, preview and test, and the samples that they take."""

import asyncio
import select
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import click
import httpx

from relay.callback.form import fold
from relay.cli import client, options
from relay.cli.client import ApiClient
from relay.cli.output import print_json, print_table, printable
from relay.cli.records import as_text, event_of
from relay.config.loader import Config
from relay.event import OPT_OUT, Event, InvalidCallback, RawCallback
from relay.fsutil import argument_text
from relay.preview import Preview, preview_all
from relay.source import Outgoing, Source
from relay.sources.calls import SourceCalls
from relay.validation import PLACEHOLDER

# Kept for films and books: it is nobody's.
EXAMPLE = "2125550123"
PATIENCE = 2.0

Pairs = Sequence[tuple[str, str]]


def pair(text: str) -> tuple[str, str]:
    """`name=value`; a contact's number is refused, as arguments are seen by every user."""
    name, equals, value = argument_text(text).partition("=")
    if not equals or not name.strip():
        raise click.BadParameter(f"{text!r} is not name=value")
    if fold(name) == "mobile":
        raise click.BadParameter(
            "a number is not given as an argument, as others on the machine can read those:"
            " `relay send` asks for it, or reads it from standard input"
        )
    return name, value


def sample(config: Config, source: str, kind: str, pairs: Pairs, number: str) -> Outgoing:
    """A request of this kind, as the source's sender would make it."""
    made = config.source_plugins[source]
    if not made.kinds:
        raise click.UsageError(f"the plugin of the source {source} has no samples")
    if kind not in made.kinds:
        known = ", ".join(made.kinds)
        raise click.UsageError(f"{kind!r} is no kind of the source {source} (known: {known})")
    try:
        return made.sample(kind, number, pairs, _signed_url(config, source))
    except NotImplementedError as error:
        raise click.ClickException(f"the source {source}: {error}") from error
    except Exception as error:  # it is the plugin's, whatever it is
        name = type(error).__name__
        raise click.ClickException(f"the plugin of {source} makes no sample: {name}") from error


def contact_number(*, needed: bool) -> str:
    """The number typed or piped in; the example where there is none and none is needed."""
    number = _typed(needed=needed) if sys.stdin.isatty() else _piped(wait=needed)
    if number:
        return number
    if needed:
        raise click.UsageError("with --real, send the contact's number to standard input")
    click.echo(f"No number given: taking the example {EXAMPLE}.", err=True)
    return EXAMPLE


def _typed(*, needed: bool) -> str:
    text = "Number of the contact"
    default = None if needed else EXAMPLE
    return str(click.prompt(text, default=default, err=True)).strip()


def _piped(*, wait: bool) -> str:
    """A line of standard input; not waited for for long, as it may be a pipe that never ends."""
    if not wait and not _readable():
        return ""
    return sys.stdin.readline().strip()


def _readable() -> bool:
    try:
        return bool(select.select([sys.stdin], [], [], PATIENCE)[0])
    except (OSError, ValueError):  # what has no descriptor has all of its text already
        return True


CALLBACKS = "/callbacks/"
SEND_TIMEOUT = 30.0
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  dialled, not bound


@click.command()
@click.argument("kind", shell_complete=options.kinds)
@click.argument("pairs", nargs=-1, type=pair, metavar="[NAME=VALUE]…")
@options.config
@options.as_json
@options.source
@click.option("--post", is_flag=True, help="Send a form (POST) instead of a query.")
@click.option("--real", is_flag=True, help="Do not mark it as a test, so that CRM sinks send it.")
def send(
    kind: str,
    pairs: tuple[tuple[str, str], ...],
    config: Config,
    as_json: bool,
    source: str | None,
    post: bool,
    real: bool,
) -> None:
    """Send a callback to the running relay, as Sumotext would.

    The contact's number is read from standard input, or asked for. What else the callback
    says can be set: relay send web_form Name=Bill msg=STOP
    """
    source = options.source_name(config, source)
    headers = token_header(config, source)
    if not real:
        headers["X-Relay-Test"] = "true"
    number = contact_number(needed=real)
    outgoing = sample(config, source, kind, pairs, number)
    answer = post_or_get(config, source, headers, outgoing, post=post)
    if as_json:
        print_json(answer)
    else:
        for line in _said(answer):
            click.echo(line)


def _said(answer: dict[str, Any]) -> list[str]:
    match answer:
        case {"items": items}:
            return [line for each in items for line in _said(each)]
        case {"id": event, "type": type_}:
            return [f"Stored as {printable(type_)}, event {event}."]
        case {"id": callback, "error": _}:
            return [f"Not understood: in quarantine as {callback}."]
    return [f"Answered with {answer['status']}: {printable(answer['body'])}"]


def post_or_get(
    config: Config, source: str, headers: dict[str, str], outgoing: Outgoing, *, post: bool = False
) -> dict[str, Any]:
    """Send a request; what the relay answers. Raises ClickException unless it took it.

    Where the source answers in words of its own, `status` and `body` alone are those.
    """
    url = _url(config, source)
    query, body = outgoing.query, outgoing.body
    headers = headers | dict(outgoing.headers)
    if post and not body:
        query, body, headers = "", query.encode(), headers | FORM
    elif outgoing.content_type:
        headers["Content-Type"] = outgoing.content_type
    # The certificate names the public host and not this address; nothing leaves the machine.
    with httpx.Client(verify=False, trust_env=False, timeout=SEND_TIMEOUT, headers=headers) as http:  # noqa: S501
        try:
            method = "POST" if body else "GET"
            response = http.request(method, f"{url}?{query}" if query else url, content=body)
        except httpx.TransportError as error:
            listen = config.server.listen
            raise click.ClickException(
                f"nothing answers at {listen}: is the relay running? (relay run)"
            ) from error
    return _read_answer(config, response)


def _read_answer(config: Config, response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or (response.is_success and not _is_relays_own(answer)):
        if not config.source_plugins or not _answers_itself(config, response):
            raise click.ClickException(f"what answers at {config.server.listen} is no relay")
        answer = {"detail": response.text, "body": response.text, "status": response.status_code}
    if not response.is_success:
        raise click.ClickException(
            f"refused with {response.status_code}: {answer.get('detail', response.text)}"
        )
    return dict(answer)


def _is_relays_own(answer: dict[str, Any]) -> bool:
    """Whether it is about one event, or about each of several parts."""
    match answer:
        case {"id": str(), "type": str(), **rest}:
            return not rest
        case {"items": [*items], **rest}:
            members = ({"id", "type"}, {"id", "error"})
            return not rest and all(
                isinstance(each, dict) and set(each) in members for each in items
            )
    return False


def _answers_itself(config: Config, response: httpx.Response) -> bool:
    """Whether the source may answer in words of its own."""
    source = response.request.url.path.removeprefix(CALLBACKS).partition("/")[0]
    made = type(config.source_plugins[source])
    return (
        made.answer is not Source.answer
        or made.refusal is not Source.refusal
        or made.verify is not Source.verify
    )


def _url(config: Config, source: str) -> str:
    listen = config.server.listen
    host = ANYWHERE.get(listen.host, listen.host)
    host = f"[{host}]" if ":" in host else host
    return f"http{'s' if config.server.tls else ''}://{host}:{listen.port}/callbacks/{source}"


def _signed_url(config: Config, source: str) -> str:
    """The URL that the source verifies."""
    public_url = config.sources[source].public_url
    return _url(config, source) if public_url is None else public_url.rstrip("/")


def token_header(config: Config, source: str) -> dict[str, str]:
    """What makes the listener take it. Raises ClickException where no token is known here."""
    tokens = [token.get_secret_value() for token in config.sources[source].tokens]
    for token in tokens:
        if not PLACEHOLDER.search(token):
            return {"X-Relay-Token": token}
    if tokens and (unset := PLACEHOLDER.search(tokens[0])):
        raise click.ClickException(
            f"the token {unset[0]} is not known here: set it for this command as for the relay"
        )
    return {}


@click.command()
@click.argument("what", required=False, metavar="[KIND | URL]")
@click.argument("pairs", nargs=-1, type=pair, metavar="[NAME=VALUE]…")
@options.config
@options.as_json
@click.option("--event", "event_id", help="An event of the store.")
@options.source
def preview(
    what: str | None,
    pairs: tuple[tuple[str, str], ...],
    config: Config,
    as_json: bool,
    event_id: str | None,
    source: str | None,
) -> None:
    """Show what each sink would get of a callback or an event, and send nothing.

    It uses relay.yaml as it is now, even while the relay runs with an older one.
    """
    if (what is None) == (event_id is None):
        raise click.UsageError("give one of: a kind, a callback's URL, --event ID")
    if event_id is not None:
        event, opted_out = _stored(config, event_id)
    else:
        event = _understood(config, _callback(config, str(what), pairs, source))
        opted_out = event.consent == OPT_OUT
    previews = preview_all(config.sinks.values(), event, opted_out)
    if as_json:
        print_json({"event": event.to_dict(), "sinks": [each.to_dict() for each in previews]})
    else:
        _show(event, previews)


def _stored(config: Config, event_id: str) -> tuple[Event, bool]:
    found = client.ask(config, lambda session: session.get(f"/events/{client.part(event_id)}"))
    return event_of(found), found["opted_out"]


def _understood(config: Config, callback: RawCallback) -> Event:
    try:
        calls = SourceCalls(config.source_plugins[callback.source])
        return calls.event(calls.parts(callback)[0])
    except InvalidCallback as error:
        raise click.ClickException(f"it would go to quarantine: {error.reason}") from error


def _callback(
    config: Config, what: str, pairs: tuple[tuple[str, str], ...], source: str | None
) -> RawCallback:
    named = options.source_name(config, source)
    outgoing = Outgoing()
    if what in config.source_plugins[named].kinds:
        outgoing = sample(config, named, what, pairs, EXAMPLE)
        query = outgoing.query
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
            f"{what!r} is neither a URL with a query nor one of:"
            f" {', '.join(config.source_plugins[named].kinds)}"
        )
    return RawCallback(
        source=options.source_name(config, source),
        method="POST" if outgoing.body else "GET",
        query=query.encode(),
        content_type=outgoing.content_type,
        body=outgoing.body,
        received=time.time_ns() // 1_000,
        test=True,
    )


def _show(event: Event, previews: list[Preview]) -> None:
    click.echo(f"{event.type}, keyword {event.topic or '-'}")
    for each in previews:
        click.echo(f"\n{each.sink}: {printable(each.verdict)}")
        if each.record is not None:
            click.echo(as_text(each.record, event.contact))


POLL = 0.1
ENDED = ("delivered", "dead", "discarded")
HALTED = ("paused", "parked", "held")


@click.command()
@click.argument("kind", required=False, shell_complete=options.kinds)
@click.argument("pairs", nargs=-1, type=pair, metavar="[NAME=VALUE]…")
@options.filled_config
@options.as_json
@options.source
@click.option(
    "--wait", type=float, default=30.0, show_default=True, help="Seconds to wait for the sinks."
)
def test(
    kind: str | None,
    pairs: tuple[tuple[str, str], ...],
    config: Config,
    as_json: bool,
    source: str | None,
    wait: float,
) -> None:
    """Send a test callback to the running relay, and follow it to each sink.

    The callback is an example with a number of nobody, marked as a test. CRM sinks send nothing for
    it, unless their `test_events` says so. The exit status is 1 unless every sink that gets it has
    it.
    """
    source = options.source_name(config, source)
    headers = token_header(config, source) | {"X-Relay-Test": "true"}
    kind = kind or next(iter(config.source_plugins[source].kinds), "")
    answer = post_or_get(config, source, headers, sample(config, source, kind, pairs, EXAMPLE))
    if "items" in answer:
        raise click.ClickException(
            "the sample makes several events, and one alone can be followed;"
            " `relay events tail` shows them"
        )
    if "id" not in answer:
        raise click.ClickException(
            f"the source {source} answers in its own words, so the event cannot be followed;"
            " `relay events tail` shows it"
        )
    event = str(answer["id"])
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
    session: ApiClient, config: Config, event: str, wait: float
) -> dict[str, dict[str, Any]]:
    """How the event's deliveries stand, once nothing more is to be waited for."""
    end = time.monotonic() + wait
    while True:
        sinks = (await session.get("/status"))["sinks"]
        deliveries = {each["sink"]: each for each in await _deliveries(session, event)}
        found = {
            name: _delivery_state(deliveries.get(name), sinks[name], config.sinks[name].enabled)
            for name in config.sinks
        }
        if time.monotonic() > end or not any(sink["state"] == "pending" for sink in found.values()):
            return found
        await asyncio.sleep(POLL)


async def _deliveries(session: ApiClient, event: str) -> list[dict[str, Any]]:
    if spilled := (await session.get("/status")).get("spill"):
        raise click.ClickException(
            f"it is on disk, with {spilled} others, as the store cannot be written: relay doctor"
        )
    return list((await session.get(f"/events/{event}"))["deliveries"])


def _delivery_state(
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
