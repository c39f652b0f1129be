"""Reads for the commands, the metrics and the alerts, on connections that cannot write."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from relay.event import OPT_OUT, Event, RawCallback
from relay.store import (
    Attempt,
    BacklogAge,
    ConsentRecord,
    DeliveryRow,
    EventFilter,
    EventRow,
    SinkCounts,
    State,
)
from relay.store.sqlite import rows
from relay.store.sqlite.ingest import id_bytes

EVENT = "seq, source, received, event, method, query, content_type, body, encoding"
DELIVERY = (
    "sinks.name, d.seq, json_extract(e.event, '$.id'), json_extract(e.event, '$.type'),"
    " e.received, d.state, d.attempts, d.due, d.error, d.reference, d.settled"
    " FROM {} d CROSS JOIN sinks ON sinks.id = d.sink CROSS JOIN events e USING (seq)"
)


def event_count(connection: apsw.Connection) -> int:
    return _number(connection, "SELECT count(*) FROM events")


def quarantine_count(connection: apsw.Connection) -> int:
    return _number(connection, "SELECT count(*) FROM quarantine")


def last_seq(connection: apsw.Connection) -> int:
    return _number(connection, "SELECT ifnull(max(seq), 0) FROM events")


def known(connection: apsw.Connection, ids: Sequence[str]) -> set[str]:
    """Which of these are the ids of events, or of callbacks in quarantine."""
    wanted = {id_bytes(each): each for each in ids}
    found = [
        row[0]
        for table in ("events", "quarantine")
        for row in rows.among(connection, f"SELECT id FROM {table} WHERE id IN", (), list(wanted))
    ]
    return {wanted[each] for each in found}


def reusable(connection: apsw.Connection) -> int:
    """Bytes of the pages that are free."""
    return _number(connection, "PRAGMA freelist_count") * _number(connection, "PRAGMA page_size")


def keywords(connection: apsw.Connection, *, after: int, limit: int) -> tuple[int, dict[str, int]]:
    """The seq up to which it looked, and when each keyword came last."""
    found = rows.every(
        connection,
        "SELECT keyword, max(received), max(seq) FROM (SELECT seq, keyword, received FROM events"
        " WHERE seq > ? ORDER BY seq LIMIT ?) GROUP BY keyword",
        (after, limit),
    )
    last = {keyword: received for keyword, received, _ in found if keyword is not None}
    return max((seq for *_, seq in found), default=after), last


def sink_counts(connection: apsw.Connection) -> dict[str, SinkCounts]:
    """What the counters say, for every sink that ever had a delivery."""
    found = rows.every(connection, "SELECT name, pending, delivered, dead FROM sinks")
    return {name: SinkCounts(*counts) for name, *counts in found}


def last_word(connection: apsw.Connection, contacts: Sequence[int]) -> str | None:
    """The latest word of these contacts, which have one number at several sources."""
    word: str | None = rows.value(
        connection,
        "SELECT word FROM consents WHERE contact IN (SELECT value FROM json_each(?))"
        " ORDER BY seq DESC LIMIT 1",
        (rows.array(contacts),),
    )
    return word


def opted_out(connection: apsw.Connection, contact: int) -> bool:
    return bool(
        _number(
            connection,
            "SELECT EXISTS (SELECT 1 FROM consents WHERE contact = ? AND word = 'opt_out')",
            (contact,),
        )
    )


def later_consent(connection: apsw.Connection, sink: str, seqs: Sequence[int]) -> list[EventRow]:
    """The last words of these events' contacts that come later, and never went to the sink.

    An opt-in matters only behind an older opt-out.
    """
    behind = (
        "seq IN (SELECT c.seq FROM events e CROSS JOIN consents c USING (contact)"
        " WHERE e.seq IN (SELECT value FROM json_each(?)) AND ifnull(e.rank, e.seq) < c.seq"
        f" AND ? IN (c.word, {rows.CONSENT}))"
    )
    never_went = (
        "NOT EXISTS (SELECT 1 FROM sinks CROSS JOIN all_deliveries d ON d.sink = sinks.id"
        " WHERE sinks.name = ? AND d.seq = events.seq)"
    )
    bindings = (rows.array(seqs), OPT_OUT, sink, len(seqs))
    return _events(connection, [behind, never_went], "seq", bindings)


def consent_log(
    connection: apsw.Connection, *, after: int, limit: int = 500
) -> list[ConsentRecord]:
    """The oldest first, newer than the seq `after`."""
    found = rows.every(
        connection,
        "SELECT words.seq, words.contact, words.source, word, test, words.received, event"
        " FROM words LEFT JOIN events USING (seq) WHERE words.seq > ? ORDER BY words.seq LIMIT ?",
        (after, limit),
    )
    accepted: dict[int, dict[str, int]] = {row[0]: {} for row in found}
    for seq, sink, at in rows.every(
        connection,
        "SELECT seq, name, accepted FROM words_accepted JOIN sinks ON sinks.id = sink"
        " WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY accepted",
        (rows.array(list(accepted)),),
    ):
        accepted[seq][sink] = at
    return [
        ConsentRecord(
            seq, f"{contact:016x}", _contact(event), source, word, bool(test), said, accepted[seq]
        )
        for seq, contact, source, word, test, said, event in found
    ]


def events(
    connection: apsw.Connection, where: EventFilter, *, before: int | None = None, limit: int = 50
) -> list[EventRow]:
    """The newest first."""
    terms, bindings = _terms(where)
    if before is not None:
        terms.append("seq < ?")
        bindings.append(before)
    return _events(connection, terms, "seq DESC", [*bindings, limit])


def events_after(
    connection: apsw.Connection, where: EventFilter, *, after: int, limit: int = 500
) -> list[EventRow]:
    """The oldest first."""
    terms, bindings = _terms(where)
    return _events(connection, [*terms, "seq > ?"], "seq", [*bindings, after, limit])


def event(connection: apsw.Connection, event_id: str) -> EventRow | None:
    """One event with its deliveries and their failed attempts."""
    row = connection.execute(
        f"SELECT {EVENT} FROM events WHERE id = ?", (id_bytes(event_id),)
    ).fetchone()
    if row is None:
        return None
    seq = row[0]
    deliveries = rows.every(
        connection,
        f"SELECT {DELIVERY.format('all_deliveries')}"
        " WHERE d.seq = ? AND d.sink IN (SELECT id FROM sinks) ORDER BY 1",
        (seq,),
    )
    attempts = rows.every(
        connection,
        "SELECT name, number, started, duration, error, status, answer FROM attempts"
        " JOIN sinks ON sinks.id = sink WHERE sink IN (SELECT id FROM sinks) AND seq = ?"
        " ORDER BY name, started",
        (seq,),
    )
    return _event_row(
        row,
        [_delivery(each) for each in deliveries],
        [(name, number, Attempt(*rest)) for name, number, *rest in attempts],
    )


def deliveries(
    connection: apsw.Connection,
    states: Sequence[State],
    *,
    sink: str | None = None,
    before: tuple[int, str] | None = None,
    limit: int = 50,
) -> list[DeliveryRow]:
    """The newest first; of one event in the order of the sinks' ids."""
    table = "all_deliveries" if State.PENDING in states else "deliveries"
    # An index of one state is only used for a comparison with that state.
    terms = [f"({' OR '.join(f'd.state = {int(state)}' for state in states)})"]
    bindings: list[Any] = []
    if sink is not None:
        terms.append("d.sink = (SELECT id FROM sinks WHERE name = ?)")
        bindings.append(sink)
    if before is not None:
        terms.append("(d.seq, d.sink) < (?, (SELECT id FROM sinks WHERE name = ?))")
        bindings += before
    found = rows.every(
        connection,
        f"SELECT {DELIVERY.format(table)} WHERE {' AND '.join(terms)}"
        " ORDER BY d.seq DESC, d.sink DESC LIMIT ?",
        [*bindings, limit],
    )
    return [_delivery(row) for row in found]


