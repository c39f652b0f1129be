"""Storing arrivals: the event, its deliveries, and what it says of the contact's consent."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from relay.sqlite import rows
from relay.sqlite.memory import Memory
from relay.store import Arrival, Receipt, State

OPT_OUT = "opt_out"


def add_all(
    connection: apsw.Connection, memory: Memory, arrivals: Sequence[Arrival]
) -> list[Receipt]:
    """Store the arrivals in their order; one receipt for each."""
    receipts: list[Receipt] = []
    fresh: list[tuple[int, int, Arrival]] = []
    seen: dict[tuple[str, str], Receipt] = {}
    for arrival in arrivals:
        receipt = _repeat(connection, arrival, seen)
        if receipt is None:
            receipt = Receipt(arrival.event.id, arrival.event.type)
            message_id = arrival.event.data.get("message_id")
            if message_id is not None and arrival.copy_of is None:
                seen[arrival.source, message_id] = Receipt(receipt.id, receipt.type, repeated=True)
            memory.last_seq += 1
            contact = memory.contact(arrival.source, arrival.event.data["mobile"])
            fresh.append((memory.last_seq, contact, arrival))
        receipts.append(receipt)
    rows.insert(connection, "events", [_event_row(connection, *item) for item in fresh])
    _insert_deliveries(connection, memory, fresh)
    for seq, contact, arrival in fresh:
        if arrival.event.data.get("consent") is not None and arrival.copy_of is None:
            _note_consent(connection, memory, seq, contact, arrival)
    return receipts


def _repeat(
    connection: apsw.Connection, arrival: Arrival, seen: Mapping[tuple[str, str], Receipt]
) -> Receipt | None:
    """The receipt of the first event with this message id."""
    message_id = arrival.event.data.get("message_id")
    if message_id is None or arrival.copy_of is not None:
        return None
    if receipt := seen.get((arrival.source, message_id)):
        return receipt
    for event_id, kind in rows.every(
        connection,
        "SELECT json_extract(event, '$.id'), json_extract(event, '$.type') FROM events"
        " WHERE source = ? AND message_id = ?",
        (arrival.source, message_id),
    ):
        return Receipt(event_id, kind, repeated=True)
    return None


def _event_row(
    connection: apsw.Connection, seq: int, contact: int, arrival: Arrival
) -> tuple[Any, ...]:
    event, callback = arrival.event, arrival.callback
    copy_of = None
    if arrival.copy_of is not None:
        copy_of = rows.value(
            connection,
            "SELECT ifnull(copy_of, seq) FROM events WHERE id = ?",
            (id_bytes(arrival.copy_of),),
        )
    return (
        seq,
        id_bytes(event.id),
        arrival.source,
        arrival.kind,
        event.data.get("keyword"),
        callback.received,
        contact,
        None if arrival.copy_of is not None else event.data.get("message_id"),
        copy_of,
        event.to_json(),
        callback.method,
        callback.query,
        callback.content_type,
        callback.body,
    )


def _insert_deliveries(
    connection: apsw.Connection, memory: Memory, fresh: Sequence[tuple[int, int, Arrival]]
) -> None:
    """One delivery for each event and matching sink, in one statement for each set of sinks."""
    alike: dict[tuple[frozenset[str], bool], list[int]] = defaultdict(list)
    for seq, contact, arrival in fresh:
        names = []
        for name, error in arrival.deliveries.items():
            if error is None:
                names.append(name)
            else:
                _insert_dead(connection, memory, name, seq, contact, arrival, error)
        if names:
            alike[frozenset(names), arrival.copy_of is not None].append(seq)
    for (matching, copy), seqs in alike.items():
        sinks = [memory.sink(connection, name) for name in matching]
        connection.execute(
            "INSERT INTO deliveries (sink, seq, contact, replayed, late)"
            " SELECT sinks.value, seq, contact, ?4, ?4 FROM json_each(?1) sinks, events"
            " WHERE seq IN (SELECT value FROM json_each(?2)) AND seq >= ?3",
            (rows.array(sinks), rows.array(seqs), seqs[0], copy),
        )
        for sink in sinks:
            memory.count(sink, None, State.PENDING, len(seqs))
            memory.rouse(sink)


def _insert_dead(
    connection: apsw.Connection,
    memory: Memory,
    name: str,
    seq: int,
    contact: int,
    arrival: Arrival,
    error: str,
) -> None:
    """A delivery whose `when` raised is dead from the start, and waits to be looked at."""
    sink = memory.sink(connection, name)
    connection.execute(
        "INSERT INTO deliveries (sink, seq, contact, state, error, settled)"
        " VALUES (?, ?, ?, 5, ?, ?)",
        (sink, seq, contact, error, arrival.callback.received),
    )
    memory.count(sink, None, State.DEAD)


def _note_consent(
    connection: apsw.Connection, memory: Memory, seq: int, contact: int, arrival: Arrival
) -> None:
    word = arrival.event.data["consent"]
    connection.execute(
        "INSERT INTO consents (contact, source, word, seq, received) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (contact) DO UPDATE SET word = excluded.word, seq = excluded.seq,"
        " received = excluded.received",
        (contact, arrival.source, word, seq, arrival.callback.received),
    )
    memory.any_consent = True
    if word == OPT_OUT:
        for name in arrival.deliveries:
            hurry(connection, memory, memory.sink(connection, name), contact, seq)


def hurry(connection: apsw.Connection, memory: Memory, sink: int, contact: int, seq: int) -> None:
    """Move the contact's open deliveries up to `seq` to the front of the sink's queue."""
    first = rows.value(
        connection,
        "SELECT min(seq) FROM deliveries WHERE sink = ? AND state = 0 AND urgent = 0",
        (sink,),
    )
    seqs = [] if first is None else events_of(connection, contact, first, seq)
    seqs += [other for other, flight in memory.flying[sink].items() if flight.contact == contact]
    connection.execute(
        "UPDATE deliveries SET urgent = 1 WHERE sink = ?1 AND state IN (0, 1)"
        " AND seq IN (SELECT value FROM json_each(?2))",
        (sink, rows.array(seqs)),
    )
    connection.execute(
        "UPDATE deliveries SET urgent = 1 WHERE sink = ? AND contact = ? AND seq <= ?"
        " AND state IN (2, 3)",
        (sink, contact, seq),
    )
    memory.rouse(sink, urgent=True)


def events_of(connection: apsw.Connection, contact: int, first: int, last: int) -> list[int]:
    """The seqs of a contact's events from `first` to `last`, by one seek for each chunk."""
    return [
        row[0]
        for row in rows.fetch(
            connection,
            "seq",
            "FROM (WITH RECURSIVE chunks (chunk) AS (SELECT ?2 >> 12 UNION ALL"
            " SELECT chunk + 1 FROM chunks WHERE chunk < ?3 >> 12) SELECT chunk FROM chunks)"
            " CROSS JOIN events INDEXED BY events_contact WHERE seq >> 12 = chunk"
            " AND contact = ?1 AND seq BETWEEN ?2 AND ?3 ORDER BY seq",
            (contact, first, last),
        )
    ]


def id_bytes(event_id: str) -> bytes:
    """An event's id as the store keeps it. Raises ValueError for what is no UUID."""
    return bytes.fromhex(event_id.replace("-", ""))
