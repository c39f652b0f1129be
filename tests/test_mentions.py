"""Mentions of a number in callbacks: found and blacked out in whatever the relay can read."""

import gzip
import json
import zlib
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_costs import RATIO, TRIES, filled, growth
from test_number_matcher import ENCODINGS, as_it_is, json_escapes, percent, percent_u, written

from relay import phone
from relay.callback import mentions
from relay.callback.form import parameters
from relay.event import Event, InvalidCallback
from relay.redact import NumberMatcher

US = NumberMatcher("+12125550142")
FORM = "application/x-www-form-urlencoded"
BOUNDARY = "b0undary"
CHARSETS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030")
PACKINGS = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "gzip, deflate": lambda body: zlib.compress(gzip.compress(body)),
}


def form(text, encoded):
    value = "".join(
        quote(each, safe="") if encoded in (as_it_is, json_escapes) else encoded(each)
        for each in text
    )
    return f"mobile={value}&x=1", FORM


def as_json(text, encoded):
    value = json_escapes(text) if encoded is json_escapes else json.dumps(text)[1:-1]
    return f'{{"mobile": "{value}", "x": 1}}', "application/json"


def multipart(text, encoded):
    head = 'Content-Disposition: form-data; name="mobile"'
    return (
        f"--{BOUNDARY}\r\n{head}\r\n\r\n{text}\r\n--{BOUNDARY}--\r\n",
        f"multipart/form-data; boundary={BOUNDARY}",
    )


def posted(text, content_type, charset="utf-8", packing=""):
    body = PACKINGS[packing](text.encode(charset))
    return mentions.callback_of(b"", f"{content_type}; charset={charset}", body, packing)


def is_read(callback):
    """Whether the relay's own reader finds the number in one of the parameters."""
    try:
        pairs = parameters(callback)
    except InvalidCallback:
        return False
    return any(phone.e164(value, "US") == US.mobile for _, value in pairs)


@given(
    written(),
    st.sampled_from((form, as_json, multipart)),
    st.sampled_from(ENCODINGS),
    st.sampled_from(CHARSETS),
    st.sampled_from(sorted(PACKINGS)),
)
def test_what_the_relay_reads_as_the_number_is_found_and_goes(
    text, kind, encoded, charset, packing
):
    callback = posted(*kind(text, encoded), charset, packing)
    assume(is_read(callback))
    assert mentions.within(US, callback)
    black = mentions.blacked(US, callback)
    assert not mentions.within(US, black)
    assert not is_read(black)


@given(written(), st.sampled_from((percent, percent_u)))
def test_a_query_is_found_and_keeps_its_other_parameters(text, encoded):
    query = f"key=JOIN&msg=call+{encoded(text)}+now&smsid=1".encode()
    assume(phone.e164(text, "US") == US.mobile)
    callback = mentions.callback_of(query, "", b"", "")
    assert mentions.within(US, callback)
    black = mentions.blacked(US, callback)
    assert not mentions.within(US, black)
    pairs = dict(parameters(black))
    assert pairs["key"] == "JOIN"
    assert pairs["smsid"] == "1"
    assert pairs["msg"].startswith("call ")


def packed_call(packing, text="call 212-555-0142"):
    return posted(f"msg={quote(text)}&key=JOIN", FORM, packing=packing)


@pytest.mark.parametrize("packing", [name for name in PACKINGS if name])
def test_a_packed_body_is_kept_unpacked(packing):
    black = mentions.blacked(US, packed_call(packing))
    assert black.encoding == ""
    assert parameters(black) == [("msg", "call xxx-xxx-xxxx"), ("key", "JOIN")]


def test_a_packed_body_without_the_number_is_kept_as_it_is():
    callback = packed_call("gzip", "call 212-555-0199")
    assert mentions.blacked(US, callback) is callback
    assert mentions.kept(US, callback, event_of=no_event) is callback


