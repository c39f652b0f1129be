"""Durations, sizes, rates and addresses as relay.yaml writes them."""

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.units import (
    BYTES,
    SECONDS,
    Duration,
    HostPort,
    Rate,
    RateLimit,
    Size,
    byte_rate,
    duration,
    rate,
    size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5), ("10m", 600), ("6h", 21600), ("4d", 345600), ("1.5h", 5400)],
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("512B", 512), ("64KiB", 65536), ("1.5MiB", 1572864), ("1GiB", 2**30)]
)
def test_sizes(text, count):
    assert size(text) == count


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100/10s", Rate(100, 10)), ("5/s", Rate(5, 1)), ("1/250ms", Rate(1, 0.25))],
)
def test_rates(text, expected):
    assert rate(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10MiB/1s", Rate(10 * 2**20, 1)),
        ("1.5KiB/s", Rate(1536, 1)),
        ("1GiB/2h", Rate(2**30, 7200)),
    ],
)
def test_rates_in_bytes(text, expected):
    assert byte_rate(text) == expected


@pytest.mark.parametrize("text", ["", "10/s", "10MiB", "MiB/s", "0B/s", "0.1B/s", "1KiB/0s"])
def test_what_is_no_rate_in_bytes(text):
    with pytest.raises(ValueError, match="should be a rate"):
        byte_rate(text)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "-5s", "5S", "1h30m", "٥s", "1e3s", "5s\n5s"]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="should be a duration such as 250ms"):
        duration(text)


@pytest.mark.parametrize("text", ["", "64", "64KB", "64kib", "-1B", "KiB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="should be a size such as 512B"):
        size(text)


@pytest.mark.parametrize("text", ["", "100", "100/", "/s", "1.5/s", "100/10", "0/s", "5/0s"])
def test_what_is_no_rate(text):
    with pytest.raises(ValueError, match="should be a rate"):
        rate(text)


@given(st.integers(0, 10**9), st.sampled_from(sorted(SECONDS)))
def test_a_duration_is_its_number_of_units(number, unit):
    assert duration(f"{number}{unit}") == pytest.approx(number * SECONDS[unit])


@given(st.integers(0, 10**9), st.sampled_from(sorted(BYTES)))
def test_a_size_is_its_number_of_units(number, unit):
    assert size(f"{number}{unit}") == number * BYTES[unit]


@given(st.text())
def test_no_text_raises_anything_but_a_sentence_without_it(text):
    for parse in (duration, size, rate, HostPort.parse):
        try:
            parse(text)
        except ValueError as error:
            assert str(error).startswith("should be ")  # noqa: PT017  most texts raise


def test_the_types_are_written_as_text_only():
    class Model(pydantic.BaseModel):
        duration: Duration
        size: Size
        rate: RateLimit

    model = Model.model_validate({"duration": "5s", "size": "1KiB", "rate": "10/s"})
    assert (model.duration, model.size, model.rate) == (5, 1024, Rate(10, 1))
    with pytest.raises(pydantic.ValidationError) as caught:
        Model.model_validate({"duration": 5, "size": 1024, "rate": None})
    assert caught.value.error_count() == 3


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:80", "::1", 80, True),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),
        ("[::]:8080", "::", 8080, False),
        ("relay.example:443", "relay.example", 443, False),
    ],
)
def test_addresses(text, host, port, loopback):
    address = HostPort.parse(text)
    assert address == HostPort(host, port)
    assert address.loopback is loopback
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["8080", ":8080", "::1:8080", "[::1]", "[host]:80", "a:65536", "a:x"]
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="should be an address such as"):
        HostPort.parse(text)
