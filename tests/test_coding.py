"""Packed bodies: whatever of gzip and deflate they are in, they are read; bombs are not."""

import contextlib
import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processortime import share

from relay.callback.coding import MAX_CODINGS, MAX_MEMBERS, MAX_UNPACKED, unpacked
from relay.callback.form import parameters
from relay.event import InvalidCallback, RawCallback
from relay.server.protocol import MAX_BODY


def gzip_of(data, level=9):
    """Packed without the time, as every worker of pytest-xdist must collect the same tests."""
    return gzip.compress(data, level, mtime=0)


FORM = b"mobile=2125551212&smsid=1&msg=STOP"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKED = [
    (gzip_of(FORM), "gzip"),
    (gzip_of(FORM), "X-GZIP"),
    (gzip_of(FORM), "identity, gzip"),
    (gzip_of(FORM), ""),
    (gzip_of(FORM[:9]) + gzip_of(FORM[9:]) + bytes(512), "gzip"),
    (zlib.compress(FORM), "deflate"),
    (raw_deflate(FORM), "deflate"),
    (zlib.compress(gzip_of(FORM)), "gzip, deflate"),
    (gzip_of(raw_deflate(FORM)), " Deflate ,, gzip"),
    (FORM, "identity" + ", identity" * MAX_CODINGS),
    (FORM, " , "),
]


@pytest.mark.parametrize(("body", "encoding"), PACKED)
def test_what_is_packed_is_read(body, encoding):
    assert unpacked(body, encoding) == FORM


def test_a_body_may_be_as_large_unpacked_as_one_that_is_not_packed():
    assert MAX_UNPACKED == MAX_BODY
    whole = bytes(MAX_UNPACKED)
    assert unpacked(gzip_of(whole), "gzip") == whole
    assert unpacked(zlib.compress(whole), "deflate") == whole
    halves = gzip_of(whole[: MAX_UNPACKED // 2]) * 2
    assert unpacked(halves, "gzip") == whole


BOMB = gzip_of(bytes(200 * 2**20), 1)[: 256 * 1024]
TWICE = gzip_of(gzip_of(bytes(100 * 2**20), 1))
BROKEN = [
    (FORM, "gzip", "no gzip"),
    (FORM, "deflate", "no deflate"),
    (b"", "gzip", "cut short"),
    (gzip_of(FORM)[:-9], "gzip", "cut short"),
    (gzip_of(FORM)[:-8] + bytes(8), "gzip", "no gzip"),
    (gzip_of(FORM) + b"more", "gzip", "no gzip"),
    (zlib.compress(FORM)[:-5], "deflate", "no deflate|cut short"),
    (zlib.compress(FORM) + b"more", "deflate", "follows"),
    (gzip_of(FORM), "br", "neither gzip nor deflate"),
    (gzip_of(FORM), "gzip, br", "neither gzip nor deflate"),
    (gzip_of(FORM), "gzip, gzip, gzip, gzip", f"more than {MAX_CODINGS} content codings"),
    (gzip_of(bytes(MAX_UNPACKED + 1)), "gzip", "more than 262144 bytes"),
    (zlib.compress(bytes(MAX_UNPACKED + 1)), "deflate", "more than 262144 bytes"),
    (raw_deflate(bytes(MAX_UNPACKED + 1)), "deflate", "more than 262144 bytes"),
    (gzip_of(bytes(MAX_UNPACKED)) + gzip_of(b"1"), "gzip", "more than 262144 bytes"),
    (BOMB, "gzip", "more than 262144 bytes"),
    (TWICE, "gzip, gzip", "more than 262144 bytes"),
    (gzip_of(b"") * (MAX_MEMBERS + 1), "gzip", "more than 16 members"),
]


@pytest.mark.parametrize(("body", "encoding", "reason"), BROKEN)
def test_what_cannot_be_unpacked_is_not_understood_whatever_the_query_holds(body, encoding, reason):
    if body:
        callback = RawCallback("s", "POST", FORM, "", body, 0, encoding=encoding)
        with pytest.raises(InvalidCallback, match=reason):
            parameters(callback)
    with pytest.raises(InvalidCallback, match=reason):
        unpacked(body, encoding)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (BOMB, "gzip"),
        (TWICE, "gzip, gzip"),
        (gzip_of(b"") * (256 * 1024 // 20), "gzip"),
        (random.Random(1).randbytes(256 * 1024), "deflate, deflate, deflate"),
        (gzip_of(random.Random(0).randbytes(255 * 1024)), "gzip"),
    ],
    ids=["a bomb", "a bomb in a bomb", "empty members", "noise", "what is hard to pack"],
)
def test_unpacking_holds_the_loop_for_a_few_milliseconds(body, encoding):
    """A quarter of what the library needs for a form of that size: about 25 ms."""

    def unpack():
        with contextlib.suppress(InvalidCallback):
            unpacked(body, encoding)

    assert share(unpack, 0.25) < 0.25


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "gzip, deflate", ""]))
def test_nothing_else_is_raised(body, encoding):
    with contextlib.suppress(InvalidCallback):
        assert len(unpacked(body, encoding)) <= MAX_UNPACKED


@given(st.binary(max_size=300))
def test_what_was_packed_comes_out_again(body):
    assert unpacked(gzip_of(body), "gzip") == body
    assert unpacked(zlib.compress(body), "deflate") == body
    assert unpacked(raw_deflate(body), "deflate") == body
