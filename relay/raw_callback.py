"""The callback: a request from Sumotext exactly as it arrived, kept before it is understood."""

from typing import NamedTuple


class NotUnderstood(Exception):
    """A callback that makes no event. `reason` holds nothing of the contact."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Callback(NamedTuple):
    """One request, as bytes. `repr` shows no bytes, as they hold the contact's number.

    `received` is microseconds since the epoch; `test` marks callbacks made by `relay send`;
    `traceparent` is the trace it came in, where traces are wanted. `encoding` is the
    Content-Encoding of the body. `sender` is the address that it came from, `token_digest` a keyed
    digest of the tokens that it came with (relay.server.tokens); empty and None where that is not
    known. Only what goes to quarantine has them.
    """

    source: str
    method: str
    query: bytes
    content_type: str
    body: bytes
    received: int
    test: bool = False
    traceparent: str | None = None
    encoding: str = ""
    sender: str = ""
    token_digest: bytes | None = None

    def __repr__(self) -> str:
        return f"Callback(source={self.source!r}, method={self.method!r}, …)"