NO_COPY = (
    "(rank IS NULL OR NOT EXISTS (SELECT 1 FROM events first"
    " WHERE first.seq = events.rank AND first.received = events.received))"
)


def _number(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> int:
    return rows.every(connection, sql, bindings)[0][0]  # type: ignore[no-any-return]


def _terms(where: EventFilter) -> tuple[list[str], list[Any]]:
    wanted = {
        "source = ?": where.source,
        "kind = ?": where.kind,
        "keyword = ? COLLATE NOCASE": where.keyword,
        "received >= ?": where.since,
        "received < ?": where.until,
    }
    terms = [term for term, value in wanted.items() if value is not None]
    if not where.copies:
        terms.append(NO_COPY)
    return terms, [value for value in wanted.values() if value is not None]


def _events(
    connection: apsw.Connection, terms: Sequence[str], order: str, bindings: Sequence[Any]
) -> list[EventRow]:
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    found = rows.every(
        connection, f"SELECT {EVENT} FROM events {where} ORDER BY {order} LIMIT ?", bindings
    )
    return [_event_row(row, [], []) for row in found]


def _event_row(
    row: Sequence[Any],
    deliveries: list[DeliveryRow],
    attempts: list[tuple[str, int, Attempt]],
) -> EventRow:
    seq, source, received, text, method, query, content_type, body, encoding = row
    event = Event.from_json(text)
    callback = RawCallback(
        source, method, query, content_type, body, received, event.test, encoding=encoding
    )
    return EventRow(seq, source, received, event, callback, deliveries, attempts)


def _delivery(row: Sequence[Any]) -> DeliveryRow:
    sink, seq, event_id, kind, received, state, *rest = row
    return DeliveryRow(sink, seq, event_id, kind, received, State(state), *rest)


LOOKED_AT = 20_000
"""So many rows are gone through in one look: it must end soon, and the next one goes on."""

# A replay, or one sent again behind another delivery, has no waiting time since the receipt.
NEW = "replayed = 0 AND landed = 0"
ROWS = (
    "deliveries INDEXED BY deliveries_pending WHERE sink = ?2 AND state = 0 AND urgent = 0",
    "deliveries INDEXED BY deliveries_pending WHERE sink = ?2 AND state = 0 AND urgent = 1",
    "deliveries INDEXED BY deliveries_in_flight WHERE sink = ?2 AND state = 1",
    "deliveries INDEXED BY deliveries_held WHERE sink = ?2 AND state IN (2, 3)",
)
"""All open deliveries that have rows. Those of the first two come in the order of their seq."""

# An opt-out is urgent, and so is what has to land before it.
IS_OPT_OUT = (
    "EXISTS (SELECT 1 FROM consents c WHERE c.contact = d.contact AND c.word = ?1"
    f" AND (c.seq = d.seq OR (SELECT {rows.CONSENT} FROM events e"
    " WHERE e.seq = d.seq) = ?1))"
)


class Oldest(NamedTuple):
    """The seqs of one sink's oldest open delivery and oldest opt-out that has not arrived."""

    open: int | None
    opt_out: int | None


class BacklogReader:
    """Remembers up to where it has looked for deliveries without rows, as events are many."""

    def __init__(self) -> None:
        self._looked_to: dict[int, int] = {}

    def look(self, connection: apsw.Connection) -> dict[str, BacklogAge]:
        """Of every sink that has something open or dead."""
        dead = _dead_opt_outs(connection)
        found = {}
        for sink, name, cursor, pending in rows.every(
            connection, "SELECT id, name, cursor, pending FROM sinks WHERE pending > 0 OR dead > 0"
        ):
            oldest = self._oldest(connection, sink, cursor) if pending else Oldest(None, None)
            found[name] = BacklogAge(
                _received(connection, oldest.open),
                _received(connection, _least(oldest.opt_out, dead.get(sink))),
            )
        return found

    def _oldest(self, connection: apsw.Connection, sink: int, cursor: int) -> Oldest:
        oldest: int | None = None
        opt_out: int | None = None
        for source in ROWS:
            oldest = _least(oldest, _first(connection, sink, source, NEW))
            urgent = f"landed = 0 AND urgent = 1 AND {IS_OPT_OUT}"
            opt_out = _least(opt_out, _first(connection, sink, source, urgent))
        if oldest is None or oldest > cursor:
            oldest = _least(oldest, self._fresh(connection, sink, cursor))
        return Oldest(oldest, opt_out)

    def _fresh(self, connection: apsw.Connection, sink: int, cursor: int) -> int | None:
        """The first that has no row yet. Such only vanish, or come at the end."""
        start = max(cursor, self._looked_to.get(sink, 0))
        after = "FROM (SELECT seq, route FROM events WHERE seq > ?2 ORDER BY seq LIMIT ?3) e"
        first: int | None = rows.value(
            connection,
            f"SELECT seq {after} WHERE route IN (SELECT route FROM routes WHERE sink = ?1) AND"
            " NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.sink = ?1 AND d.seq = e.seq) LIMIT 1",
            (sink, start, LOOKED_AT),
        )
        if first is None:
            last = rows.value(connection, f"SELECT max(seq) {after}", (None, start, LOOKED_AT))
            self._looked_to[sink] = last or start
        else:
            self._looked_to[sink] = first - 1
        return first


def _first(connection: apsw.Connection, sink: int, source: str, terms: str) -> int | None:
    """The least seq of those among the first `LOOKED_AT` that the terms fit."""
    columns = "seq, contact, urgent, replayed, landed"
    found: int | None = rows.value(
        connection,
        f"SELECT min(seq) FROM (SELECT {columns} FROM {source} LIMIT ?3) d WHERE {terms}",
        (OPT_OUT, sink, LOOKED_AT),
    )
    return found


def _dead_opt_outs(connection: apsw.Connection) -> dict[int, int]:
    """Dead opt-outs count as not arrived until an operator settles them."""
    found = rows.every(
        connection,
        "SELECT sink, min(seq) FROM (SELECT sink, seq, contact, landed FROM deliveries"
        " INDEXED BY deliveries_dead WHERE state = 5 ORDER BY seq DESC LIMIT ?3) d"
        f" WHERE landed = 0 AND {IS_OPT_OUT} GROUP BY sink",
        (OPT_OUT, None, LOOKED_AT),
    )
    return dict(found)


def dead_since(connection: apsw.Connection, *, since: int, until: int) -> dict[str, int]:
    """How many of each sink's dead deliveries were given up in this time."""
    found = rows.every(
        connection,
        "SELECT name, count(*) FROM (SELECT sink, settled FROM deliveries"
        " INDEXED BY deliveries_dead WHERE state = 5 ORDER BY seq DESC LIMIT ?3) d"
        " JOIN sinks ON sinks.id = d.sink WHERE settled BETWEEN ?1 AND ?2 GROUP BY name",
        (since, until, LOOKED_AT),
    )
    return dict(found)


def _least(*seqs: int | None) -> int | None:
    return min((seq for seq in seqs if seq is not None), default=None)


def _received(connection: apsw.Connection, seq: int | None) -> int | None:
    """When the event came, in microseconds since the epoch."""
    if seq is None:
        return None
    received: int | None = rows.value(
        connection, "SELECT received FROM events WHERE seq = ?", (seq,)
    )
    return received


def _contact(event: bytes | None) -> str | None:
    """The contact, where the event is still there."""
    return None if event is None else Event.from_json(event).contact
