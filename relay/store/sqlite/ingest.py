"""Storing new events: their rows, their deliveries, and their words of consent.

A word of consent is an opt-out or an opt-in. It is also stored in tables of its own. Retention
deletes nothing from these tables. The contact in them is a keyed hash.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import apsw

from relay.event import OPT_OUT, Event
from relay.store import NewEvent, Receipt, State
from relay.store.sqlite import rows
from relay.store.sqlite.state import WriterState

NO_HASH = 0
"""The text hash of an event that is no message, and of one that an earlier release stored.

Of the latter, the text itself is compared.
"""


class Message(NamedTuple):
    """What identifies a message. The same message is stored once."""

    source: str
    message_id: str
    contact: int
    text_hash: int


class NewRow(NamedTuple):
    """An arrival that is not a repeat.

    `rank` is the place of the event in the order of its contact, where that is not its seq.
    """

    seq: int
    contact: int
    rank: int | None
    message: Message | None
    arrival: NewEvent


def add_all(
    connection: apsw.Connection, writer: WriterState, arrivals: Sequence[NewEvent]
) -> list[Receipt]:
    """Store the arrivals in their order; return one receipt for each."""
    receipts, new = _without_repeats(connection, writer, arrivals)
    routes = [_route(connection, writer, each) for each in new]
    rows.insert(connection, "events", list(map(_event_row, new, routes)))
    _notify(writer, routes)
    for each in new:
        _insert_special(connection, writer, each)
    for each in new:
        if each.arrival.event.consent is not None:
            _note_consent(connection, writer, each)
    return receipts


def _without_repeats(
    connection: apsw.Connection, writer: WriterState, arrivals: Sequence[NewEvent]
) -> tuple[list[Receipt], list[NewRow]]:
    """The receipt of each arrival, and the rows of those that are not stored already."""
    receipts: list[Receipt] = []
    new: list[NewRow] = []
    contacts = [writer.contact_of(each.source, each.event, each.copy_of) for each in arrivals]
    messages = list(map(partial(_message, writer), arrivals, contacts))
    ids = _used_ids(connection, [each for each in messages if each is not None])
    known = _repeated(connection, writer, [each for each in messages if each and each[:2] in ids])
    for arrival, contact, message in zip(arrivals, contacts, messages, strict=True):
        receipt = None if message is None else known.get(message)
        if receipt is None:
            event = arrival.event
            receipt = Receipt(event.id, event.type)
            if message is not None:
                receipt = receipt._replace(id_reused=message[:2] in ids)
                known[message] = Receipt(event.id, event.type, repeated=True)
                ids.add(message[:2])
            writer.last_seq += 1
            rank = _rank(connection, contact, arrival)
            new.append(NewRow(writer.last_seq, contact, rank, message, arrival))
        receipts.append(receipt)
    return receipts, new


def _message(writer: WriterState, arrival: NewEvent, contact: int) -> Message | None:
    """The message of an arrival. None for a copy: it is a repeat on purpose."""
    event = arrival.event
    if event.dedup_key is None or arrival.copy_of is not None:
        return None
    return Message(arrival.source, event.dedup_key, contact, writer.text_hash(event.content))


def _used_ids(connection: apsw.Connection, messages: Sequence[Message]) -> set[tuple[str, str]]:
    """Those sources and message ids that are stored already, with any number and any text."""
    used = (
        "SELECT column1, column2 FROM {rows} WHERE EXISTS"
        " (SELECT 1 FROM events WHERE source = column1 AND message_id = column2)"
    )
    return set(rows.there(connection, used, [each[:2] for each in messages]))


def _repeated(
    connection: apsw.Connection, writer: WriterState, messages: Sequence[Message]
) -> dict[Message, Receipt]:
    """The receipts of those messages that are stored already."""
    wanted = [
        (*each[:3], text_hash) for each in messages for text_hash in (each.text_hash, NO_HASH)
    ]
    same = (
        "SELECT source, message_id, contact, text_hash, event"
        " FROM {rows} CROSS JOIN events INDEXED BY events_message ON source = column1"
        " AND message_id = column2 AND contact = column3 AND text_hash = column4"
        " ORDER BY seq DESC"
    )
    found = {}
    for source, message_id, contact, text_hash, text in rows.there(connection, same, wanted):
        event = Event.from_json(text)
        given = text_hash or writer.text_hash(event.content)
        key = Message(source, message_id, contact, given)
        found[key] = Receipt(event.id, event.type, repeated=True)
    return found


def _rank(connection: apsw.Connection, contact: int, arrival: NewEvent) -> int | None:
    if arrival.copy_of is not None:
        first = "SELECT ifnull(rank, seq) FROM events WHERE id = ?"
        rank: int | None = rows.value(connection, first, (id_bytes(arrival.copy_of),))
        return rank or 0  # 0, the oldest place, where the original was purged meanwhile
    if arrival.late:
        # A late event stands before an opt-out that was received after it. A late word of consent
        # stands before any word that was received after it.
        says_a_word = arrival.event.consent is not None
        before: int | None = rows.value(
            connection,
            "SELECT seq - 1 FROM consents WHERE contact = ? AND (word = ? OR ?) AND received > ?",
            (contact, OPT_OUT, says_a_word, arrival.callback.received),
        )
        return before
    return None


def _route(connection: apsw.Connection, writer: WriterState, new: NewRow) -> int:
    """The route: the sinks whose deliveries of the event need no row yet."""
    if new.rank is not None:
        return writer.route(connection, ())
    deliveries = new.arrival.deliveries
    names = [name for name, error in deliveries.items() if error is None]
    return writer.route(connection, tuple(names))


def _event_row(new: NewRow, route: int) -> tuple[Any, ...]:
    arrival = new.arrival
    event, callback, message = arrival.event, arrival.callback, new.message
    return (
        new.seq,
        id_bytes(event.id),
        arrival.source,
        arrival.kind,
        event.topic,
        callback.received,
        new.contact,
        route,
        None if message is None else message.message_id,
        new.rank,
        event.to_stored_json(),
        callback.method,
        callback.query,
        callback.content_type,
        callback.body,
        callback.encoding,
        NO_HASH if message is None else message.text_hash,
    )


def _notify(writer: WriterState, routes: Sequence[int]) -> None:
    """Count the new deliveries, and wake their sinks."""
    for route, number in Counter(routes).items():
        for sink in writer.routes[route]:
            writer.count(sink, None, State.PENDING, number)
            writer.notify(sink)


def _insert_special(connection: apsw.Connection, writer: WriterState, new: NewRow) -> None:
    """Insert the rows of deliveries that are not in the route.

    Their `when` raised, or their event has a rank.
    """
    seq, contact, rank, _, arrival = new
    for name, error in arrival.deliveries.items():
        if error is not None:
            _insert_dead(connection, writer, name, seq, contact, arrival, error)
        elif rank is not None:
            sink = writer.sink(connection, name)
            connection.execute(
                "INSERT INTO deliveries (sink, seq, contact, replayed, late)"
                " VALUES (?, ?, ?, ?, 1)",
                (sink, seq, contact, arrival.copy_of is not None),
            )
            writer.count(sink, None, State.PENDING)
            writer.notify(sink)
            if arrival.event.consent == OPT_OUT:
                # Then no other delivery of its contact is in flight with it. An unordered sink
                # allows that for deliveries that are not urgent.
                make_urgent(connection, writer, sink, contact, seq)


def _insert_dead(
    connection: apsw.Connection,
    writer: WriterState,
    name: str,
    seq: int,
    contact: int,
    arrival: NewEvent,
    error: str,
) -> None:
    """Insert a delivery whose `when` raised. It is DEAD, and an operator can see and replay it."""
    sink = writer.sink(connection, name)
    connection.execute(
        "INSERT INTO deliveries (sink, seq, contact, state, error, settled)"
        " VALUES (?, ?, ?, 5, ?, ?)",
        (sink, seq, contact, error, arrival.callback.received),
    )
    writer.count(sink, None, State.DEAD)


def _note_consent(connection: apsw.Connection, writer: WriterState, new: NewRow) -> None:
    seq, contact, rank, _, arrival = new
    word = arrival.event.consent
    if arrival.copy_of is None:
        _note_word(connection, seq, contact, arrival)
    if rank is not None:
        return  # it is not the last word
    connection.execute(
        "INSERT INTO consents (contact, source, word, seq, received) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (contact) DO UPDATE SET word = excluded.word, seq = excluded.seq,"
        " received = excluded.received",
        (contact, arrival.source, word, seq, arrival.callback.received),
    )
    writer.consent_sources |= {arrival.source}
    if word == OPT_OUT:
        for name in arrival.deliveries:
            make_urgent(connection, writer, writer.sink(connection, name), contact, seq)


def make_urgent(
    connection: apsw.Connection, writer: WriterState, sink: int, contact: int, seq: int
) -> None:
    """Mark the contact's open deliveries up to `seq` as urgent: the sink claims those first."""
    first = rows.value(
        connection,
        "SELECT min(ifnull(min(seq), ?2), ?2) FROM deliveries INDEXED BY deliveries_pending"
        " WHERE sink = ?1 AND state = 0 AND urgent = 0",
        (sink, writer.cursors[sink] + 1),
    )
    seqs = events_of(connection, [contact], first, seq)
    materialise(connection, writer, sink, seqs)
    seqs += [other for other, flight in writer.in_flight[sink].items() if flight.contact == contact]
    connection.execute(
        "UPDATE deliveries SET urgent = 1 WHERE sink = ?1 AND state IN (0, 1)"
        " AND seq IN (SELECT value FROM json_each(?2))",
        (sink, rows.array(seqs)),
    )
    connection.execute(
        "UPDATE deliveries INDEXED BY deliveries_held SET urgent = 1"
        " WHERE sink = ? AND contact = ? AND seq <= ? AND state IN (2, 3)",
        (sink, contact, seq),
    )
    writer.notify(sink, urgent=True)


