"""Parameters out of queries and bodies, whatever state they are in."""

import contextlib
import gc
import statistics
import time
from urllib.parse import unquote_to_bytes, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.callback.coding import decode
from relay.callback.form import MAX_PARAMETERS, parameters
from relay.event import InvalidCallback, RawCallback
from relay.server.protocol import MAX_BODY

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=xyz"


def callback(query: bytes = b"", body: bytes = b"", content_type: str = "") -> RawCallback:
    return RawCallback("sumotext", "POST" if body else "GET", query, content_type, body, 0)


def read(*arguments):
    return parameters(callback(*arguments))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", []),
        (b"a=1&b=2", [("a", "1"), ("b", "2")]),
        (b"a=1&&b=2&", [("a", "1"), ("b", "2")]),
        (b"&&&", []),
        (b"a", [("a", "")]),
        (b"a=", [("a", "")]),
        (b"=1", [("", "1")]),
        (b"=", [("", "")]),
        (b"a=1=2", [("a", "1=2")]),
        (b"a=1;b=2", [("a", "1;b=2")]),
        (b"b=1&a=2&b=3", [("b", "1"), ("a", "2"), ("b", "3")]),
        (b"short+code=84700", [("short code", "84700")]),
        (b"short%20code=84700", [("short code", "84700")]),
        (b"a=%2B1%26%3D", [("a", "+1&=")]),
        (b"a=%zz", [("a", "%zz")]),
        (b"a=100%", [("a", "100%")]),
        (b"a=%4", [("a", "%4")]),
        (b"a=%C3%A9", [("a", "é")]),
        (b"a=%E9", [("a", "é")]),
        (b"a=\xe9", [("a", "é")]),
        (b"a=\xc3\xa9", [("a", "é")]),
        (b"a=%93quoted%94", [("a", "“quoted”")]),
        (b"a=%81%8D", [("a", "\x81\x8d")]),
        (b"a=%E9&b=%C3%A9", [("a", "é"), ("b", "é")]),
        (b"a=%ED%A0%80", [("a", "í\xa0€")]),
        (b"a=%00%01", [("a", "\x00\x01")]),
        (b"a=%F0%9F%98%80", [("a", "😀")]),
        (b"%E9=1", [("é", "1")]),
        (b"a=%2500", [("a", "%00")]),
    ],
)
def test_a_query_and_a_form_read_the_same(query, expected):
    assert read(query) == expected
    assert read(b"", query, FORM) == expected
    assert read(b"", query, "Application/X-WWW-Form-Urlencoded; charset=utf-8") == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"%u20AC", "€"),
        (b"%u20ac+%u0053TOP", "€ STOP"),
        (b"%uD83D%uDE00", "😀"),
        (b"a%uD83D%uDE00%u0041b", "a😀Ab"),
        (b"%uD83D", "%uD83D"),
        (b"%uDE00%uD83D", "%uDE00%uD83D"),
        (b"%uD83D%u0041", "%uD83DA"),
        (b"%u20A", "%u20A"),
        (b"%u20AG", "%u20AG"),
        (b"%U20AC", "%U20AC"),
        (b"%25u20AC", "%u20AC"),
        (b"%E9%u20AC%C3%A9", "é€é"),
        (b"%C3%A9%u20AC%E9%u20AC%C3", "é€é€Ã"),
        (b"%u0000", "\0"),
        (b"%u%u20AC%", "%u€%"),
    ],
)
def test_what_asp_escapes_is_read(written, expected):
    assert read(b"a=" + written) == [("a", expected)]
    assert read(b"", written + b"=1&b=2", FORM) == [(expected, "1"), ("b", "2")]


PAIRS = [("msg", "é€ 😀"), ("b", "")]


@pytest.mark.parametrize("kind", ["form", "JSON"])
@pytest.mark.parametrize(
    ("mark", "codec", "charset"),
    [
        (b"\xef\xbb\xbf", "utf-8", ""),
        (b"\xff\xfe", "utf-16-le", ""),
        (b"\xfe\xff", "utf-16-be", "; charset=utf-8"),
        (b"\xff\xfe\0\0", "utf-32-le", ""),
        (b"\0\0\xfe\xff", "utf-32-be", ""),
        (b"", "utf-16-le", ""),
        (b"", "utf-16-be", ""),
        (b"", "utf-16-le", "; charset=utf-16"),
        (b"", "utf-16-be", '; Charset="UTF-16"'),
        (b"", "utf-16-be", "; charset=utf-16be"),
        (b"", "utf-32-le", "; charset=utf-32"),
        (b"", "utf-8", "; charset=utf-16"),
        (b"", "utf-8", "; charset=zlib_codec"),
        (b"", "utf-8", "; charset=" + "x" * 1000),
    ],
)
def test_a_body_may_begin_with_a_mark_and_be_utf_16(kind, mark, codec, charset):
    text, content_type = "msg=é€ 😀&b=", FORM
    if kind == "JSON":
        text, content_type = '{"msg": "é€ 😀", "b": ""}', "application/json"
    assert read(b"", mark + text.encode(codec), content_type + charset) == PAIRS


