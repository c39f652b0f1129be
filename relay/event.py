"""The event: one envelope for everything that Sumotext sends (CloudEvents 1.0, JSON)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

import orjson

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
TYPE_PREFIX = "com.sumotext."


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