def materialise(
    connection: apsw.Connection, writer: WriterState, sink: int, seqs: Sequence[int]
) -> None:
    """Insert the deliveries of these events that go to the sink and have no row yet."""
    connection.execute(
        "INSERT OR IGNORE INTO deliveries (sink, seq, contact) SELECT ?1, seq, contact FROM events"
        " WHERE seq > ?2 AND seq IN (SELECT value FROM json_each(?3))"
        " AND route IN (SELECT route FROM routes WHERE sink = ?1)",
        (sink, writer.cursors[sink], rows.array(seqs)),
    )


def events_of(
    connection: apsw.Connection, contacts: Sequence[int], first: int, last: int
) -> list[int]:
    """The seqs of contacts' events from `first` to `last`. Each chunk needs one search."""
    return [
        row[0]
        for row in rows.fetch(
            connection,
            "seq",
            "FROM (WITH RECURSIVE chunks (chunk) AS (SELECT ?2 >> 10 UNION ALL"
            " SELECT chunk + 1 FROM chunks WHERE chunk < ?3 >> 10) SELECT chunk FROM chunks)"
            " CROSS JOIN events INDEXED BY events_contact WHERE seq >> 10 = chunk"
            " AND contact IN (SELECT value FROM json_each(?1)) AND seq BETWEEN ?2 AND ?3"
            " ORDER BY seq",
            (rows.array(contacts), first, last),
        )
    ]


