"""The last words: what contacts have said since a copy was made, where the event is gone by now.

Consent outlives the events. What is purged or erased cannot be taken in once more from the spill,
so a restore writes what it said into the copy.
"""

from collections.abc import Container, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from relay.store.sqlite import descriptors, rows
from relay.store.sqlite.state import LAST_SEQ

SAME_STORE = (
    "SELECT (SELECT value FROM main.meta WHERE name = 'contact_key')"
    " = (SELECT value FROM copy.meta WHERE name = 'contact_key')"
)
TABLE = "SELECT EXISTS (SELECT 1 FROM {}.sqlite_schema WHERE name = 'words')"
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


Row = tuple[Any, ...]


class LastWords(NamedTuple):
    """`every` word, the `last` one of each contact, and which sinks `accepted` them when.

    Each row begins with the event's seq.
    """

    every: list[Row]
    last: list[Row]
    accepted: list[Row]


def said_since(present: apsw.Connection) -> LastWords:
    """Those of the present store that the attached `copy` lacks; none where that is another's."""
    if not (rows.value(present, SAME_STORE) and rows.value(present, TABLE.format("main"))):
        return LastWords([], [], [])
    # The first schema kept no more than the last words.
    known = "words" if rows.value(present, TABLE.format("copy")) else "consents"
    every = rows.every(present, WORDS.format(known))
    seqs = {word[0] for word in every}
    return LastWords(
        every,
        _of(seqs, rows.every(present, LAST)),
        _of(seqs, rows.every(present, ACCEPTED)),
    )


def write(words: LastWords, copy: Path) -> None:
    """Have them stand in the copy as if their events had come after its last one, and gone."""
    if not words.every:
        return
    with closing(descriptors.connect(copy)) as connection:
        rows.every(connection, "PRAGMA journal_mode = MEMORY")
        rows.every(connection, "PRAGMA synchronous = FULL")
        with connection:
            _write(connection, words)


def _write(connection: apsw.Connection, words: LastWords) -> None:
    highest: int = rows.value(connection, LAST_SEQ)
    given = {word[0]: number for number, word in enumerate(words.every, start=highest + 1)}
    if rows.value(connection, TABLE.format("main")):
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


def _of(seqs: Container[int], found: Iterable[Row]) -> list[Row]:
    return [row for row in found if row[0] in seqs]


def _renumbered(found: Iterable[Row], given: Mapping[int, int]) -> Iterable[Row]:
    return ((given[seq], *rest) for seq, *rest in found)
