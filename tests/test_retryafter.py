"""Retry-After in all the forms that servers send."""

import time

import pytest

from relay.delivery.classify import parse_retry_after

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
DAY = 86_400.0


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo"])
def zone(request, monkeypatch):
    """The machine's time zone for one test."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("86400", DAY),
        ("86401", DAY),
        ("9" * 4000, DAY),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Friday, 15-Jan-27 08:00:30 GMT", 30.0),
        ("Fri Jan 15 08:00:30 2027", 30.0),
        ("Fri, 15 Jan 2027 10:00:30 +0200", 30.0),
        ("Fri, 15 Jan 2038 08:00:00 GMT", DAY),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY),
    ],
)
def test_what_names_a_time_to_come_is_obeyed_up_to_a_day(value, seconds):
    assert parse_retry_after(value, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "0",
        "-5",
        "soon",
        "1e99",
        "inf",
        "nan",
        "0x10",
        "1_000",
        "٣",
        "7, 8",
        "Fri, 15 Jan 2027 07:59:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Fri, 99 Foo 2027 99:99:99 GMT",
        "\x00",
        "1" * 4000 + "x",
        "Fri, 15 Jan 2027 08:00:30 GMT" + " (" * 30_000,
    ],
)
def test_anything_else_leaves_the_back_off_as_it_is(value):
    assert parse_retry_after(value, NOW) is None


@pytest.mark.parametrize(
    "value",
    [
        "Fri, 15 Jan 2027 08:00:30 GMT",
        "Friday, 15-Jan-27 08:00:30 GMT",
        "Fri Jan 15 08:00:30 2027",
        "Fri, 15 Jan 2027 08:00:30 -0000",
        "Fri, 15 Jan 2027 08:00:30",
    ],
)
def test_every_date_is_utc_wherever_the_machine_stands(zone, value):
    assert time.tzname[0] == {"America/New_York": "EST", "Asia/Tokyo": "JST"}.get(zone, "UTC")
    assert parse_retry_after(value, NOW) == pytest.approx(30.0)
