"""Callbacks that became no event: kept as they came, until released or discarded."""

import logging
from collections.abc import Sequence
from typing import Any

import apsw
from uuid_utils import uuid7

from relay.event import RawCallback
from relay.senders import surplus
from relay.store import UNAUTHORIZED, UNAUTHORIZED_KEPT, NewEvent, Quarantined, Receipt
from relay.store.sqlite import rows
from relay.store.sqlite.ingest import add_all, id_bytes
from relay.store.sqlite.state import WriterState

COLUMNS = (
    "seq, lower(hex(id)), received, source, status, reason, method, query, content_type, body,"
    " test, encoding, sender, token_digest"
)


NOT_UNDERSTOOD = 422
ROW = 300
"""Bytes that a row takes beside the callback's own, about."""
SIZE = f"{ROW} + length(query) + length(body)"
STEP = 200
"""The most callbacks that are dropped with one that comes."""

log = logging.getLogger("relay.store")


def quarantine(
    connection: apsw.Connection,
    writer: WriterState,
    callback: RawCallback,
    status: int,
    reason: str,
    quarantine_id: str | None = None,
) -> str:
    """Keep a callback; of those with a wrong token only so many, and of all only so many bytes."""
    quarantine_id = quarantine_id or str(uuid7())
    connection.execute(
        "INSERT INTO quarantine (id, received, source, status, reason, test, method, query,"
        " content_type, body, encoding, sender, token_digest)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id_bytes(quarantine_id),
            callback.received,
            callback.source,
            status,
            reason,
            callback.test,
            callback.method,
            callback.query,
            callback.content_type,
            callback.body,
            callback.encoding,
            callback.sender,
            callback.token_digest,
        ),
    )
    if status == UNAUTHORIZED:
        _make_room(connection)
    _keep_within(connection, writer, ROW + len(callback.query) + len(callback.body))
    return quarantine_id


def _keep_within(connection: apsw.Connection, writer: WriterState, added: int) -> None:
    """Drop the oldest where all are more than `quarantine_size` bytes, down to nine tenths of that.

    What has left the quarantine is not subtracted: above the limit all is summed up again.
    """
    limit = writer.quarantine_size
    if writer.quarantine_bytes is not None:
        writer.quarantine_bytes += added
        if writer.quarantine_bytes <= limit:
            return
    total: int = rows.value(connection, f"SELECT ifnull(sum({SIZE}), 0) FROM quarantine")
    dropped = []
    if total > limit:
        oldest = rows.every(
            connection, f"SELECT seq, {SIZE} FROM quarantine ORDER BY seq LIMIT ?", (STEP,)
        )
        for seq, size in oldest[:-1]:
            if total <= limit * 9 // 10:
                break
            dropped.append(seq)
            total -= size
    if dropped:
        remove(connection, writer, dropped)
        log.warning(
            "the quarantine is full (retention.quarantine_size): %d of the oldest callbacks in it"
            " were dropped",
            len(dropped),
        )
    writer.quarantine_bytes = total


def remove(connection: apsw.Connection, _: WriterState, seqs: Sequence[int]) -> int:
    """Remove quarantined callbacks; return how many there were."""
    gone = rows.every(
        connection,
        "DELETE FROM quarantine WHERE seq IN (SELECT value FROM json_each(?)) RETURNING seq",
        (rows.array(seqs),),
    )
    return len(gone)


def _make_room(connection: apsw.Connection) -> None:
    """Keep no more callbacks with a wrong token than there may be."""
    kept = rows.every(
        connection,
        "SELECT sender, seq FROM quarantine INDEXED BY quarantine_senders"
        f" WHERE status = {UNAUTHORIZED}",
    )
    for seq in surplus(kept, UNAUTHORIZED_KEPT):
        connection.execute("DELETE FROM quarantine WHERE seq = ?", (seq,)).fetchall()


def release(
    connection: apsw.Connection,
    writer: WriterState,
    quarantine_id: str,
    arrivals: Sequence[NewEvent],
    invalid: Sequence[tuple[RawCallback, str]] = (),
) -> list[Receipt] | None:
    """Store what became of the callback, and let go of it; None where it has gone already."""
    if not discard(connection, writer, [quarantine_id]):
        return None
    for callback, reason in invalid:
        quarantine(connection, writer, callback, NOT_UNDERSTOOD, reason)
    return add_all(connection, writer, [each._replace(late=True) for each in arrivals])


def discard(connection: apsw.Connection, _: WriterState, ids: Sequence[str] | None) -> int:
    """Drop the callbacks with these ids, or all."""
    if ids is None:
        return len(rows.every(connection, "DELETE FROM quarantine RETURNING seq"))
    return sum(
        len(
            rows.every(
                connection, "DELETE FROM quarantine WHERE id = ? RETURNING seq", (id_bytes(each),)
            )
        )
        for each in ids
    )


def some(
    connection: apsw.Connection, *, before: int | None = None, limit: int = 50
) -> list[Quarantined]:
    """The newest first, older than the one with the seq `before`."""
    bound = "" if before is None else "WHERE seq < ?2"
    bindings = (limit,) if before is None else (limit, before)
    found = rows.every(
        connection, f"SELECT {COLUMNS} FROM quarantine {bound} ORDER BY seq DESC LIMIT ?1", bindings
    )
    return [_quarantined(row) for row in found]


def one(connection: apsw.Connection, quarantine_id: str) -> Quarantined | None:
    """The callback with this id."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM quarantine WHERE id = ?", (id_bytes(quarantine_id),)
    ).fetchone()
    return _quarantined(row) if row else None


def _quarantined(row: Sequence[Any]) -> Quarantined:
    seq, digits, received, source, status, reason, method, query, *rest = row
    content_type, body, test, *rest = rest
    encoding, sender, token_digest = rest
    callback = RawCallback(
        source,
        method,
        query,
        content_type,
        body,
        received,
        bool(test),
        encoding=encoding,
        sender=sender,
        token_digest=token_digest,
    )
    return Quarantined(seq, _uuid(digits), received, source, status, reason, callback)


def _uuid(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def since(connection: apsw.Connection, count: int) -> int | None:
    """When the oldest of the newest `count` came; None for fewer there."""
    came: int | None = rows.value(
        connection,
        "SELECT received FROM quarantine ORDER BY seq DESC LIMIT 1 OFFSET ?",
        (count - 1,),
    )
    return came
