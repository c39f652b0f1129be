"""A store that breaks again and again is let alone for longer and longer."""

from relay.store_backoff import LAST, STEADY, Breakage, breakage


def test_the_pause_grows_while_it_breaks_soon_and_begins_anew_after_it_held():
    pauses, last = [], None
    for lasted in (0.0, 1.0, 1.0, 1.0, 1.0, 1.0, STEADY, 1.0):
        last = breakage("EIO", lasted, last)
        pauses.append(last.pause)
    assert pauses == [5, 10, 20, 40, 60, 60, 5, 10]
    assert max(pauses) == LAST
    assert last == Breakage("EIO", 10)
