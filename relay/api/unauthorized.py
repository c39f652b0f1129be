"""Callbacks that came with a wrong token: whether one may become an event.

Anyone can send those. So one becomes an event only where a token that came with it is one of
today's, or where a person has chosen this very callback.
"""

from collections.abc import Mapping
from enum import StrEnum

from relay.config.model import SourceConfig
from relay.senders import within
from relay.server.access import TokenSet, has_tokens
from relay.store import UNAUTHORIZED, Quarantined
from relay.validation import PLACEHOLDER


class TokenStatus(StrEnum):
    """What is known today of the tokens that came with a callback. One is enough to be valid."""

    VALID = "valid"
    ELSEWHERE = "elsewhere"
    """It is valid, but the callback came from an address that is not in allow_from."""
    WRONG = "wrong"
    MISSING = "missing"
    UNKNOWN = "unknown"


class Taken(StrEnum):
    """Which of these callbacks a release takes."""

    NONE = "none"
    TOKEN_NOW_VALID = "token_now_valid"  # noqa: S105  a word, no secret
    CHOSEN = "chosen"


REASONS = {
    TokenStatus.ELSEWHERE: "its token is valid now, but its address is not in allow_from",
    TokenStatus.WRONG: "its token is none of today's",
    TokenStatus.MISSING: "no token came with it",
    TokenStatus.UNKNOWN: "it cannot be told whether its token is one of today's",
}


class Unauthorized:
    """Judges by the tokens and the networks of today's configuration."""

    def __init__(self, sources: Mapping[str, SourceConfig]) -> None:
        self._sources = sources
        self._tokens = {name: TokenSet(_filled(source)) for name, source in sources.items()}

    def token(self, row: Quarantined) -> TokenStatus | None:
        """What is known of its token; None where it did not come with a wrong one."""
        kept, source = row.callback.token_digest, self._sources.get(row.source)
        if row.status != UNAUTHORIZED:
            return None
        if kept is None or source is None:
            return TokenStatus.UNKNOWN
        if not has_tokens(kept):
            return TokenStatus.MISSING
        if self._tokens[row.source].accepts_digest(kept):
            networks = source.allow_from
            known = not networks or within(networks, row.callback.sender)
            return TokenStatus.VALID if known else TokenStatus.ELSEWHERE
        # While one of today's cannot be read, it may be that one.
        return (
            TokenStatus.WRONG if len(_filled(source)) == len(source.tokens) else TokenStatus.UNKNOWN
        )

    def objection(self, row: Quarantined, taken: Taken) -> str:
        """Why a release that takes these may not take this one; empty where it may."""
        token = self.token(row)
        if token is None or taken is Taken.CHOSEN:
            return ""
        if taken is Taken.NONE:
            return "it came with a wrong token (401)"
        return "" if token is TokenStatus.VALID else REASONS[token]


def _filled(source: SourceConfig) -> list[str]:
    """The tokens that could be read. A placeholder that was not filled in is no token."""
    tokens = [token.get_secret_value() for token in source.tokens]
    return [token for token in tokens if not PLACEHOLDER.search(token)]
