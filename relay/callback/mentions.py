"""Mentions of a contact's number in callbacks as they arrived, whatever they are encoded in."""

import zlib
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

from relay.callback.coding import MAX_UNPACKED, BrokenBody, as_utf8, unpacked
from relay.callback.form import Pairs, fold, parameters
from relay.event import Event, InvalidCallback, RawCallback
from relay.redact import NumberMatcher

HEADERS = (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS)
"""For zlib: a header of gzip or of its own, or none."""


def callback_of(query: bytes, content_type: str, body: bytes, encoding: str) -> RawCallback:
    """A callback of which nothing else matters here."""
    return RawCallback("", "", query, content_type, body, 0, encoding=encoding)


def within(matcher: NumberMatcher, callback: RawCallback) -> bool:
    """Whether the number stands in its bytes, or the relay would read it from them."""
    return in_bytes(matcher, callback) or any(
        matcher.reads(text) or _has(matcher, text) for text in _texts(matcher, callback)
    )


def in_bytes(matcher: NumberMatcher, callback: RawCallback) -> bool:
    """Whether the number stands in its bytes, packed or not."""
    headers = f"{callback.content_type}\n{callback.encoding}".encode()
    if any(map(matcher.within, (callback.query, headers, callback.body))):
        return True
    body = _readable(callback)
    return body is not callback.body and matcher.within(body)


def blacked(matcher: NumberMatcher, callback: RawCallback) -> RawCallback:
    """The callback with the number blacked out.

    A body that was packed, or in UTF-16, is then in UTF-8 and as it was before. Where its bytes
    could not be read as before, or would still hold the number, a form with what is read of them
    takes their place.
    """
    if not within(matcher, callback):
        return callback
    in_place = _in_place(matcher, callback)
    same = len(_pairs(in_place)) == len(_pairs(callback))
    if same and not within(matcher, in_place):
        return in_place
    written = _emptied(callback)._replace(
        query=urlencode(_blacked_pairs(matcher, callback)).encode()
    )
    return _emptied(callback) if within(matcher, written) else written


def kept(
    matcher: NumberMatcher, callback: RawCallback, event_of: Callable[[RawCallback], Event]
) -> RawCallback | None:
    """What may be kept of it: None where it is the contact's, or of nobody who could be named.

    `event_of` makes the event of the callback, or raises InvalidCallback.
    """
    if not within(matcher, callback):
        return callback
    try:
        contact = event_of(callback).contact
        written = [contact] if contact else []
    except InvalidCallback:
        written = [value for name, value in _pairs(callback) if fold(name) == "mobile" and value]
        if not written:
            return None
    if any(matcher.reads(each) or _has(matcher, each) for each in written):
        return None
    return blacked(matcher, callback)


def _in_place(matcher: NumberMatcher, callback: RawCallback) -> RawCallback:
    done = callback._replace(
        query=matcher.blacked(callback.query),
        content_type=matcher.blacked(callback.content_type.encode()).decode(),
        body=matcher.blacked(callback.body),
    )
    readable = _readable(callback)
    black = matcher.blacked(readable)
    if readable is callback.body or black == readable:
        return done
    return done._replace(body=black, encoding="")


def _emptied(callback: RawCallback) -> RawCallback:
    return callback._replace(query=b"", content_type="", body=b"", encoding="")


def _blacked_pairs(matcher: NumberMatcher, callback: RawCallback) -> Pairs:
    return [
        (matcher.blacked_in(name), matcher.blacked_in(value)) for name, value in _pairs(callback)
    ]


def _pairs(callback: RawCallback) -> Pairs:
    try:
        return parameters(callback)
    except InvalidCallback:
        return []


def _has(matcher: NumberMatcher, text: str) -> bool:
    return matcher.within(text.encode("utf-8", "replace"))


def _texts(matcher: NumberMatcher, callback: RawCallback) -> Iterator[str]:
    """The names and values of the parameters, where any may be or hold the number."""
    texts = [text for pair in _pairs(callback) for text in pair]
    if matcher.may_be_in('"'.join(texts).encode("utf-8", "replace")):
        yield from texts


def _readable(callback: RawCallback) -> bytes:
    """The body unpacked and in UTF-8; as it is where it is so already, or is no such thing."""
    if not callback.body:
        return callback.body
    try:
        return as_utf8(unpacked(callback.body, callback.encoding), callback.content_type)
    except BrokenBody:
        return _first_part(callback.body)


def _first_part(body: bytes) -> bytes:
    """What can be unpacked of a body that is cut short or too long."""
    for header in HEADERS:
        try:
            return zlib.decompressobj(header).decompress(body, MAX_UNPACKED)
        except zlib.error:
            continue
    return body