def test_a_mark_may_be_percent_encoded():
    assert read(b"", b"%EF%BB%BFa=%EF%BB%BF1", FORM) == [("a", "\ufeff1")]


@pytest.mark.parametrize(
    ("charset", "raw", "expected"),
    [
        ("windows-1252", b"\x93\xe9\x94", "“é”"),
        ("iso-8859-1", b"\x93\xe9\x94", "“é”"),
        ("windows-1252", b"\xc3\xa9", "é"),
        ("utf-8", b"\xe9", "é"),
        ("windows-1251", b"\xd1\xf2\xee\xef", "Стоп"),
        ("x-cp1251", b"\xe9", "é"),
        ("KOI8-R", b"\xf3\xd4\xcf\xd0", "Стоп"),
        ("ISO-8859-2", b"\xb3", "ł"),
        ("Shift_JIS", b"\x92\xe2\x8e\x7e", "停止"),
        ("gb2312", b"\xcd\xa3", "停"),
        ("Big5", b"\xb0\xb1", "停"),
        ("EUC-KR", b"\xc1\xdf\xc1\xf6", "중지"),
        ("euc-jp", b"\xc4\xe4", "停"),
    ],
)
def test_a_charset_that_is_declared_is_heeded(charset, raw, expected):
    quoted = b"".join(b"%%%02x" % byte for byte in raw)
    declared = f"{FORM}; charset={charset}"
    assert read(b"", b"a=" + raw + b"&b=" + quoted, declared) == [("a", expected), ("b", expected)]
    json_type = f"application/json;charset='{charset}'"
    assert read(b"", b'{"a": "%s"}' % raw, json_type) == [("a", expected)]
    of_part = PART + b"Content-Type: text/plain; charset=" + charset.encode()
    assert read(b"", part(raw, of_part) + END, MULTIPART) == [("a", expected)]
    assert read(b"", part(raw) + END, f"{MULTIPART}; charset={charset}") == [("a", expected)]


@given(st.text("%uU0aFgé +").map(lambda text: text.encode("latin-1").replace(b"%u", b"%U")))
def test_percent_encoding_is_undone_as_the_library_does_it(raw):
    ((_, value),) = read(b"=" + raw)
    assert value == decode(unquote_to_bytes(raw.replace(b"+", b" ")))


NESTED = b'{"a": {"b": [%s]}}'


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"a": [' + b"[]," * 80_000 + b"1]}", "application/json"),
        (b'{"a": [' + b"{}," * 80_000 + b"1]}", "application/json"),
        (b'{"a": [' + b"1," * 120_000 + b"1]}", "application/json"),
        (NESTED % (b'{"c": 1},' * 28_000 + b"1"), "application/json"),
        (NESTED % (b"[]," * 80_000 + b"1"), "application/json"),
        (b"{" + b'"a":1,' * 42_000 + b'"a":1}', "application/json"),
        (b"--xyz\r\nA: b\r\n\r\n\r\n" * 15_000 + b"--xyz--", MULTIPART),
        (b"a=" + b"%u0041x" * 37_000, FORM),
        (b"a=" + b"%u0301%E9" * 29_000, FORM),
        (b"a=" + b"%u" * 130_000, FORM),
        (b"a=" + b"%41" * 87_000, FORM),
        (b"a=" + b"%uD83D" * 43_000, FORM),
    ],
    ids=[
        *("empty lists", "empty objects", "a list", "nested objects", "nested lists", "members"),
        *("parts", "escapes", "escapes beside bytes", "signs", "bytes", "half pairs"),
    ],
)
def test_no_body_takes_long_for_its_size(body, content_type):
    """The baseline is the standard library's percent-decoding of a body of the same size.

    That takes 20 ms where the machine is quiet, so that no body holds the loop for more than 50.
    """
    assert len(body) <= MAX_BODY
    assert ratio(body, content_type) < 2.5


