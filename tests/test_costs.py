"""What others send costs time in proportion to its size, and never as much as holds up the relay.

Each parser gets the largest text that may reach it, and one of half that size. Twice the size may
take no more than two and a half times the time. The largest may take no longer than the standard
library takes to read a form of that size. Processor time is measured, as other processes take their
share of the machine.
"""

import contextlib
import gzip
import re
import unicodedata

import pytest
from csvsink import rows_module
from hubspotsink import module as hubspot
from processortime import form_of_the_library, seconds
from salesforcesink import errors as salesforce
from sumotextsource import consent, source

import relay
from relay.delivery.classify import outcome_of
from relay.delivery.classify import parse_retry_after as retry_after
from relay.event import Event, InvalidCallback, RawCallback
from relay.monitoring.logs import LONGEST
from relay.phone import alpha_2, digits, e164, national
from relay.redact import NumberMatcher, mask_all, mask_in, without
from relay.server.access import TrustedProxies, basic_password
from relay.server.parsing import ChunkedRequestDecoder, normalise_head
from relay.server.protocol import MAX_BODY, MAX_HEAD
from relay.templating.environment import first_name, last_name

pytestmark = pytest.mark.alone

MOST = 1.0
"""Of the time of `form_of_the_library`. The slowest takes 0.57 of it."""
RATIO = 2.5
TOO_SHORT = 0.01
"""Seconds; what takes less at its largest holds up nobody, however it grows."""
RUNS = 5
TRIES = 3
"""What grows with the square does so each time; a busy machine seldom seems to."""

READER = source()
TRACES = NumberMatcher("+12125551212")
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
MULTIPART = "multipart/form-data; boundary=b"
START = b"mobile=2125551212&carrierId=X&key=K&"
PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n'


