"""The two values that travel through the relay: the raw callback, and the event made of it.

The event is an envelope as of CloudEvents 1.0. The raw callback is the request as it arrived; it
is stored before it is read, so that a callback that cannot be read is not lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self

import orjson

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
TYPE_PREFIX = "com.sumotext."
OPT_OUT = "opt_out"
OPT_IN = "opt_in"
"""The values of `data.consent`."""


@dataclass(frozen=True, slots=True)
class Event:
    """A callback, normalised. The attributes are those of CloudEvents 1.0.

    `time` is the time of receipt as text, `2026-11-23T04:34:00.123456Z`; `data` is as
    described in the README under "The event".
    """

    id: str
    source: str
    type: str
    subject: str | None
    time: str
    data: Mapping[str, Any]
    test: bool = False
    traceparent: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The event in the JSON format of CloudEvents; absent attributes are left out."""
        envelope: dict[str, Any] = {
            "specversion": SPEC_VERSION,
            "id": self.id,
            "source": self.source,
            "type": self.type,
        }
        if self.subject is not None:
            envelope["subject"] = self.subject
        envelope["time"] = self.time
        envelope["datacontenttype"] = CONTENT_TYPE
        if self.test:
            envelope["test"] = True
        if self.traceparent is not None:
            envelope["traceparent"] = self.traceparent
        envelope["data"] = self.data
        return envelope

    def to_json(self) -> bytes:
        """`to_dict` as UTF-8 JSON."""
        return orjson.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        envelope = orjson.loads(text)
        return cls(
            id=envelope["id"],
            source=envelope["source"],
            type=envelope["type"],
            subject=envelope.get("subject"),
            time=envelope["time"],
            data=envelope["data"],
            test=envelope.get("test", False),
            traceparent=envelope.get("traceparent"),
        )


def timestamp(microseconds: int) -> str:
    """Microseconds since the epoch as RFC 3339 text in UTC, always with six decimals."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """Many callbacks arrive in one second, and formatting is slow."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


class InvalidCallback(Exception):
    """A callback that cannot be read as an event. `reason` holds nothing of the contact."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RawCallback(NamedTuple):
    """One request, as bytes. `repr` shows no bytes, as they hold the contact's number.

    `received` is microseconds since the epoch; `test` marks callbacks made by `relay send`;
    `traceparent` is the trace it came in, where traces are wanted. `encoding` is the
    Content-Encoding of the body. `sender` is the address that it came from, `token_digest` a keyed
    digest of the tokens that it came with (relay.server.access); empty and None where that is not
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
        return f"RawCallback(source={self.source!r}, method={self.method!r}, …)"
