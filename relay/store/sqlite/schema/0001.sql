-- What is constant over the life of a file: the key of the contact hashes, the highest seq given.
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

-- rank: where the event stands in its contact's order, where that is not its seq: a copy stands
-- where the first one does, a callback released after a later opt-out just before that.
CREATE TABLE events (
    seq          INTEGER PRIMARY KEY,
    id           BLOB NOT NULL UNIQUE,
    source       TEXT NOT NULL,
    kind         TEXT NOT NULL,
    keyword      TEXT,
    received     INTEGER NOT NULL,
    contact      INTEGER NOT NULL,
    route        INTEGER NOT NULL,
    message_id   TEXT,
    rank         INTEGER,
    event        BLOB NOT NULL,
    method       TEXT NOT NULL,
    query        BLOB NOT NULL,
    content_type TEXT NOT NULL,
    body         BLOB NOT NULL
) STRICT;

-- A contact's events, in chunks of 1,024: a plain index on the contact would put every event on
-- a page of its own, and each of those pages into the log of each commit. A search seeks once
-- for each chunk, 1,000 times for a million events.
CREATE INDEX events_contact ON events (seq >> 10, contact);
CREATE UNIQUE INDEX events_message ON events (source, message_id) WHERE message_id IS NOT NULL;

-- Which sinks an event goes to: the sets that occurred, each with a number. The empty one is 0.
CREATE TABLE routes (
    route INTEGER NOT NULL,
    sink  INTEGER NOT NULL,
    PRIMARY KEY (route, sink)
) STRICT, WITHOUT ROWID;

CREATE INDEX routes_sink ON routes (sink, route);

-- cursor: of the events up to this seq, every one that goes to the sink has a row in deliveries.
CREATE TABLE sinks (
    id        INTEGER PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE,
    cursor    INTEGER NOT NULL,
    state     TEXT NOT NULL DEFAULT '{}',
    pending   INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    dead      INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A delivery gets its row when it is first claimed, or hurried; until then the event's route and the
-- sink's cursor say that it is due (see the view "fresh"). So a callback costs one row, however many
-- sinks it goes to.
-- state: 0 pending, 1 in flight, 2 waiting for a retry, 3 blocked behind an older delivery of its
-- contact, 4 delivered, 5 dead, 6 discarded. late: a later event of the contact may have been
-- delivered before. landed: it was delivered once, whatever became of it since.
CREATE TABLE deliveries (
    sink      INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    contact   INTEGER NOT NULL,
    state     INTEGER NOT NULL DEFAULT 0,
    urgent    INTEGER NOT NULL DEFAULT 0,
    due       INTEGER NOT NULL DEFAULT 0,
    attempts  INTEGER NOT NULL DEFAULT 0,
    late      INTEGER NOT NULL DEFAULT 0,
    replayed  INTEGER NOT NULL DEFAULT 0,
    landed    INTEGER NOT NULL DEFAULT 0,
    strikes   INTEGER NOT NULL DEFAULT 0,
    deaths    INTEGER NOT NULL DEFAULT 0,
    settled   INTEGER NOT NULL DEFAULT 0,
    failed_at REAL,
    error     TEXT,
    reference TEXT,
    PRIMARY KEY (sink, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_pending ON deliveries (sink, urgent, seq, contact) WHERE state = 0;
CREATE INDEX deliveries_in_flight ON deliveries (sink, seq) WHERE state = 1;
CREATE INDEX deliveries_waiting ON deliveries (sink, urgent, due) WHERE state = 2;
CREATE INDEX deliveries_held ON deliveries (sink, contact, seq) WHERE state IN (2, 3);
CREATE INDEX deliveries_suspect ON deliveries (sink, seq) WHERE state = 2 AND strikes > 0;
CREATE INDEX deliveries_dead ON deliveries (seq, sink) WHERE state = 5;

CREATE VIEW fresh AS
SELECT sinks.id AS sink, events.seq, events.contact
FROM sinks CROSS JOIN events ON events.seq > sinks.cursor
WHERE events.route IN (SELECT route FROM routes WHERE routes.sink = sinks.id)
AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.sink = sinks.id AND d.seq = events.seq);

CREATE VIEW all_deliveries AS
SELECT sink, seq, state, attempts, due, error, reference, settled FROM deliveries
UNION ALL SELECT sink, seq, 0, 0, 0, NULL, NULL, 0 FROM fresh;

CREATE TABLE attempts (
    sink     INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    started  INTEGER NOT NULL,
    duration REAL NOT NULL,
    status   INTEGER,
    error    TEXT NOT NULL,
    answer   TEXT,
    PRIMARY KEY (sink, seq, number, started)
) STRICT, WITHOUT ROWID;

-- The last word of each contact who ever said one; kept whatever happens to the events.
CREATE TABLE consents (
    contact  INTEGER PRIMARY KEY,
    source   TEXT NOT NULL,
    word     TEXT NOT NULL,
    seq      INTEGER NOT NULL,
    received INTEGER NOT NULL
) STRICT;

CREATE TABLE consents_accepted (
    contact  INTEGER NOT NULL,
    sink     INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    PRIMARY KEY (contact, sink)
) STRICT, WITHOUT ROWID;

CREATE TABLE quarantine (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           BLOB NOT NULL UNIQUE,
    received     INTEGER NOT NULL,
    source       TEXT NOT NULL,
    status       INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    test         INTEGER NOT NULL,
    method       TEXT NOT NULL,
    query        BLOB NOT NULL,
    content_type TEXT NOT NULL,
    body         BLOB NOT NULL
) STRICT;

CREATE INDEX quarantine_status ON quarantine (status, seq);
