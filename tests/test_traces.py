"""Traces: a number is found however it is written, and nothing else is."""

import pytest

from relay.traces import Traces

US = Traces("+12125550142")


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


@pytest.mark.parametrize("digits", ["２", "２ ", "２-２", "２%20", "2２"])
def test_no_bytes_make_a_search_long(digits):
    """With two ways to read each of them, 30 KiB took a minute and a half; 256 are taken."""
    same = Traces("+12222222223")
    data = digits.encode() * (256 * 1024 // len(digits.encode()))
    assert not same.within(data)
    assert same.blacked(data) == data


def test_only_the_digits_become_black():
    assert US.blacked(b"call %28212%29%20555-0142!") == b"call %28xxx%29%20xxx-xxxx!"


def test_a_short_number_wants_nothing_else_around_it():
    iceland = Traces("+3545551234")
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
