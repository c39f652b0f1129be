-- Callbacks are kept with their Content-Encoding; a message id may come again with another text.

ALTER TABLE events ADD COLUMN encoding TEXT NOT NULL DEFAULT '';

-- A keyed hash of a message's text; 0 in what is no message, and in what was stored before.
ALTER TABLE events ADD COLUMN text_hash INTEGER NOT NULL DEFAULT 0;

-- A repeat has the id, the contact and the text of an earlier event. The contact and the hash are
-- in the index because senders exist that give all messages one id.
DROP INDEX events_message;
CREATE INDEX events_message ON events (source, message_id, contact, text_hash)
WHERE message_id IS NOT NULL;

-- sender: the address that the callback came from; empty where it is not known. token_digest: a
-- keyed digest of the tokens that came with it (relay.server.tokens); null where none was kept.
ALTER TABLE quarantine ADD COLUMN encoding TEXT NOT NULL DEFAULT '';
ALTER TABLE quarantine ADD COLUMN sender TEXT NOT NULL DEFAULT '';
ALTER TABLE quarantine ADD COLUMN token_digest BLOB;

-- Whose callbacks with a wrong token are kept, so that bodies need not be read to tell.
CREATE INDEX quarantine_senders ON quarantine (sender, seq) WHERE status = 401;
