"""How long deliveries have waited: for each sink the oldest, and the oldest opt-out."""

from typing import NamedTuple

import apsw

from relay.event import OPT_OUT
from relay.store import Waits
from relay.store.sqlite import rows

LOOKED_AT = 20_000
"""So many rows are gone through in one look: it must end soon, and the next one goes on."""

# What was asked for again, or goes once more behind another, has been waited for by nobody.
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
    " AND (c.seq = d.seq OR (SELECT json_extract(event, '$.data.consent') FROM events e"
    " WHERE e.seq = d.seq) = ?1))"
)


class Oldest(NamedTuple):
    """The seqs of one sink's oldest open delivery and oldest opt-out that has not arrived."""

    open: int | None
    opt_out: int | None


class WaitReader:
    """Remembers up to where it has looked for deliveries without rows, as events are many."""

    def __init__(self) -> None:
        self._looked_to: dict[int, int] = {}

    def look(self, connection: apsw.Connection) -> dict[str, Waits]:
        """Of every sink that has something open or dead."""
        dead = _dead_opt_outs(connection)
        found = {}
        for sink, name, cursor, pending in rows.every(
            connection, "SELECT id, name, cursor, pending FROM sinks WHERE pending > 0 OR dead > 0"
        ):
            oldest = self._oldest(connection, sink, cursor) if pending else Oldest(None, None)
            found[name] = Waits(
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
    """Opt-outs that were given up have not arrived either, until somebody sees to them."""
    found = rows.every(
        connection,
        "SELECT sink, min(seq) FROM (SELECT sink, seq, contact, landed FROM deliveries"
        " INDEXED BY deliveries_dead WHERE state = 5 ORDER BY seq DESC LIMIT ?3) d"
        f" WHERE landed = 0 AND {IS_OPT_OUT} GROUP BY sink",
        (OPT_OUT, None, LOOKED_AT),
    )
    return dict(found)


def died(connection: apsw.Connection, since: int, until: int) -> dict[str, int]:
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
