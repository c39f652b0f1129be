"""Records and callbacks as text for people, with contacts' numbers masked."""

import base64
import re
from collections.abc import Mapping
from typing import Any

import orjson

from relay.cli.output import print_pairs, printable
from relay.event import Event
from relay.redact import mask_all, mask_in

PAIR = re.compile(r'\[\n *("(?:[^"\\]|\\.)*"),\n *("(?:[^"\\]|\\.)*")\n *\]')
LONGEST = 2000
"""Characters of a callback's query or body that are shown."""


def event_of(found: Mapping[str, Any]) -> Event:
    """The event in an answer of the relay. One of an earlier release gives no attributes."""
    return Event.from_dict(found, found.get("attributes", {}))


def as_text(record: Mapping[str, Any], contact: str | None) -> str:
    """A record as indented JSON, a pair to a line, with the contact masked."""
    text = orjson.dumps(mask_in(record, contact), option=orjson.OPT_INDENT_2).decode()
    return printable(PAIR.sub(r"[\1, \2]", text))


def print_callback(callback: Mapping[str, Any]) -> None:
    """How a callback came, with numbers masked: its bytes, and the body's text where that differs.

    Bytes that are no printable ASCII are escaped.
    """
    raw = {name: base64.b64decode(data) for name, data in callback["raw"].items()}
    bytes_ = {name: data.decode("latin-1").encode("unicode_escape") for name, data in raw.items()}
    shown = {name: callback[name] for name in ("method", "content_type", "content_encoding")}
    shown |= {name: _beginning(data.decode()) for name, data in bytes_.items()}
    if callback["body"].encode() != raw["body"]:
        shown["text"] = _beginning(callback["body"])
    print_pairs((name, value or None) for name, value in shown.items())


def _beginning(text: str) -> str:
    more = len(text) - LONGEST
    return mask_all(text[:LONGEST]) + (f" … and {more} more: see --json" if more > 0 else "")
