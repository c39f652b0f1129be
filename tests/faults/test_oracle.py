"""The oracle itself: whatever is wrong somewhere, it says so."""

import pytest
from oracle import Senders, judge

SENDERS = Senders(sent={"one", "two", "three"}, acked={"1": "one", "2": "two"})
STORED = [("1", "one"), ("2", "two"), ("3", "three")]


def verdict(stored=STORED, archive=STORED):
    return judge(SENDERS, stored, {"archive": archive})


def test_all_is_well():
    verdict().sound(once=["archive"])
    assert verdict().found == 3


def test_what_was_not_acknowledged_may_be_there_or_not():
    verdict(STORED[:2], STORED[:2]).sound(once=["archive"])


def test_a_sink_may_have_an_event_again_unless_it_may_not():
    again = verdict(archive=[*STORED, STORED[0]])
    again.sound()
    with pytest.raises(AssertionError, match="1 twice in archive"):
        again.sound(once=["archive"])


@pytest.mark.parametrize(
    ("stored", "archive", "fault"),
    [
        (STORED[1:], STORED[1:], "1 missing in store"),
        (STORED, STORED[1:], "1 missing in archive"),
        ([*STORED, ("4", "four")], STORED, "1 invented in store"),
        (STORED, [*STORED, ("4", "four")], "1 invented in archive"),
        ([("1", "three"), STORED[1]], [("1", "three"), STORED[1]], "1 corrupted in store"),
        (STORED, [("1", "three"), *STORED[1:]], "1 corrupted in archive"),
        ([*STORED, ("4", "three")], STORED, "1 twice in store"),
        ([*STORED, STORED[0]], STORED, "2 twice in store"),  # its id, and its message
    ],
)
def test_what_is_wrong_is_said(stored, archive, fault):
    with pytest.raises(AssertionError, match=fault):
        verdict(stored, archive).sound(once=["archive"])
