"""The two values that travel through the relay: the raw callback, and the event made of it.

The event is an envelope as of CloudEvents 1.0. The raw callback is the request as it arrived; it
is stored before it is read, so that a callback that cannot be read is not lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self

import orjson

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
TYPE_PREFIX = "com.sumotext."
OPT_OUT = "opt_out"
"""The value of `consent` where the contact asked for no more messages."""
OPT_IN = "opt_in"
"""The value of `consent` where the contact asked for messages again."""

ATTRIBUTES = ("contact", "consent", "dedup_key", "topic")
"""The relay's attributes of an event."""

PRIVATE = "_relay"
"""The member of an event's stored JSON with the attributes that `data` does not have."""
CONSENT_PATHS = (f"$.{PRIVATE}.consent", "$.data.consent")
"""Where the stored JSON has `consent`; in the second place it counts for Sumotext's events only."""


@dataclass(frozen=True, slots=True)
class Event:
    """A callback, normalised. The attributes before `contact` are those of CloudEvents 1.0.

    `time` is the time of receipt as text, `2026-11-23T04:34:00.123456Z`. `data` depends
    on the source; docs/reference/event.md has that of Sumotext.

    The attributes from `contact` on are the relay's. The source sets them, and no sink gets them
    as part of the event. `contact` is whom the event is about, commonly a number in E.164: events
    of one contact are delivered in order. `consent` is OPT_OUT, OPT_IN or None, and None where
    there is no contact. `dedup_key` is the sender's own id: an event that is sent again is stored
    once. `topic` is the keyword, by which events are listed and alerts are raised.
    """

    id: str
    source: str
    type: str
    subject: str | None
    time: str
    data: Mapping[str, Any]
    test: bool = False
    traceparent: str | None = None
    contact: str | None = field(default=None, kw_only=True)
    consent: str | None = field(default=None, kw_only=True)
    dedup_key: str | None = field(default=None, kw_only=True)
    topic: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Take the attributes that were not given from the data of a Sumotext event.

        Sumotext's events have all four in `data`. Those that an earlier release stored have them
        nowhere else, and their JSON stays as it is. Another vendor's `data` may have these names
        with other meanings, so nothing is taken from it.
        """
        if self.type.startswith(TYPE_PREFIX):
            found = self.data.get
            if self.contact is None:
                _set(self, "contact", found("mobile"))
            if self.consent is None and (word := found("consent")) is not None:
                _set(self, "consent", word)
            if self.dedup_key is None and (key := found("message_id")) is not None:
                _set(self, "dedup_key", key)
            if self.topic is None:
                _set(self, "topic", found("keyword"))
        if self.consent is not None:
            if self.consent not in (OPT_OUT, OPT_IN):
                raise ValueError(f"consent is neither {OPT_OUT} nor {OPT_IN}")
            if self.contact is None:
                _set(self, "consent", None)  # it is a contact who opts out

    @property
    def kind(self) -> str:
        """The kind of event: `web_form`, `poll`, `text_4_info`, `message`, or another vendor's."""
        return kind_of(self.type)

    @property
    def content(self) -> str | None:
        """The text of a message. Another text under the same `dedup_key` is another event."""
        return content_of(self.data)

    def attributes(self) -> dict[str, str | None]:
        """The relay's attributes, which `to_dict` does not have."""
        return {name: getattr(self, name) for name in ATTRIBUTES}

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

    def to_stored_json(self) -> bytes:
        """`to_json` with the attributes that `data` does not have, for the relay's own files."""
        envelope = self.to_dict()
        if private := self._private():
            envelope[PRIVATE] = private
        return orjson.dumps(envelope)

    def _private(self) -> dict[str, str]:
        """The attributes that __post_init__ would not find."""
        if self.type.startswith(TYPE_PREFIX):
            found = self.data.get
            if (
                self.topic == found("keyword")
                and self.contact == found("mobile")
                and self.dedup_key == found("message_id")
                and self.consent == found("consent")
            ):
                return {}
        return {name: value for name, value in self.attributes().items() if value is not None}

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what `to_json` or `to_stored_json` wrote. Raises ValueError for anything else."""
        envelope = orjson.loads(text)
        return cls.from_dict(envelope, envelope.get(PRIVATE, {}))

    @classmethod
    def from_dict(cls, envelope: Mapping[str, Any], attributes: Mapping[str, Any]) -> Self:
        """The event of such an envelope, with these of the relay's attributes."""
        return cls(
            envelope["id"],
            envelope["source"],
            envelope["type"],
            envelope.get("subject"),
            envelope["time"],
            envelope["data"],
            envelope.get("test", False),
            envelope.get("traceparent"),
            **{name: attributes.get(name) for name in ATTRIBUTES} if attributes else {},
        )


_set = object.__setattr__  # the class is frozen


def kind_of(event_type: str) -> str:
    """What stands after the last dot: `com.sumotext.poll` is a `poll`."""
    return event_type.rpartition(".")[2]


def content_of(data: Mapping[str, Any]) -> str | None:
    """The text of a message, in the data of an event."""
    text = data.get("message")
    return text if isinstance(text, str) else None


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
