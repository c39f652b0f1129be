"""The control API: what the commands ask of the store and the sinks, as JSON over HTTP.

The running service serves it on a unix socket beside the store. Where no service runs, a command
serves it in its own process, under the store's lock.

What both ends share is here, because importing it costs a command nothing.
"""

from enum import StrEnum

ROOT = "/api/v1"
RELOAD = f"{ROOT}/reload"
"""Answered by the service also while it has no store."""

# The most that one request may ask for: no more than the event loop can do without others waiting.
CHUNK = 100
"""Deliveries, events or callbacks that are changed."""
PAGE = 1_000
"""Rows that are listed."""


class TokenStatus(StrEnum):
    """What is known today of the tokens that came with a callback. One valid token is enough."""

    VALID = "valid"
    ELSEWHERE = "elsewhere"
    """It is valid, but the callback came from an address that is not in allow_from."""
    WRONG = "wrong"
    MISSING = "missing"
    UNKNOWN = "unknown"
    UNVERIFIED = "unverified"
    """The source verifies callbacks by more than a token, which cannot be done any more."""


class Taken(StrEnum):
    """Which callbacks with a wrong token a release takes."""

    NONE = "none"
    TOKEN_NOW_VALID = "token_now_valid"  # noqa: S105  a word, no secret
    CHOSEN = "chosen"
