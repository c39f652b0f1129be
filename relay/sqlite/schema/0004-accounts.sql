-- What outlives a restart of the accounts that sinks use: what is used of a quota, a refresh token.
-- account: a digest of the credentials. There already where a restore put some into an older copy.
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    kept    INTEGER NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;
