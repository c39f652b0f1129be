-- The accounts that sinks use: what is used of a quota, and a refresh token, outlive a restart.
-- account: a digest of the credentials.
-- The table is there already where a restore wrote values into an older copy.
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    kept    INTEGER NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;
