"""The store's part of a restore: what a copy lacks of the store that it replaces.

Consent outlives the events. What was purged or erased cannot be stored again from the spill, so
its words of consent are written into the copy, and so are the values kept of accounts.
"""

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import apsw

from relay import fsutil
from relay.event import RawCallback
from relay.state_directory import StateDirectory, wal_files
from relay.store.sqlite import notes, rows
from relay.store.sqlite.connection import connect, connect_reader
from relay.store.sqlite.state import LAST_SEQ

# What was replayed as new is left out: it would be taken for an event of all sinks. What was
# released after its contact had opted out is older than that, and is not its latest consent.
EVENTS_SINCE = (
    "SELECT id, source, method, query, content_type, body, received,"
    " ifnull(json_extract(event, '$.test'), 0), NULL, '', rank IS NOT NULL, {encoding}, '', NULL"
    " FROM main.events e"
    " WHERE NOT EXISTS (SELECT 1 FROM copy.events c WHERE c.id = e.id)"
    " AND NOT (rank IS NOT NULL AND EXISTS"
    " (SELECT 1 FROM main.events f WHERE f.seq = e.rank AND f.received = e.received))"
    " ORDER BY ifnull(rank, seq), seq"
)
QUARANTINED_SINCE = (
    "SELECT id, source, method, query, content_type, body, received, test, status, reason, 0,"
    " {encoding}, {sender}, {token_digest}"
    " FROM main.quarantine q"
    " WHERE NOT EXISTS (SELECT 1 FROM copy.quarantine c WHERE c.id = q.id) ORDER BY seq"
)
LATER_COLUMNS = {"encoding": "''", "sender": "''", "token_digest": "NULL"}


KEEP_NEWER = " WHERE excluded.kept > accounts.kept"
SAME_STORE = (
    "SELECT (SELECT value FROM main.meta WHERE name = 'contact_key')"
    " = (SELECT value FROM copy.meta WHERE name = 'contact_key')"
)
TABLE_EXISTS = "SELECT EXISTS (SELECT 1 FROM {}.sqlite_schema WHERE name = 'words')"
WITHOUT_EVENT = "NOT EXISTS (SELECT 1 FROM main.events e WHERE e.seq = w.seq)"
WORDS = (
    "SELECT seq, contact, source, word, test, received FROM main.words w"
    f" WHERE {WITHOUT_EVENT} AND (contact, received, word) NOT IN"
    " (SELECT contact, received, word FROM copy.{}) ORDER BY seq"
)
LAST = f"SELECT seq, contact, source, word, received FROM main.consents w WHERE {WITHOUT_EVENT}"
ACCEPTED = (
    "SELECT seq, name, accepted FROM main.words_accepted w JOIN main.sinks ON sinks.id = w.sink"
    f" WHERE {WITHOUT_EVENT}"
)
NEW_SINK = "INSERT OR IGNORE INTO sinks (name, cursor) VALUES (?, ?)"
HEARD = "INSERT OR IGNORE INTO words_accepted SELECT ?, id, ? FROM sinks WHERE name = ?"


SqlRow = tuple[Any, ...]


@dataclass(slots=True)
class Restored:
    """`since` callbacks came after the copy was made, or waited in the spill then.

    `aside` is the store as it was. `erased` numbers were erased since, and are there again.
    `trouble` says why not all of the store could be read.
    """

    since: int = 0
    erased: int = 0
    aside: Path | None = None
    trouble: str | None = None


def keep_present(store: Path, copy: Path, restored: Restored) -> None:
    """Carry over consent of events that were purged since the copy, and the notes of accounts.

    As far as that can be read. A refresh token of before may be worth nothing.
    """
    try:
        with _beside(store, copy) as present:
            words, older = consent_since(present), notes.spill_is_older(present)
            kept = account_values(present)
    except apsw.Error as error:
        restored.trouble = str(error)
    else:
        write_consent(words, copy)
        write_account_values(kept, copy)
        if older:
            with closing(connect(copy)) as connection:
                rows.every(connection, notes.SPILL_IS_OLDER)


class StoredCallback(NamedTuple):
    """A callback of the store, with its event's id. With a `status` it is in quarantine.

    One that is `late` may be older than what its contact has said since.
    """

    id: str
    callback: RawCallback
    status: int | None
    reason: str
    late: bool


def callbacks_since(store: Path, copy: Path, restored: Restored) -> Iterator[StoredCallback]:
    """The callbacks that the copy lacks; as many as can be read."""
    try:
        with _beside(store, copy) as present:
            restored.erased = len(_erasures(present, "main") - _erasures(present, "copy"))
            later = _later_columns(present)
            for query in (EVENTS_SINCE, QUARANTINED_SINCE):
                for row in present.execute(query.format_map(later)):
                    yield _stored(*row)
    except apsw.Error as error:
        restored.trouble = str(error)


@contextlib.contextmanager
def _beside(store: Path, copy: Path) -> Iterator[apsw.Connection]:
    """The store, to be read, with the copy beside it. Raises apsw.Error."""
    with closing(connect_reader(store)) as present:
        rows.every(present, "ATTACH ? AS copy", (str(copy),))
        yield present


