"""The number matcher: a number is found however it is written, and nothing else is."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relay import phone
from relay.redact import NumberMatcher

US = NumberMatcher("+12125550142")


@pytest.mark.parametrize(
    "data",
    [
        b"+12125550142",
        b"2125550142",
        b"0012125550142",
        b"(212) 555-0142",
        b"1-212-555-0142",
        b"212.555.0142",
        b"212 555 01 42",
        b"mobile=%2B12125550142&smsid=1",
        b"%28212%29%20555-0142",
        b"%32%31%32%35%35%35%30%31%34%32",
        "212–555–0142".encode(),
        "２１２５５５０１４２".encode(),
        "212\u00a0555\u00a00142".encode(),
        b"ref8821255501420",
    ],
)
def test_it_is_found(data):
    assert US.within(data)
    blacked = US.blacked(data)
    assert not US.within(blacked)
    assert len(blacked) == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"2125550143",
        b"212555014",
        b'"212","555","0142"',
        b"a=212&b=5550142",
        b"212 apples, 555 pears, 0142 plums",
        "２１２７５５５０１４２".encode(),
        "212７5550142".encode(),
    ],
)
def test_others_are_left_alone(data):
    assert not US.within(data)
    assert US.blacked(data) == data


@pytest.mark.parametrize(
    "digits",
    ["２", "２ ", "２-２", "２%20", "2２", "2x", "%32", r"\u0032", "%EF%BC%92", "\\", "2 2x2 "],
)
def test_no_bytes_make_a_search_long(digits):
    """With two ways to read each of them, 30 KiB took a minute and a half; 256 are taken."""
    same = NumberMatcher("+12222222223")
    assert same.within(b"2222222223")
    data = digits.encode() * (256 * 1024 // len(digits.encode()))
    assert not same.within(data)
    assert same.blacked(data) == data


def test_only_the_digits_become_black():
    assert US.blacked(b"call %28212%29%20555-0142!") == b"call %28xxx%29%20xxx-xxxx!"


def test_a_short_number_wants_nothing_else_around_it():
    iceland = NumberMatcher("+3545551234")
    assert iceland.within(b"tel 555 1234.")
    assert iceland.within(b"%205551234")
    assert not iceland.within(b"id 95551234")
    assert not iceland.within(b"55512340000")


def test_json_is_blacked_at_any_depth():
    value = {"a": ["2125550142", 2125550142, 7, True, None], "212-555-0142": {"b": "+12125550142"}}
    assert US.blacked_in(value) == {
        "a": ["xxxxxxxxxx", "xxxxxxxxxx", 7, True, None],
        "xxx-xxx-xxxx": {"b": "+xxxxxxxxxxx"},
    }


def test_its_repr_keeps_the_number_to_itself():
    assert "0142" not in repr(US)


# whatever the relay itself would read as the number


def percent(text):
    return "".join(f"%{byte:02X}" for byte in text.encode())


def percent_u(text):
    return "".join(f"%u{unit:04x}" for unit in units(text))


def json_escapes(text):
    return "".join(f"\\u{unit:04X}" for unit in units(text))


def units(text):
    data = text.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def as_it_is(text):
    return text


DIGITS = (
    "0123456789",
    "٠١٢٣٤٥٦٧٨٩",
    "۰۱۲۳۴۵۶۷۸۹",
    "०१२३४५६७८९",
    "０１２３４５６７８９",
    "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗",
)
MARKS = (
    "",
    "",
    " ",
    "-",
    ".",
    "/",
    "(",
    ")",
    "[",
    "~",
    "*",
    "x",
    "‐",
    "–",
    "ー",
    "−",
    "　",
    "\u200b",
    "\u00ad",
    "\u00a0",
)
PREFIXES = ("", "+1", "1", "+", "011 1 ", "tel:+1-")
ENCODINGS = (as_it_is, percent, percent_u, json_escapes)


@st.composite
def written(draw):
    """The number as somebody may write it, in digits of any script."""
    text = draw(st.sampled_from(PREFIXES))
    for digit in "2125550142":
        text += draw(st.sampled_from(DIGITS))[int(digit)] + draw(st.sampled_from(MARKS))
    return text


@given(written(), st.data())
def test_what_the_reader_takes_for_the_number_is_found(text, data):
    assume(phone.e164(text, "US") == US.mobile)
    # One kind of escape in a text, as no reader undoes two, and some characters without it.
    encoded = data.draw(st.sampled_from(ENCODINGS))
    raw = "".join(data.draw(st.sampled_from((encoded, as_it_is)))(each) for each in text).encode()
    assert US.within(raw)
    assert US.may_be_in(raw)
    black = US.blacked(raw)
    assert not US.within(black)
    assert len(black) == len(raw)


@pytest.mark.parametrize(
    "data",
    [
        b"212:555:0142",
        b"212,555,0142",
        b"212;555|0142",
        b"212*555*0142",
        b"212x555x0142",
        b"+1 212 '555-0142",
        rb"212\n555\t0142",
        rb'{"msg": "call \u0032\u0031\u0032 555 0142"}',
        rb"\u0662\u0661\u0662\u0665\u0665\u0665\u0660\u0661\u0664\u0662",
        b"%EF%BC%92%ef%bc%91\xef\xbc%92555%2d0142",
        b"%u0662%u0661%u06625550142",
        "2125550142".encode("utf-16"),
        "212-555-0142".encode("utf-16-be"),
        b"212" + b"2125550142" + b"5550142",
    ],
)
def test_it_is_found_and_blacked_however_it_is_encoded(data):
    assert US.within(data)
    black = US.blacked(data)
    assert not US.within(black)
    assert len(black) == len(data)


def test_escapes_turn_black_as_a_whole():
    assert US.blacked(rb'["\u0032\u0031\u0032 555-0142"]') == b'["' + b"x" * 18 + b' xxx-xxxx"]'
    assert US.blacked(b"%u0662%u0661%u06625550142") == b"x" * 25


@pytest.mark.parametrize(
    "text", ["212JJJ0142", "(212) JJJ-0142", "212a5550142", "212 555 0142 ext. 7"]
)
def test_what_only_the_reader_knows_is_read(text):
    assert US.reads(text)
    assert US.is_whole(text.encode()) or US.within(text.encode())
    assert US.blacked_in([text]) != [text]
    assert not US.reads(US.blacked_in(text))


@pytest.mark.parametrize("text", ["", "212AAA0142", "2125550143", "212", "x" * 65])
def test_what_the_reader_takes_for_something_else_is_not(text):
    assert not US.reads(text)


def test_a_number_that_is_dialled_otherwise_at_home_is_found():
    argentina = NumberMatcher("+5491123456789")
    assert argentina.within(b"011 15-2345-6789")
    assert argentina.within(b"+54 9 11 2345-6789")
    assert argentina.reads("11 15 2345 6789")
