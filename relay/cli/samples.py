"""Samples: callbacks as Sumotext makes them, for `send` and `preview`."""

import secrets
import select
import sys
from collections.abc import Sequence
from urllib.parse import quote, urlencode

import click

from relay.path_text import argument
from relay.sources.sumotext import fold

# Kept for films and books: it is nobody's.
EXAMPLE = "2125550123"
PATIENCE = 2.0

COMMON = {"shortcode": "84700", "key": "SOMEKEY", "mobile": ""}
SAMPLES = {
    "web_form": {"country": "USA", **COMMON, "carrierId": "VERIZONUS"},
    "poll": {"carrier": "VERIZONUS", **COMMON, "key": "FB1", "reply": "A", "label": "Tampa"},
    "text_4_info": {"lead": "keyword", "mobile": "", "msg": "ServerMsg"},
    "message": {"carrier": "VERIZONUS", "smsid": "", **COMMON, "msg": "have a nice day"},
}

Pairs = list[tuple[str, str]]


def pair(text: str) -> tuple[str, str]:
    """`name=value`; a contact's number is refused, as arguments are seen by every user."""
    name, equals, value = argument(text).partition("=")
    if not equals or not name.strip():
        raise click.BadParameter(f"{text!r} is not name=value")
    if fold(name) == "mobile":
        raise click.BadParameter(
            "a number is not given as an argument, as others on the machine can read those:"
            " `relay send` asks for it, or reads it from standard input"
        )
    return name, value


def callback_of(kind: str, pairs: Sequence[tuple[str, str]], number: str) -> Pairs:
    """The parameters of a callback of this kind: the sample's, replaced and added to by `pairs`."""
    given = {fold(name) for name, _ in pairs}
    sample = SAMPLES[kind] | {"mobile": number}
    if kind == "message":
        sample["smsid"] = secrets.token_hex(7)
    return [each for each in sample.items() if fold(each[0]) not in given] + list(pairs)


def encoded(pairs: Pairs) -> str:
    """The parameters as a query string."""
    return urlencode(pairs, quote_via=quote)


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
