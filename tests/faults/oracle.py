"""The oracle: holds what the senders know against what is in the store and in the sinks.

Every callback carries a message of its own, so that each event can be traced to the one request
that made it. An id that was acknowledged is an obligation; everything else is a claim to be
proved.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from relay.store import EventFilter, State
from relay.store.sqlite import SqliteStore

PAGE = 500
Seen = list[tuple[str, str]]
"""(event id, message) for each time that an event was seen somewhere."""


@dataclass
class Senders:
    """What the senders know: the messages sent, and the ids acknowledged with their message."""

    sent: set[str] = field(default_factory=set)
    acked: dict[str, str] = field(default_factory=dict)


@dataclass
class Verdict:
    """What is wrong, as lists of event ids; `found` is the number of events in the store."""

    found: int
    missing: dict[str, list[str]]
    invented: dict[str, list[str]]
    corrupted: dict[str, list[str]]
    twice: dict[str, list[str]]

    def lost(self) -> int:
        """How many acknowledged events are missing in the store."""
        return len(self.missing["store"])

    def sound(self, *, once: Iterable[str] = ()) -> None:
        """Fail on anything wrong; the sinks named in `once` must have each event exactly once."""
        for fault in ("missing", "invented", "corrupted"):
            for place, ids in getattr(self, fault).items():
                assert not ids, f"{len(ids)} {fault} in {place}: {ids[:5]}"
        for place in ("store", *once):
            ids = self.twice[place]
            assert not ids, f"{len(ids)} twice in {place}: {ids[:5]}"


def judge(senders: Senders, stored: Seen, sinks: Mapping[str, Seen]) -> Verdict:
    """Nothing acknowledged is missing, nothing is invented, nothing is corrupted."""
    in_store = dict(stored)
    places = {"store": stored} | dict(sinks)
    return Verdict(
        found=len(stored),
        missing={
            place: sorted(senders.acked.keys() - dict(seen)) for place, seen in places.items()
        },
        invented={"store": [i for i, message in stored if message not in senders.sent]}
        | {sink: sorted({i for i, _ in seen if i not in in_store}) for sink, seen in sinks.items()},
        corrupted={"store": [i for i, m in stored if senders.acked.get(i, m) != m]}
        | {
            sink: [i for i, message in seen if in_store.get(i, message) != message]
            for sink, seen in sinks.items()
        },
        twice={sink: repeated(i for i, _ in seen) for sink, seen in sinks.items()}
        # A request makes one event at most: its message may not be there under two ids either.
        | {"store": repeated(i for i, _ in stored) + repeated(m for _, m in stored)},
    )


def repeated(values: Iterable[str]) -> list[str]:
    return [value for value, times in Counter(values).items() if times > 1]


# what is where


async def in_store(store: SqliteStore) -> Seen:
    """Every event, the oldest first."""
    seen: Seen = []
    after = 0
    while page := await store.events_after(EventFilter(), after=after, limit=PAGE):
        seen += [(row.event.id, row.event.data["message"]) for row in page]
        after = page[-1].seq
    return seen


async def unfinished(store: SqliteStore) -> list[tuple[str, str, str]]:
    """Deliveries that are not delivered: (sink, event id, state)."""
    rows = await store.deliveries(
        [state for state in State if state != State.DELIVERED], limit=PAGE
    )
    return [(row.sink, row.event_id, row.state.name) for row in rows]


def in_csv(*paths: Path) -> Seen:
    """The rows of csv files written by the sink with its default columns.

    Where one is no CSV any more, that is a row which nobody sent.
    """
    seen: Seen = []
    for path in paths:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            try:
                for row in csv.DictReader(file, strict=True):
                    seen.append((row["id"], row["message"]))
            except csv.Error as error:
                seen.append((f"{path.name}: {error}", ""))
    return seen


def in_receiver(bodies: Iterable[bytes]) -> Seen:
    """CloudEvents in structured mode, as the webhook sink sends them."""
    events = map(json.loads, bodies)
    return [(event["id"], event["data"]["message"]) for event in events]


def integrity(path: Path) -> str:
    """What SQLite says of a file that nobody has open."""
    connection = apsw.Connection(str(path))
    try:
        return connection.execute("PRAGMA integrity_check").get
    finally:
        connection.close()
