"""Mentions of a contact's number in callbacks as they arrived, whatever they are encoded in."""

import zlib
from collections.abc import Iterator

from relay.callbacks.callback import Callback, NotUnderstood
from relay.callbacks.coding import MAX_UNPACKED, BrokenBody, as_utf8, unpacked
from relay.callbacks.parameters import parameters
from relay.traces import Traces

HEADERS = (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS)
"""For zlib: a header of gzip or of its own, or none."""


def callback_of(query: bytes, content_type: str, body: bytes, encoding: str) -> Callback:
    """A callback of which nothing else matters here."""
    return Callback("", "", query, content_type, body, 0, encoding=encoding)


def within(traces: Traces, callback: Callback) -> bool:
    """Whether the number stands in its bytes, or the relay would read it from them."""
    return in_bytes(traces, callback) or any(
        traces.reads(value) or traces.within(value.encode("utf-8", "replace"))
        for value in _values(traces, callback)
    )


def in_bytes(traces: Traces, callback: Callback) -> bool:
    """Whether the number stands in its bytes, packed or not."""
    parts = (callback.query, callback.content_type.encode(), callback.body)
    if any(map(traces.within, parts)):
        return True
    body = _readable(callback)
    return body is not callback.body and traces.within(body)


def blacked(traces: Traces, callback: Callback) -> Callback:
    """The callback with the number blacked out.

    A body that was packed, or in UTF-16, is then in UTF-8 and as it was before. Of a callback in
    which the number cannot be blacked out, the body goes, and where that is no help the query.
    """
    if not within(traces, callback):
        return callback
    done = callback._replace(
        query=traces.blacked(callback.query),
        content_type=traces.blacked(callback.content_type.encode()).decode(),
        body=traces.blacked(callback.body),
    )
    readable = _readable(callback)
    if readable is not callback.body and (black := traces.blacked(readable)) != readable:
        done = done._replace(body=black, encoding="")
    for emptied in ({}, {"body": b"", "encoding": ""}, {"query": b""}):
        done = done._replace(**emptied)
        if not within(traces, done):
            break
    return done


def _values(traces: Traces, callback: Callback) -> Iterator[str]:
    """The names and values of the parameters, where any may be or hold the number."""
    try:
        texts = [text for pair in parameters(callback) for text in pair]
    except NotUnderstood:
        return
    if traces.may_be_in('"'.join(texts).encode("utf-8", "replace")):
        yield from texts


def _readable(callback: Callback) -> bytes:
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
