"""Request heads and chunked bodies, byte by byte."""

from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from relay.server.parsing import ChunkedRequestDecoder, normalise_head


@given(st.binary(max_size=300))
def test_only_the_request_line_and_upgrades_are_changed(rest):
    head = b"GET / HTTP/1.1\r\n" + rest
    if b"upgrade" not in rest.lower():
        assert normalise_head(head) == head


@given(st.binary(max_size=60).filter(lambda target: b"\n" not in target and target.strip(b" ")))
def test_any_target_becomes_a_valid_one(target):
    line = normalise_head(b"GET /" + target + b" HTTP/1.1\r\n\r\n").split(b"\r\n")[0]
    method, encoded, version = line.split(b" ")
    assert (method, version) == (b"GET", b"HTTP/1.1")
    assert all(0x20 < byte < 0x7F and byte != ord("#") for byte in encoded)
    assert unquote_to_bytes(encoded) == unquote_to_bytes(b"/" + target)


@given(st.lists(st.binary(min_size=1, max_size=20)), st.integers(1, 9), st.binary(max_size=9))
def test_a_chunked_body_ends_where_it_ends(chunks, step, behind):
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    data = body + behind
    chunked, pending, taken, content = ChunkedRequestDecoder(), b"", 0, b""
    for start in range(0, len(data), step):
        pending += data[start : start + step]
        extent, found = chunked.decode(pending)
        taken += extent
        content += found
        pending = pending[extent:]
    assert chunked.ended
    assert taken == len(body)
    assert content == b"".join(chunks)