def ratio(body, content_type):
    """The median of several rounds: a machine is slow for a while, and then for both."""
    gc.disable()  # it would go through all that the tests before have left, as no relay does
    try:
        rounds = [
            seconds(lambda: read(b"", body, content_type))
            / seconds(lambda: unquote_to_bytes(b"%41" * 87_000))
            for _ in range(9)
        ]
    finally:
        gc.enable()
    return statistics.median(rounds)


def seconds(run):
    """Seconds of the processor."""
    begun = time.process_time()
    with contextlib.suppress(InvalidCallback):
        run()
    return time.process_time() - begun


def test_the_query_comes_before_the_body():
    assert read(b"a=1", b"a=2&b=3", FORM) == [("a", "1"), ("a", "2"), ("b", "3")]


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "nonsense"])
def test_an_unknown_type_is_tried_as_a_form(content_type):
    assert read(b"", b"a=1&b=%E9", content_type) == [("a", "1"), ("b", "é")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", []),
        (b'{"a": "1", "b": 2}', [("a", "1"), ("b", "2")]),
        (b'{"a": null}', [("a", "")]),
        (b'{"a": true, "b": false}', [("a", "true"), ("b", "false")]),
        (b'{"a": [1, "2", null]}', [("a", "1"), ("a", "2"), ("a", "")]),
        (b'{"a": []}', []),
        (b'{"a": 1, "a": 2}', [("a", "1"), ("a", "2")]),
        (b'{"a": 1.10, "b": 1e400, "c": -0}', [("a", "1.10"), ("b", "1e400"), ("c", "-0")]),
        (b'{"a": 12345678901234567890123}', [("a", "12345678901234567890123")]),
        (b'{"a": {"b": [null, true]}}', [("a", '{"b": [null, true]}')]),
        (
            b'{"a": {"n": 1, "d": 1.50, "e": [1e400, NaN], "t": "1", "n": 2}}',
            [("a", '{"n": 1, "d": 1.50, "e": [1e400, NaN], "t": "1", "n": 2}')],
        ),
        (b'{"a": [{"b": 1}, [2, "\\u00e9\\""]]}', [("a", '{"b": 1}'), ("a", '[2, "é\\""]')]),
        (b'{"a": "\\ud83d\\ude00"}', [("a", "😀")]),
        (b'{"a": "\\ud83d"}', [("a", "\ufffd")]),
        (b'{"a": "\\u0000"}', [("a", "\0")]),
        (b'{"a": "\xe9"}', [("a", "é")]),
        (b'\xef\xbb\xbf{"a": "1"}', [("a", "1")]),
        (b"null", []),
        (b" \r\n", []),
    ],
)
def test_a_json_body_is_an_object_of_scalars_and_lists(body, expected):
    assert read(b"", body, "application/json; charset=utf-8") == expected
    assert read(b"", body, "application/vnd.sumotext+json") == expected


def test_json_is_known_also_under_a_wrong_type():
    assert read(b"", b' {"a": "1=2"}', FORM) == [("a", "1=2")]
    assert read(b"", b"{a=1", FORM) == [("{a", "1")]
    assert read(b"", b"[a]=1", FORM) == [("[a]", "1")]


@pytest.mark.parametrize("other", ["application/json", "text/plain", "multipart/form-data"])
def test_of_two_types_the_first_counts(other):
    assert read(b"", b"a=1", f"{FORM}, {other}") == [("a", "1")]
    assert read(b"", b'{"a": "1"}', f"application/json, {other}") == [("a", "1")]


PART = b'form-data; name="a"\r\n'
END = b"--xyz--\r\n"


def part(value: bytes, disposition: bytes = b'form-data; name="a"') -> bytes:
    return b"--xyz\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (part(b"1") + b"--xyz--\r\n", [("a", "1")]),
        (part(b"1") + part(b"2") + b"--xyz--", [("a", "1"), ("a", "2")]),
        (part(b"\xe9") + b"--xyz--\r\n", [("a", "é")]),
        (part(b"\xc3\xa9\r\n") + b"--xyz--\r\n", [("a", "é\r\n")]),
        (part(b"") + b"--xyz--\r\n", [("a", "")]),
        (part(b"1", PART + b"Content-Transfer-Encoding: 8BIT ") + END, [("a", "1")]),
        (part("é".encode("utf-16"), PART + b"Content-Type: text/plain") + END, [("a", "é")]),
        (part(b"1", b'form-data; name="a b"; filename="x"') + b"--xyz--\r\n", [("a b", "1")]),
        (part(b"1", b"form-data") + b"--xyz--\r\n", []),
        (b"--xyz--\r\n", []),
    ],
)
def test_a_multipart_form_is_read(body, expected):
    assert read(b"", body, MULTIPART) == expected


