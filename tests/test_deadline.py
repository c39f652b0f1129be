"""When a deadline is missed, and when only we were late."""

import math

import pytest

from relay.server.deadline import TURN, Deadline


class Timers:
    """What a deadline needs of a loop: it rings late by so many seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.set = []
        """The times of all timers, and what is called then."""

    def time(self):
        return self.now

    def call_later(self, seconds, callback, *given):
        timer = Timer(self.now + seconds, lambda: callback(*given))
        self.set.append(timer)
        return timer

    def ring(self, late=0.0):
        """Let the next timer ring; how long that took."""
        start = self.now
        timer = min((each for each in self.set if not each.cancelled), key=lambda each: each.at)
        self.set.remove(timer)
        self.now = max(self.now, timer.at) + late
        timer.callback()
        return self.now - start


class Timer:
    def __init__(self, at, callback) -> None:
        self.at, self.callback, self.cancelled = at, callback, False

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def timers():
    return Timers()


@pytest.fixture
def missed():
    """When deadlines were missed."""
    return []


@pytest.fixture
def deadline(timers, missed):
    return Deadline(timers, lambda: missed.append(timers.now))


def test_a_missed_deadline_is_put_off_for_one_turn_of_the_loop(timers, deadline, missed):
    deadline.set(10)
    timers.ring()
    assert missed == []
    timers.ring()
    assert missed == [1010 + TURN]
    assert timers.set == []


@pytest.mark.parametrize(("late", "put_off"), [(0.0004, TURN), (0.3, 0.3), (7, 7), (3600, 10)])
def test_it_is_put_off_for_as_long_as_we_were_late(timers, deadline, missed, late, put_off):
    """And never for longer than it was set for."""
    deadline.set(10)
    timers.ring(late)
    assert timers.ring() == pytest.approx(put_off)
    assert len(missed) == 1


def test_it_is_put_off_once_however_late_we_are_then(timers, deadline, missed):
    deadline.set(10)
    timers.ring(late=1)
    timers.ring(late=5)
    assert len(missed) == 1


def test_another_deadline_that_is_set_meanwhile_counts(timers, deadline, missed):
    deadline.set(10)
    timers.ring(late=1)
    deadline.set(30)
    timers.ring()
    assert missed == []
    timers.ring()
    timers.ring()
    assert missed == [1011 + 30 + TURN]


def test_another_is_put_off_for_itself(timers, deadline, missed):
    """Two standstills, one after the other."""
    deadline.set(10)
    timers.ring(late=1)
    deadline.set(10)
    timers.ring(late=12)
    assert missed == []
    timers.ring()
    assert len(missed) == 1


def test_a_shorter_one_does_not_wait_for_the_timer_of_a_longer_one(timers, deadline, missed):
    deadline.set(10)
    timers.ring(late=9)
    deadline.set(1)
    assert timers.ring() == 1
    timers.ring()
    assert missed == [1019 + 1 + TURN]


def test_the_timer_is_set_once_for_many_requests(timers, deadline, missed):
    for _ in range(100):
        deadline.set(30)
        deadline.lift()
        timers.now += 0.1
    assert len(timers.set) == 1
    timers.ring()
    assert timers.set == missed == []


def test_no_deadline_is_missed_that_was_lifted(timers, deadline, missed):
    deadline.set(10)
    timers.ring(late=3)
    deadline.lift()
    timers.ring()
    assert timers.set == missed == []


def test_it_tells_which_share_of_the_time_is_up(timers, deadline):
    assert deadline.waited() == -1
    deadline.set(10)
    assert deadline.waited() == 0
    timers.now += 5
    assert deadline.waited() == 0.5
    timers.now = math.inf
    assert deadline.waited() == math.inf
    deadline.lift()
    assert deadline.waited() == -1
