-- What outlives the events: who said what when, what a contact's sinks have heard, and erasures.

-- Each word of consent ever said, under its event's seq; the contact is a keyed hash.
CREATE TABLE words (
    seq      INTEGER PRIMARY KEY,
    contact  INTEGER NOT NULL,
    source   TEXT NOT NULL,
    word     TEXT NOT NULL,
    test     INTEGER NOT NULL,
    received INTEGER NOT NULL
) STRICT;

-- When a sink first accepted a word.
CREATE TABLE words_accepted (
    seq      INTEGER NOT NULL,
    sink     INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    PRIMARY KEY (seq, sink)
) STRICT, WITHOUT ROWID;

-- A copy of an event (its received is the first one's, too) says nothing again.
INSERT INTO words
SELECT seq, contact, source, json_extract(event, '$.data.consent'),
       ifnull(json_extract(event, '$.test'), 0), received
FROM events e
WHERE json_extract(event, '$.data.consent') IS NOT NULL
AND NOT (rank IS NOT NULL AND EXISTS (
    SELECT 1 FROM events first WHERE first.seq = e.rank AND first.received = e.received
));

INSERT INTO words_accepted
SELECT words.seq, sinks.id, settled
FROM words CROSS JOIN sinks
JOIN deliveries ON deliveries.sink = sinks.id AND deliveries.seq = words.seq
WHERE deliveries.state = 4;

INSERT OR IGNORE INTO words_accepted
SELECT seq, sink, accepted FROM consents_accepted WHERE seq IN (SELECT seq FROM words);

DROP TABLE consents_accepted;

-- Of events that have been purged: the latest of the contact that a sink has heard, as long as an
-- older one of the contact is left, which may land here yet.
CREATE TABLE heard (
    contact INTEGER NOT NULL,
    sink    INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    PRIMARY KEY (contact, sink)
) STRICT, WITHOUT ROWID;

-- Events whose place in the order is not their own.
CREATE INDEX events_ranked ON events (contact, rank) WHERE rank IS NOT NULL;

-- Numbers that were erased, as keyed hashes, and what was found of them (JSON without numbers).
CREATE TABLE erasures (
    at     INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    report TEXT NOT NULL
) STRICT;
