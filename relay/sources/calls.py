"""Calls of a source's methods. Whatever they raise or return, no callback is lost."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from relay.event import OPT_IN, OPT_OUT, Event, InvalidCallback, RawCallback, timestamp
from relay.redact import mask_all
from relay.source import Accepted, Answer, Invalid, Request, Source, Unauthorized, new_id

MOST_PARTS = 1_000
MOST_BYTES = 512 * 1024
"""Bytes of all parts together, each with the query: twice what a body may have."""
LARGEST_EVENT = 4 * 1024 * 1024
"""Bytes of an event's data as JSON."""
LONGEST_REASON = 300
"""Characters of what a plugin says is wrong."""
LONGEST_TYPE = 255
"""Characters of an event's type."""
STATUSES = range(200, 600)

_TOKEN = re.compile(r"[!#-'*+\-.0-9A-Z^-z|~]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FRAMING = {"connection", "content-length", "content-type", "transfer-encoding"}


class SourceFailed(Exception):
    """A method of a plugin raised, or returned what it may not. The text quotes no callback."""

    def __init__(self, method: str, error: BaseException) -> None:
        super().__init__(f"{method} failed ({type(error).__name__})")
        self.method = method
        self.error = error


class SourceCalls:
    """The methods of one source, as the relay calls them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        overridden = type(source)
        self.verifies = verifies(overridden)
        self._splits = overridden.split is not Source.split
        self._answers = overridden.answer is not Source.answer
        self._refuses = overridden.refusal is not Source.refusal

    def verify(self, request: Request) -> Answer | None:
        """As in Source. Raises Unauthorized or SourceFailed."""
        try:
            found = self._source.verify(request)
            return None if found is None else checked_answer(found)
        except Unauthorized as error:
            raise Unauthorized(_discreet(error)) from None
        except BaseException as error:  # noqa: BLE001  a plugin can raise anything
            raise SourceFailed("verify", error) from None

    def parts(self, callback: RawCallback) -> list[RawCallback]:
        """The callbacks that a request brings, commonly one. Raises InvalidCallback."""
        if not self._splits:
            return [callback]
        try:
            repeated = len(callback.query) + len(callback.content_type)
            bodies = _checked_bodies(self._source.split(callback), repeated)
        except InvalidCallback as error:
            raise InvalidCallback(_discreet(error)) from None
        except BaseException as error:  # noqa: BLE001  a plugin can raise anything
            reason = f"the relay failed to split it ({type(error).__name__})"
            raise InvalidCallback(reason) from None
        return [
            callback if body == callback.body else callback._replace(body=body, encoding="")
            for body in bodies
        ]

    def event(self, callback: RawCallback, event_id: str | None = None) -> Event:
        """The event of a callback; it may have its id already. Raises InvalidCallback."""
        source = self._source
        source.made = None  # an event that the plugin kept from an earlier call needs its own id
        try:
            event = _checked_event(source.parse(callback))
            if event is not source.made:
                event = _with_origin(event, callback)
        except InvalidCallback as error:
            raise InvalidCallback(_discreet(error)) from None
        except BaseException as error:  # noqa: BLE001  a plugin can raise anything
            # Ours to mend, not the sender's: the callback stays, and can be released then.
            # The error's text may quote the callback, so it is not passed on.
            reason = f"the relay failed to read it ({type(error).__name__})"
            raise InvalidCallback(reason) from None
        return event if event_id is None else replace(event, id=event_id)

    def answer(self, results: Sequence[Accepted | Invalid]) -> Answer | None:
        """The source's own answer, if it has one. Raises SourceFailed."""
        if not self._answers:
            return None
        try:
            found = self._source.answer(results)
            return None if found is None else checked_answer(found)
        except BaseException as error:  # noqa: BLE001  a plugin can raise anything
            raise SourceFailed("answer", error) from None

    def refusal(self, status: int, detail: str) -> Answer | None:
        """The source's own words for a refusal, if it has some. Raises SourceFailed."""
        if not self._refuses:
            return None
        try:
            found = self._source.refusal(status, detail)
            return None if found is None else checked_answer(found)
        except BaseException as error:  # noqa: BLE001  a plugin can raise anything
            raise SourceFailed("refusal", error) from None


def verifies(source_class: type[Source]) -> bool:
    """Whether the source checks by itself who sends."""
    return source_class.verify is not Source.verify


def checked_answer(answer: Answer) -> Answer:
    """The answer, with a body of bytes. Raises TypeError or ValueError."""
    if not isinstance(answer, Answer):
        raise TypeError("no relay.Answer")
    if type(answer.status) is not int or answer.status not in STATUSES:
        raise ValueError("no status")
    body = answer.body.encode() if isinstance(answer.body, str) else answer.body
    headers = list(answer.headers)
    if type(body) is not bytes or not _VALUE.fullmatch(answer.content_type):
        raise ValueError("no body")
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise ValueError("no header")
    return replace(answer, body=body, headers=headers)


def _discreet(error: InvalidCallback | Unauthorized) -> str:
    """A plugin's words for the log, as printable text without what may be a number."""
    try:
        words = str(getattr(error, "reason", "") or error)[:LONGEST_REASON]
        # A lone surrogate, as JSON may bring, can be neither stored nor answered.
        printable = "".join(each if each.isprintable() else " " for each in words)
    except BaseException:  # noqa: BLE001  a plugin's subclass can raise anything
        printable = ""
    return mask_all(printable.strip() or type(error).__name__)


def _checked_bodies(bodies: Any, repeated: int) -> Sequence[bytes]:
    """The bodies, where all parts can be stored. Each has `repeated` bytes of the request."""
    if not isinstance(bodies, Sequence) or isinstance(bodies, bytes | str):
        raise TypeError("no sequence of bytes")
    if not bodies:
        raise InvalidCallback("there is no event in it")
    if len(bodies) > MOST_PARTS:
        raise InvalidCallback(f"more than {MOST_PARTS} events in one request")
    size = repeated * (len(bodies) - 1)
    for body in bodies:
        if type(body) is not bytes:
            raise TypeError("no bytes")
        size += len(body)
    if size > MOST_BYTES:
        raise InvalidCallback(f"its events have more than {MOST_BYTES // 1024} KiB together")
    return bodies


def _checked_event(event: Event) -> Event:
    """The event, where it can be stored."""
    if type(event) is not Event:
        raise TypeError("no relay.Event")
    given = (event.subject, event.contact, event.consent, event.dedup_key, event.topic)
    for text in given:
        if text is not None and type(text) is not str:
            raise TypeError("no text")
    if not _is_type(event.type) or event.consent not in (None, OPT_OUT, OPT_IN):
        raise InvalidCallback("its event has no valid type or consent")
    if not isinstance(event.data, dict):
        raise InvalidCallback("the data of its event is no dict")
    if event.subject and not event.subject.isprintable() and _CONTROLS.search(event.subject):
        raise InvalidCallback("the subject of its event has control characters")
    if len(orjson.dumps((event.type, given, event.data))) > LARGEST_EVENT:
        raise InvalidCallback(f"its event has more than {LARGEST_EVENT} bytes")
    return _without_empty(event) if "" in given else event


def _is_type(text: Any) -> bool:
    """Whether CloudEvents, a log and a label of a metric can have it as a type."""
    fits = type(text) is str and 0 < len(text) <= LONGEST_TYPE
    return fits and text.isprintable() and " " not in text


def _without_empty(event: Event) -> Event:
    """The event with None for attributes that are empty: two without an id are no repeat."""
    return replace(
        event,
        subject=event.subject or None,
        contact=event.contact or None,
        dedup_key=event.dedup_key or None,
        topic=event.topic or None,
    )


def _with_origin(event: Event, callback: RawCallback) -> Event:
    """An event that a plugin made without `event`, with what the relay gives."""
    return replace(
        event,
        id=new_id(),
        source=f"/callbacks/{callback.source}",
        time=timestamp(callback.received),
        test=callback.test,
        traceparent=callback.traceparent,
    )