def _later_columns(present: apsw.Connection) -> dict[str, str]:
    """The columns of the third schema, with their values for an older store."""
    found = rows.every(present, "SELECT name FROM pragma_table_info('quarantine', 'main')")
    known = {name for (name,) in found}
    return {name: name if name in known else older for name, older in LATER_COLUMNS.items()}


def _erasures(connection: apsw.Connection, schema: str) -> set[int]:
    """When numbers were erased; the first schema knew nothing of that."""
    known = f"SELECT 1 FROM {schema}.sqlite_schema WHERE name = 'erasures'"
    if not rows.every(connection, known):
        return set()
    return {at for (at,) in rows.every(connection, f"SELECT at FROM {schema}.erasures")}


def _stored(
    given_id: bytes,
    source: str,
    method: str,
    query: bytes,
    content_type: str,
    body: bytes,
    received: int,
    test: int,
    status: int | None,
    reason: str,
    late: int,
    encoding: str,
    sender: str,
    token_digest: bytes | None,
) -> StoredCallback:
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
    return StoredCallback(str(UUID(bytes=given_id)), callback, status, reason, bool(late))


def put_aside(store: Path, now: float) -> Path:
    """Give the present store another name, too; its log goes into it, or along with it."""
    aside = StateDirectory.around(store).replaced_at(now)
    with contextlib.suppress(apsw.Error), closing(connect(store)) as present:
        rows.every(present, "PRAGMA journal_mode = DELETE")
    # Of a damaged store; the copy must not be taken for its own.
    for file, name in zip(wal_files(store), wal_files(aside), strict=True):
        with contextlib.suppress(FileNotFoundError):
            file.rename(name)
    try:
        aside.hardlink_to(store)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        store.rename(aside)
    fsutil.sync(store.parent)
    return aside


class ConsentSince(NamedTuple):
    """`every` word, the `last` one of each contact, and which sinks `accepted` them when.

    Each row begins with the event's seq.
    """

    every: list[SqlRow]
    last: list[SqlRow]
    accepted: list[SqlRow]


def consent_since(present: apsw.Connection) -> ConsentSince:
    """Those of the present store that the attached `copy` lacks; none where that is another's."""
    if not (rows.value(present, SAME_STORE) and rows.value(present, TABLE_EXISTS.format("main"))):
        return ConsentSince([], [], [])
    # The first schema kept no more than the last words.
    known = "words" if rows.value(present, TABLE_EXISTS.format("copy")) else "consents"
    every = rows.every(present, WORDS.format(known))
    seqs = {word[0] for word in every}
    return ConsentSince(
        every,
        _of(seqs, rows.every(present, LAST)),
        _of(seqs, rows.every(present, ACCEPTED)),
    )


def write_consent(words: ConsentSince, copy: Path) -> None:
    """Add them to the copy as if their events had come after its last one, and were purged."""
    if not words.every:
        return
    with closing(connect(copy)) as connection:
        rows.every(connection, "PRAGMA journal_mode = MEMORY")
        rows.every(connection, "PRAGMA synchronous = FULL")
        with connection:
            _write_rows(connection, words)


def _write_rows(connection: apsw.Connection, words: ConsentSince) -> None:
    highest: int = rows.value(connection, LAST_SEQ)
    given = {word[0]: number for number, word in enumerate(words.every, start=highest + 1)}
    if rows.value(connection, TABLE_EXISTS.format("main")):
        connection.executemany(
            "INSERT INTO words VALUES (?, ?, ?, ?, ?, ?)", _renumbered(words.every, given)
        )
        for seq, sink, accepted in words.accepted:
            rows.every(connection, NEW_SINK, (sink, highest))
            rows.every(connection, HEARD, (given[seq], accepted, sink))
    connection.executemany(
        "INSERT OR REPLACE INTO consents (seq, contact, source, word, received)"
        " VALUES (?, ?, ?, ?, ?)",
        _renumbered(words.last, given),
    )
    rows.every(
        connection,
        "INSERT OR REPLACE INTO meta VALUES ('last_seq', ?)",
        (highest + len(words.every),),
    )


def _of(seqs: Container[int], found: Iterable[SqlRow]) -> list[SqlRow]:
    return [row for row in found if row[0] in seqs]


def _renumbered(found: Iterable[SqlRow], given: Mapping[int, int]) -> Iterable[SqlRow]:
    return ((given[seq], *rest) for seq, *rest in found)


def account_values(connection: apsw.Connection) -> list[Any]:
    """All that is kept, to be written elsewhere; none in a store of before."""
    if not rows.value(connection, notes.HAS_ACCOUNTS):
        return []
    return rows.every(connection, "SELECT account, name, value, kept FROM accounts")


def write_account_values(values: Sequence[Any], copy: Path) -> None:
    """Write the values into a copy of a store of any release; what is newer there stays."""
    if not values:
        return
    script = resources.files("relay.store.sqlite") / "schema" / "0004-accounts.sql"
    with closing(connect(copy)) as connection:
        rows.every(connection, "PRAGMA journal_mode = MEMORY")
        rows.every(connection, "PRAGMA synchronous = FULL")
        with connection:
            rows.every(connection, script.read_text(encoding="utf-8"))
            connection.executemany(notes.KEEP + KEEP_NEWER, values)
