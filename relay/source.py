"""The source: what a plugin writes to read the callbacks of one sender."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import uuid_utils

from relay.event import Event, RawCallback, timestamp
from relay.sink import Log, Options


def new_id() -> str:
    """A UUIDv7: ordered by time, as the store likes its keys."""
    return str(uuid_utils.uuid7())


class Unauthorized(Exception):
    """Raised by `verify`: the request is not from the sender. `reason` holds no secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A request as it arrived, with all that a signature may be over.

    `url` is the URL as the sender called it: from `public_url` of the source, else from the
    listener, or a trusted proxy's X-Forwarded-Proto, and the Host header. `headers` has names in
    lower case; the values of a header that came several times are joined by commas. `body` is not
    unpacked. `sender` is the address, `now` the time of receipt in seconds.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    query: bytes
    body: bytes
    sender: str
    now: float


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """What the sender is answered. A status from 200 to 599."""

    body: bytes | str = b""
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A part of a request that is stored as an event; `repeated`: it was stored before."""

    id: str
    type: str
    repeated: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Invalid:
    """A part of a request that is kept in quarantine, under the id."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Outgoing:
    """A request for `relay send` to make, as the sender would."""

    query: str = ""
    body: bytes = b""
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Source:
    """The base of every source. Override `parse`, and what else the sender needs.

    `name` is the source's name in relay.yaml; `options` an instance of the class's `Options`; `log`
    the source's own logger. The relay makes one instance for each source of relay.yaml. Each method
    is a plain `def` that is called on the event loop: it does no I/O, and takes a few milliseconds
    at most. A callback is never lost for an error in one of them.
    """

    Options: ClassVar[type[Options]] = Options
    kinds: ClassVar[tuple[str, ...]] = ()
    """The kinds of its events: the part of `type` after the last dot."""
    authenticates: bool = False
    """Whether `verify` raises Unauthorized for every request that is not the sender's.

    Then the source may be reached by others without `tokens` or `allow_from`. `__init__` may set
    it, where that depends on the options.
    """

    made: Event | None = None
    """The event that `event` made last."""

    def __init__(self, name: str, options: Any, log: Log) -> None:
        self.name = name
        self.options = options
        self.log = log

    def verify(self, request: Request) -> Answer | None:  # noqa: ARG002  for those who verify
        """Check that the request is the sender's. Raises Unauthorized.

        An answer that is returned is given at once, and nothing is stored: for a vendor who asks
        whether anybody is there. Called after `allow_from` and `tokens` were checked.
        """
        return None

    def split(self, callback: RawCallback) -> Sequence[bytes]:
        """The bodies of a request that brings several events: one callback is made of each.

        A body that is such a part already is its only part. Raises InvalidCallback.
        """
        return [callback.body]

    def parse(self, callback: RawCallback) -> Event:
        """The event that a callback makes: see `event`. Raises InvalidCallback.

        An erasure calls it from a thread.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override parse")

    def answer(self, results: Sequence[Accepted | Invalid]) -> Answer | None:  # noqa: ARG002
        """The answer when every part is on disk, in their order; None for the relay's own."""
        return None

    def refusal(self, status: int, detail: str) -> Answer | None:  # noqa: ARG002
        """The body of a refusal; None for the relay's own. Status and Retry-After stay."""
        return None

    def sample(
        self,
        kind: str,
        number: str,
        values: Sequence[tuple[str, str]],
        url: str,
    ) -> Outgoing:
        """A request of this kind, about the number, as the sender would make it to this URL.

        `values` are those that the user gave, as they stand on the command line.
        """
        raise NotImplementedError(f"{type(self).__name__} has no samples")

    def event(
        self,
        callback: RawCallback,
        *,
        type: str,  # noqa: A002  the attribute's name in CloudEvents
        data: Mapping[str, Any],
        contact: str | None = None,
        consent: str | None = None,
        dedup_key: str | None = None,
        topic: str | None = None,
        subject: str | None = None,
    ) -> Event:
        """An event of this callback. Its id, source, time and trace come from the relay.

        `contact` is who it is about, as a number in E.164; `consent` is OPT_OUT, OPT_IN or None;
        `dedup_key` is the sender's own id, by which a repeat is known; `topic` is the keyword.
        """
        self.made = Event(
            id=new_id(),
            source=f"/callbacks/{callback.source}",
            type=type,
            subject=subject,
            time=timestamp(callback.received),
            data=data,
            test=callback.test,
            traceparent=callback.traceparent,
            contact=contact,
            consent=consent,
            dedup_key=dedup_key,
            topic=topic,
        )
        return self.made
