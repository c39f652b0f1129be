"""What is kept of a wrong token, and whether it is valid later."""

import pytest

from relay.server.tokens import DIGEST, KEY, Tokens, any_offered, kept_of

RIGHT = Tokens(["right", "other-ä"])


@pytest.mark.parametrize(
    ("offered", "valid"),
    [
        ([b"right"], True),
        (["other-ä".encode()], True),
        ([b"wrong", b"right"], True),
        ([b"first", b"second", b"third", b"right"], True),
        ([b"wrong"], False),
        ([b"righ"], False),
        ([b""], False),
        ([b"\xff" * 16_000], False),
        ([], False),
    ],
)
def test_a_kept_token_is_known_again(offered, valid):
    kept = kept_of(offered)
    assert RIGHT.admitted(kept) is valid
    assert any_offered(kept) is bool(offered)
    assert len(kept) == KEY + DIGEST * len(offered)
    assert not any(len(token) > 3 and token in kept for token in offered)


def test_no_tokens_admit_nothing():
    assert not Tokens([]).admitted(kept_of([b"right"]))


def test_equal_tokens_are_not_equal_when_kept():
    assert kept_of([b"right"])[KEY:] != kept_of([b"right"])[KEY:]


@pytest.mark.parametrize("kept", [b"", b"\xff", bytes(KEY), bytes(KEY + 1), bytes(KEY + DIGEST)])
def test_what_is_no_digest_is_no_valid_token(kept):
    assert not RIGHT.admitted(kept)


def test_a_part_of_a_digest_is_no_digest():
    kept = kept_of([b"right"])
    for end in range(len(kept)):
        assert not RIGHT.admitted(kept[:end])
