"""The callback: a request from Sumotext exactly as it arrived, kept before it is understood."""

from typing import NamedTuple


class Callback(NamedTuple):
    """One request, as bytes. `repr` shows no bytes, as they hold the contact's number.

    `received` is microseconds since the epoch; `test` marks callbacks made by `relay send`;
    `traceparent` is the trace it came in, where traces are wanted.
    """

    source: str
    method: str
    query: bytes
    content_type: str
    body: bytes
    received: int
    test: bool = False
    traceparent: str | None = None

    def __repr__(self) -> str:
        return f"Callback(source={self.source!r}, method={self.method!r}, …)"
