"""The note in words: for a mailbox, for a log, and as JSON for a program. No contact's data."""

import hashlib
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from relay.alerts.policy import Alert, Note
from relay.clock import MICROSECONDS
from relay.event import timestamp
from relay.version import version

TYPE = "relay.alerts"


def subject(note: Note) -> str:
    """One line: what it is about, and on which machine."""
    parts = []
    if note.new:
        parts.append(_names(note.new))
    elif note.lasts:
        parts.append(f"still {_names(note.lasts)}")
    if note.over:
        parts.append(f"over: {_names(note.over)}")
    return f"[relay {socket.gethostname()}] {'; '.join(parts)}"


def text(note: Note) -> str:
    """The whole of it, for a person."""
    signature = f"Sumotext Relay {version()} on {socket.gethostname()}."
    return "\n".join(
        [
            *_section("New", note.new),
            *_section("Still so", note.lasts),
            *_section("Over", note.over),
            f"{signature} `relay status` shows how all of it stands.",
            "",
        ]
    )


def body(note: Note) -> bytes:
    """The JSON that a webhook gets."""
    return orjson.dumps(
        {
            "type": TYPE,
            "timestamp": _time(note.at),
            "text": f"{subject(note)}\n\n{text(note)}",
            "data": {
                "host": socket.gethostname(),
                "new": [_view(each) for each in note.new],
                "lasting": [_view(each) for each in note.lasts],
                "over": [_view(each) for each in note.over],
            },
        }
    )


def message_id(note: Note) -> str:
    """The same for the same note, should it be said twice."""
    said = [[each.rule, each.subject, each.since] for each in (*note.new, *note.lasts)]
    ended = [[each.rule, each.subject, each.seen] for each in note.over]
    text = orjson.dumps([socket.gethostname(), said, ended, note.at])
    return f"alert_{hashlib.sha256(text).hexdigest()[:32]}"


def lines(note: Note) -> Iterator[tuple[bool, str]]:
    """For the log: whether it is bad news, and the news."""
    for alert in note.new:
        yield True, f"{_name(alert)}: {alert.text}"
    for alert in note.over:
        yield False, f"over: {_name(alert)}"


def _section(title: str, alerts: Iterable[Alert]) -> list[str]:
    found = [f"- {alert.text} ({_name(alert)}, since {_time(alert.since)})" for alert in alerts]
    return [f"{title}:", *found, ""] if found else []


def _names(alerts: Iterable[Alert]) -> str:
    return ", ".join(map(_name, alerts))


def _name(alert: Alert) -> str:
    return f"{alert.rule} {alert.subject}".strip()


def _view(alert: Alert) -> dict[str, Any]:
    return {
        "rule": alert.rule,
        "subject": alert.subject or None,
        "since": _time(alert.since),
        "text": alert.text,
    }


def _time(seconds: float) -> str:
    """To the second, as RFC 3339 has it."""
    return f"{timestamp(int(seconds) * MICROSECONDS)[:19]}Z"