def filled(pattern, size):
    """The pattern again and again, up to this size."""
    return (pattern * (size // len(pattern) + 1))[:size]


def read(query=b"", body=b"", content_type=FORM, encoding=""):
    """Make an event of a callback, or find that it makes none."""
    callback = RawCallback(
        "sumotext", "POST", START + query, content_type, body, 0, encoding=encoding
    )
    with contextlib.suppress(InvalidCallback):
        READER.parse(callback).to_json()


def chunks(body):
    """Take in a chunked body."""
    with contextlib.suppress(ValueError):
        ChunkedRequestDecoder().decode(body)


def of_form(pattern, before=b"x="):
    return lambda size: read(body=before + filled(pattern, size - len(before)))


def of_query(pattern):
    return lambda size: read(query=filled(pattern, size // 16))


def of_json(inside, before=b'{"a":', after=b"}"):
    return lambda size: read(body=before + filled(inside, size) + after, content_type=JSON)


def of_list(item):
    """A list of as many items as there is room for."""
    return lambda size: read(
        body=b'{"a":[' + b",".join([item] * (size // (len(item) + 1))) + b"]}", content_type=JSON
    )


def of_parts(part, content_type=MULTIPART):
    return lambda size: read(
        body=part * (size // len(part)) + b"\r\n--b--\r\n", content_type=content_type
    )


def of_text(function, pattern, largest=MAX_BODY):
    """A function of one text."""
    return lambda size: function(filled(pattern, size * largest // MAX_BODY))


def of_record(function):
    """A function of one event, whose message and field are as long as may be."""

    def run(size):
        text = filled("=1;\t+", size // 2)
        data = {"mobile": "+12125551212", "message": text, "fields": {"x": [text]}}
        event = Event("1", "s", "t", None, "2026-11-23T04:34:00.123456Z", data)
        function(relay.Delivery("1", event, event.to_dict(), 1, False, False))

    return run


def picklist(size):
    """A record that Salesforce refuses: none of its values may be told."""
    values = [";".join(str(number) for number in range(size // 7))]
    salesforce.ApiError(400, "X", filled("a1;b2 ", size), ()).told(values)


def quoted(size):
    """A record that HubSpot refuses, with the value in its words."""
    value = filled("x1 ", size)
    hubspot("errors").hidden(f"Property x: {value}", [value, value[1:], value[2:]])


PARSERS = {
    "form: escapes": of_form(b"%41"),
    "form: no escapes": of_form(b"%"),
    "form: an escape here and there": of_form(b"a%41"),
    "form: wide escapes": of_form(b"%u0041x"),
    "form: wide escapes beside others": of_form(b"%u0301%E9"),
    "form: wide escapes without a digit": of_form(b"%u"),
    "form: halves of pairs": of_form(b"%ud83d"),
    "form: plus": of_form(b"+"),
    "form: nothing but separators": of_form(b"&"),
    "form: names without a value": of_form(b"a&"),
    "form: a long name": of_form(b"a_- ", before=b""),
    "form: one field again and again": of_form(b"field=1&"),
    "form: numbers": of_form(b"mobile=212-555-1212&"),
    "form: a long number": of_form(b"1", before=b"mobile="),
    "form: a country": of_form(b"a1", before=b"country="),
    "form: combining marks": of_form("\u0301\u0327".encode(), before=b"msg="),
    "form: wide letters": of_form("ﷺ".encode(), before=b"msg="),
    "form: separators for a word": of_form(b" .", before=b"msg=STOP"),
    "form: controls in a subject": of_form(b"%01", before=b"key="),
    "form: a charset": lambda size: read(
        body=b"x=" + filled(b"%8f%a1", size), content_type=f"{FORM}; charset=euc-jp"
    ),
    "query: escapes": of_query(b"%41"),
    "query: names": of_query(b"a&"),
    "body: UTF-16": lambda size: read(body=filled(b"x\0", size)),
    "body: white space": lambda size: read(body=b" " * size + b"=", content_type=""),
    "body: packed": lambda size: read(body=gzip.compress(b"x" * size), encoding="gzip"),
    "body: packed too much": lambda size: read(
        body=gzip.compress(bytes(size * 10), 1), encoding="gzip"
    ),
    "type: parameters": lambda size: read(
        body=b"--b", content_type=MULTIPART + filled('; a="', size // 16)
    ),
    "type: charsets": lambda size: read(body=b"a=b", content_type=filled("charset ", size // 16)),
    "JSON: depth": of_json(b"["),
    "JSON: a deep object": of_json(b'{"a":', before=b"", after=b""),
    "JSON: a long number": of_json(b"1"),
    "JSON: a long exponent": of_json(b"1", before=b'{"a":1e'),
    "JSON: equal names": of_json(b'"a":1,', before=b"{", after=b'"a":1}'),
    "JSON: white space": of_json(b" ", after=b"1}"),
    "JSON: halves of pairs": of_json(b"\\ud800", before=b'{"a":"', after=b'"}'),
    "JSON: an open text": of_json(b'\\"', before=b'{"a":"'),
    "JSON: numbers": of_list(b"1"),
    "JSON: lists": of_list(b"[]"),
    "JSON: objects": of_list(b"{}"),
    "JSON: nested objects": of_list(b'{"a":[]}'),
    "multipart: empty parts": of_parts(b"--b\r\n\r\n\r\n"),
    "multipart: parts": of_parts(PART + b"\r\n\r\n"),
    "multipart: parts in a charset": of_parts(
        PART + b"Content-Type: text/plain; charset=euc-jp\r\n\r\nx\r\n"
    ),
    "multipart: line ends": lambda size: read(
        body=PART + b"\r\n" + filled(b"\r\n-", size) + b"\r\n--b--\r\n", content_type=MULTIPART
    ),
    "multipart: a long head": lambda size: read(
        body=b'--b\r\nContent-Disposition: a; name="' + filled(b'\\";', size),
        content_type=MULTIPART,
    ),
    "multipart: heads": lambda size: read(
        body=b"--b\r\n" + filled(b"A: b\r\n", size), content_type=MULTIPART
    ),
    "chunks: of a byte": lambda size: chunks(filled(b"1\r\nx\r\n", size)),
    "chunks: of some": lambda size: chunks(filled(b"18\r\n%s\r\n" % (b"x" * 24), size)),
    "chunks: extensions": lambda size: chunks(filled(b"1;a=b\r\nx\r\n", size)),
    "chunks: a long line": lambda size: chunks(b"1;" + b"a" * size),
    "chunks: trailers": lambda size: chunks(b"0\r\n" + filled(b"A: b\r\n", size)),
    "head: a target": of_text(
        lambda head: normalise_head(head + b" HTTP/1.1\r\n\r\n"), b"\xe9 ", MAX_HEAD
    ),
    "head: upgrades": of_text(
        lambda rest: normalise_head(b"GET / HTTP/1.1\r\n" + rest), b"upgrade \t\r\n", MAX_HEAD
    ),
    "head: a password": of_text(lambda text: basic_password(b"Basic " + text), b"YTo=", MAX_HEAD),
    "head: proxies": of_text(
        lambda text: TrustedProxies().client("10.0.0.1", [(b"x-forwarded-for", text)]),
        b"::1%",
        MAX_HEAD,
    ),
    "number": of_text(lambda text: e164(text, "US"), "1-(+ "),
    "country": of_text(alpha_2, "a1 "),
    "consent": of_text(consent, "\u0327\u0301"),
    "consent: space": of_text(lambda text: consent(text + "STOP" + text), " "),
    "digits": of_text(digits, "1a"),
    "national": of_text(lambda text: national("+" + text), "1 "),
    "first name": of_text(first_name, "a "),
    "last name": of_text(last_name, "a, "),
    "an answer's Retry-After": of_text(lambda text: retry_after(text, 0.0), "1", MAX_HEAD),
    "an answer's date": of_text(lambda text: retry_after(text, 0.0), "Mon, (1", MAX_HEAD),
    "an error's words": of_text(lambda text: outcome_of(ValueError(text), 0.0), "a://b@"),
    "a log: numbers": of_text(mask_all, "1 ", LONGEST),
    "a log: escapes": of_text(mask_all, "%20", LONGEST),
    "a log: times": of_text(mask_all, "1:", LONGEST),
    "a log: ids": of_text(mask_all, "deadbeef-", LONGEST),
    "preview: numbers": of_text(lambda text: mask_in(text, "+12125551212"), "2 1 2 5 "),
    "preview: space": of_text(lambda text: mask_in(text, "+11111111111"), "1" + " " * 99),
    "erasure: numbers": of_text(TRACES.within, b"2125551"),
    "erasure: escapes": of_text(TRACES.blacked, b"%20 2%201%202"),
    "erasure: wide digits": of_text(TRACES.blacked, "２１２ ".encode()),
    "Salesforce: a picklist": picklist,
    "HubSpot: a quotation": quoted,
    "HubSpot: digits": lambda size: (
        hubspot("errors").OTHER_RECORD.search("1" * min(size, 65536)),
        hubspot("upsert").LIMIT.search(filled("max", min(size, 65536))),
    ),
    "words: a text of its own": lambda size: without(filled("a", size), [filled("ab", size)]),
    "a row of a CSV file": of_record(rows_module.RowFormat(None, defused=True).row),
}


def at_size(parser, size):
    return seconds(lambda: parser(size))


def growth(parser, largest=MAX_BODY):
    """The time of the largest, by the library's and by that of one of half the size."""
    parser(largest // 64)  # what is made once is made now
    if at_size(parser, largest) < TOO_SHORT:
        return 0.0, 0.0
    runs = [
        (at_size(parser, largest), at_size(parser, largest // 2), seconds(form_of_the_library))
        for _ in range(RUNS)
    ]
    whole, half, library = map(min, zip(*runs, strict=True))
    return whole / library, whole / half


@pytest.mark.parametrize("name", PARSERS)
def test_time_grows_with_the_size(name):
    for _ in range(TRIES):
        cost, ratio = growth(PARSERS[name])
        if cost < MOST and ratio <= RATIO:
            break
    assert cost < MOST
    assert ratio <= RATIO


@pytest.mark.parametrize(
    "mutant",
    [
        lambda size: unicodedata.normalize("NFKC", filled("\u0327\u0301", size)),
        lambda size: re.search(r"(\d+) already", "1" * (size // 2)),
    ],
)
def test_control_what_is_quadratic_fails(mutant):
    """The damage: at the size of a body each of these takes seconds or minutes."""
    _, ratio = growth(mutant, 8 * 1024)
    assert ratio > RATIO