def test_a_packed_body_that_is_cut_short_is_searched_as_far_as_it_goes():
    callback = packed_call("gzip")
    cut = callback._replace(body=callback.body[:-6])
    with pytest.raises(InvalidCallback):
        parameters(cut)
    assert mentions.within(US, cut)
    assert not mentions.within(US, mentions.blacked(US, cut))


@pytest.mark.parametrize(
    "callback",
    [
        mentions.callback_of(b"a=1&to=212JJJ0142", "", b"key=JOIN", ""),
        mentions.callback_of(b"a=1&to=212a5550142", "", b"key=JOIN", ""),
        posted("a=1&to=２１２５５５０１４２&key=JOIN", FORM, "gb18030"),
        posted('{"a":1,"to":2125550142,"key":"JOIN"}', "application/json"),
    ],
)
def test_where_blacking_out_does_not_help_what_is_read_is_kept(callback):
    assert mentions.within(US, callback)
    black = mentions.blacked(US, callback)
    assert not mentions.within(US, black)
    pairs = dict(parameters(black))
    assert set(pairs.pop("to")) == {"x"}
    assert pairs == {"a": "1", "key": "JOIN"}


def test_a_header_is_searched():
    callback = mentions.callback_of(b"a=1", "", b"", "to 212-555-0142")
    assert mentions.within(US, callback)
    assert not mentions.within(US, mentions.blacked(US, callback))


def test_nothing_is_kept_of_what_cannot_be_read_either():
    body = gzip.compress(b"to=212-555-0142")[:-2]
    black = mentions.blacked(US, mentions.callback_of(b"a=2125550142", "", body, "gzip"))
    assert not mentions.within(US, black)


@pytest.mark.parametrize(
    ("query", "stays"),
    [
        (b"mobile=2125550142&msg=hi", False),
        (b"Mobile=%28212%29+JJJ-0142&msg=hi", False),
        (b"mobile=2125550177&mobile=2125550142", False),
        (b"msg=2125550142", False),
        (b"mobile=2125550177&msg=call+2125550142", True),
    ],
)
def test_of_another_contact_all_but_the_number_is_kept(query, stays):
    callback = mentions.callback_of(query, "", b"", "")
    kept = mentions.kept(US, callback, event_of=no_event)
    if stays:
        assert parameters(kept) == [("mobile", "2125550177"), ("msg", "call xxxxxxxxxx")]
    else:
        assert kept is None


def no_event(callback):
    raise InvalidCallback("the kind is missing")


@pytest.mark.parametrize(
    ("contact", "stays"),
    [("+12125550142", False), ("+12125550177", True), ("mary@example.com", True), (None, True)],
)
def test_of_another_vendors_callback_the_event_says_whose_it_is(contact, stays):
    """Its parameters have other names than Sumotext's."""

    def event_of(callback):
        data = json.loads(callback.body)
        return Event("1", "/callbacks/x", "com.x.text", None, "", data, contact=contact)

    body = b'{"from": "mary", "text": "call 2125550142"}'
    callback = mentions.callback_of(b"", "application/json", body, "")
    kept = mentions.kept(US, callback, event_of=event_of)
    blacked = callback._replace(body=body.replace(b"2125550142", b"xxxxxxxxxx"))
    assert kept == (blacked if stays else None)


def test_a_callback_without_the_number_stays():
    callback = mentions.callback_of(b"a=%D9%A2", FORM, b"mobile=2125550143&a=%u0662", "")
    assert not mentions.within(US, callback)
    assert mentions.blacked(US, callback) is callback
    assert mentions.kept(US, callback, event_of=no_event) is callback


@pytest.mark.parametrize(
    "pattern", [b"%32", rb"\u0032", b"2125550142a", "２１２５５５０１４２ ".encode()]
)
def test_time_grows_with_the_size(pattern):
    """It is no time of the event loop, but senders choose what is searched."""

    def search(size):
        body = b"x=" + filled(pattern, size)
        for encoding in ("", "gzip"):
            mentions.blacked(
                US, mentions.callback_of(body, FORM, PACKINGS[encoding](body), encoding)
            )

    assert any(growth(search, 32 * 1024)[1] <= RATIO for _ in range(TRIES))
