"""The source: what a plugin writes to read the callbacks of one sender."""

from collections.abc import Mapping
from typing import Any, ClassVar

import uuid_utils

from relay.event import Event, RawCallback, timestamp
from relay.sink import Log, Options


def new_id() -> str:
    """A UUIDv7: ordered by time, as the store likes its keys."""
    return str(uuid_utils.uuid7())


class Source:
    """The base of every source. Override `parse`.

    `name` is the source's name in relay.yaml; `options` an instance of the class's `Options`; `log`
    the source's own logger. The relay makes one instance for each source of relay.yaml. Each method
    is a plain `def` that is called on the event loop: it does no I/O, and takes a few milliseconds
    at most.
    """

    Options: ClassVar[type[Options]] = Options
    kinds: ClassVar[tuple[str, ...]] = ()
    """The kinds of its events: the part of `type` after the last dot."""

    def __init__(self, name: str, options: Any, log: Log) -> None:
        self.name = name
        self.options = options
        self.log = log

    def parse(self, callback: RawCallback) -> Event:
        """The event that a callback makes: see `event`. Raises InvalidCallback."""
        raise NotImplementedError(f"{type(self).__name__} does not override parse")

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
        return Event(
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