UNREADABLE = [
    (b"[1]", "application/json"),
    (b'"a"', "application/json"),
    (b"{", "application/json"),
    (b"a=1", "application/json"),
    (b"{" * 100_000, "application/json"),
    (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "application/json"),
    (b"a=1", "multipart/form-data"),
    (b"a=1", MULTIPART),
    (part(b"1"), MULTIPART),
    (part(b"1")[:-10], MULTIPART),
    (b"--xyz\r\nbad header\r\n\r\n1\r\n--xyz--\r\n", MULTIPART),
    (part(b"1") + b"--xyz--\r\n", "multipart/form-data; boundary=" + "x" * 500),
    (part(b"U1RPUA==", PART + b"Content-Transfer-Encoding: base64") + END, MULTIPART),
    (part(b"\x1f\x8b", PART + b"content-encoding: gzip") + END, MULTIPART),
    (part(b"\x81", PART + b"Content-Type: text/plain; charset=sjis") + END, MULTIPART),
    (part(b"\x81") + END, MULTIPART + "; charset=shift_jis"),
    (b'{"msg":"STOP",}', "application/json"),
    (b'{"msg":"STOP",}', FORM),
    (b' {\n"msg":"STOP",}', "text/plain"),
    (b"{'msg':'STOP'}", ""),
    (b'[{"msg":"STOP"}]', FORM),
    (b'{"msg":"STOP"} {"msg":"STOP"}', "application/json"),
    (b"msg=STOP", "application/json, application/x-www-form-urlencoded"),
    (b'{"a": "\x81"}', "application/json; charset=shift_jis"),
    (b"msg=%FF%FF", FORM + "; charset=euc-jp"),
    (b"\xff\xfem\0s", FORM),
    (b"\xff\xfe\x00\xd8", FORM),
    (b"\0m\0s\0g\0", FORM + "; charset=utf-16"),
]


@pytest.mark.parametrize("query", [b"", b"mobile=1"], ids=["alone", "beside a query"])
@pytest.mark.parametrize(("body", "content_type"), UNREADABLE)
def test_a_body_that_cannot_be_read_is_not_understood(query, body, content_type, caplog):
    """A good query does not suffice: the body may hold what the contact said."""
    with pytest.raises(InvalidCallback):
        read(query, body, content_type)
    assert not caplog.records


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"hello", "text/plain"),
        (b"hello", ""),
        (b"\x00\xff", ""),
        (b"\x00\xff\x00", "application/octet-stream"),
        (b"<a>STOP</a>", "text/xml; charset=unknown"),
    ],
)
def test_good_query_parameters_suffice_beside_a_body_that_has_none(body, content_type):
    assert read(b"mobile=1", body, content_type) == [("mobile", "1")]
    with pytest.raises(InvalidCallback, match="the body has no parameters"):
        read(b"", body, content_type)


def test_the_number_of_parameters_is_limited():
    pairs = b"&".join(b"a=%d" % number for number in range(MAX_PARAMETERS))
    assert len(read(pairs)) == MAX_PARAMETERS
    assert len(read(b"", b"&&" + pairs, FORM)) == MAX_PARAMETERS
    for query, body in ((pairs + b"&a", b""), (b"", pairs + b"&a"), (b"b", pairs)):
        with pytest.raises(InvalidCallback, match="more than 1000 parameters"):
            read(query, body, FORM)


@given(
    query=st.binary(max_size=200),
    body=st.binary(max_size=200),
    content_type=st.sampled_from(
        ["", FORM, "application/json", MULTIPART, "multipart/form-data", "text/xml; charset=é"]
    ),
)
@example(query=b"%", body=b"{", content_type="")
def test_nothing_is_raised_but_not_understood_and_all_text_is_utf_8(query, body, content_type):
    try:
        found = read(query, body, content_type)
    except InvalidCallback:
        return
    for name, value in found:
        name.encode()
        value.encode()


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1))
def test_what_a_browser_encodes_comes_out_again(pairs):
    try:
        encoded = urlencode(pairs).encode()
    except UnicodeEncodeError:  # a lone surrogate, which no browser sends
        return
    assert read(encoded) == pairs
    assert read(b"", encoded, FORM) == pairs


@given(st.binary(max_size=60))
def test_multipart_never_raises_anything_else_whatever_the_parts_hold(value):
    with contextlib.suppress(InvalidCallback):
        read(b"", part(value) + b"--xyz--\r\n", MULTIPART)