def id_bytes(event_id: str) -> bytes:
    """An event's id as the store keeps it. Raises ValueError for what is no UUID."""
    return bytes.fromhex(event_id.replace("-", ""))


def _note_word(connection: apsw.Connection, seq: int, contact: int, arrival: NewEvent) -> None:
    """Record the event's word of consent."""
    event = arrival.event
    connection.execute(
        "INSERT INTO words VALUES (?, ?, ?, ?, ?, ?)",
        (
            seq,
            contact,
            arrival.source,
            event.consent,
            event.test,
            arrival.callback.received,
        ),
    )


INTERVAL = 60.0
"""Seconds between two lines in the log about one source."""

log = logging.getLogger("relay.store")


class ReusedIds:
    """Counts messages whose id was used before, for another number or text.

    `counts` is by source, since the start of the process. `now` returns seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._now = now
        self._logged_at: dict[str, float] = {}
        self._logged: Counter[str] = Counter()

    def note(self, source: str, receipt: Receipt) -> None:
        """Count a receipt with a reused id. Log at most one line in INTERVAL for a source.

        The line has neither the message id nor the number: a sender chooses both.
        """
        if not receipt.id_reused:
            return
        self.counts[source] += 1
        if self._now() - self._logged_at.get(source, -math.inf) < INTERVAL:
            return
        log.warning(
            "source %s: a message id came again with another number or text, %d since the last"
            " such line; the last of them is the event %s",
            source,
            self.counts[source] - self._logged[source],
            receipt.id,
        )
        self._logged_at[source] = self._now()
        self._logged[source] = self.counts[source]
