"""Connections: which are evicted, how many the system allows, and when their time is up."""

import math
import subprocess
import sys

import pytest

from relay.config.model import Server
from relay.senders import client_key
from relay.server.access import TrustedProxies
from relay.server.connections import (
    EVICTION_DIVISOR,
    LOOP_TURN,
    ConnectionLimiter,
    Deadline,
    limiter_for,
)


class Connection:
    def __init__(self, limiter: ConnectionLimiter, host: str, share: float = 0.0) -> None:
        self.limiter = limiter
        self.host = host
        self.share = share
        self.evicted = False

    def elapsed_share(self):
        return self.share

    def evict(self):
        self.evicted = True
        self.limiter.remove(self, self.host)


def connected(limiter, *shares, host="203.0.113.1"):
    """Connections of one client, which have used up these shares of their time."""
    found = [Connection(limiter, host, share) for share in shares]
    for each in found:
        limiter.add(each, host)
    return found


def evicted(found):
    return [each.share for each in found if each.evicted]


def test_none_is_evicted_while_there_is_room():
    limiter = ConnectionLimiter(total=3, per_client=3)
    assert evicted(connected(limiter, 0.1, 0.9, math.inf)) == []
    assert len(limiter) == 3


def test_the_one_that_has_used_up_most_of_its_time_is_evicted():
    limiter = ConnectionLimiter(total=4)
    found = connected(limiter, 0.1, 0.9, 0.5, -1.0)
    connected(limiter, 0.0, host="203.0.113.2")
    assert evicted(found) == [0.9]


def test_those_that_were_refused_and_linger_go_first():
    limiter = ConnectionLimiter(total=2)
    found = connected(limiter, 0.9, math.inf)
    connected(limiter, 0.0)
    assert evicted(found) == [math.inf]


def test_a_client_with_too_many_loses_its_own():
    limiter = ConnectionLimiter(total=100, per_client=3)
    (other,) = connected(limiter, 0.99, host="203.0.113.2")
    found = connected(limiter, 0.1, 0.3, 0.2, 0.0)
    assert evicted(found) == [0.3]
    assert not other.evicted


def test_where_all_are_served_the_newcomer_is_evicted():
    limiter = ConnectionLimiter(total=2)
    found = connected(limiter, -1.0, -1.0, 0.0)
    assert evicted(found) == [0.0]


def test_a_trusted_proxy_may_have_more_but_not_more_than_all():
    limiter = ConnectionLimiter(
        total=5, per_client=2, proxies=TrustedProxies(Server(proxies=["10.0.0.0/8"]).proxies)
    )
    found = connected(limiter, 0.1, 0.2, 0.3, 0.4, 0.5, host="10.0.0.1")
    assert evicted(found) == []
    connected(limiter, 0.0, host="10.0.0.1")
    assert evicted(found) == [0.5]


def test_of_many_several_are_evicted_at_once():
    """The slowest of them, so that not each newcomer costs a look at all."""
    limiter = ConnectionLimiter(total=10 * EVICTION_DIVISOR)
    found = connected(limiter, *(number / 1000 for number in range(10 * EVICTION_DIVISOR)))
    connected(limiter, 0.0)
    assert evicted(found) == [
        number / 1000 for number in range(10 * EVICTION_DIVISOR - 10, 10 * EVICTION_DIVISOR)
    ]


def test_one_that_is_removed_makes_room():
    limiter = ConnectionLimiter(total=2, per_client=2)
    found = connected(limiter, 0.1, 0.2)
    limiter.remove(found[0], "203.0.113.1")
    limiter.remove(found[0], "203.0.113.1")
    limiter.remove(Connection(limiter, "198.51.100.1"), "198.51.100.1")
    connected(limiter, 0.0)
    assert (len(limiter), evicted(found)) == (2, [])


# memory


def loaded(limiter, *loads):
    """Connections of one client, each with the share of its time and its bytes."""
    found = connected(limiter, *(share for share, _ in loads))
    for each, (_, size) in zip(found, loads, strict=True):
        limiter.account(each, size)
    return found


def test_none_is_evicted_while_there_is_memory():
    limiter = ConnectionLimiter(max_memory=1000)
    assert evicted(loaded(limiter, (0.9, 500), (0.1, 500))) == []
    assert limiter.memory == 1000


def test_the_largest_and_slowest_is_evicted():
    limiter = ConnectionLimiter(max_memory=1000)
    found = loaded(limiter, (0.9, 10), (0.4, 400), (0.8, 400), (0.1, 500))
    assert evicted(found) == [0.8]
    assert limiter.memory == 910


def test_the_one_that_grows_may_be_the_one_that_is_evicted():
    limiter = ConnectionLimiter(max_memory=1000)
    found = loaded(limiter, (0.2, 100), (0.5, 100))
    limiter.account(found[1], 950)
    assert evicted(found) == [0.5]
    assert limiter.memory == 100


def test_some_more_is_freed_than_is_needed():
    """So that the next byte does not cost a look at all."""
    limiter = ConnectionLimiter(max_memory=100 * EVICTION_DIVISOR)
    found = loaded(limiter, *((0.5, 10) for _ in range(10 * EVICTION_DIVISOR + 1)))
    assert limiter.memory == 100 * EVICTION_DIVISOR - 100
    assert len(evicted(found)) == 11


def test_one_that_pipelines_too_much_counts_as_slow():
    limiter = ConnectionLimiter(max_memory=1000)
    found = loaded(limiter, (-1.0, 300), (0.9, 300), (0.1, 600))
    assert evicted(found) == [-1.0]
    assert limiter.memory == 900


def test_what_is_complete_or_gone_takes_no_memory():
    limiter = ConnectionLimiter(max_memory=1000)
    found = loaded(limiter, (0.5, 400), (0.6, 400))
    limiter.account(found[0], 0)
    assert limiter.memory == 400
    limiter.remove(found[1], "203.0.113.1")
    assert limiter.memory == 0
    assert evicted(loaded(limiter, (0.1, 1000))) == []


# addresses


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.1", "203.0.113.2", False),
        ("203.0.113.1", "::ffff:203.0.113.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "203.0.113.1", False),
        ("", "", True),
    ],
)
def test_with_ipv6_a_network_counts_as_one_address(one, other, same):
    assert (client_key(one) == client_key(other)) is same


def test_there_are_no_more_than_the_system_has_descriptors_for(caplog):
    server = Server(connections={"total": 5000, "each": 10})
    assert limiter_for(server, open_files=20_000).total == 5000
    assert not caplog.messages
    assert limiter_for(server, open_files=1024).total == 768
    assert "768 connections" in caplog.text


# the open-file limit, in processes of their own: a limit given up never comes back


SCRIPT = """
import resource, socket
from relay.server import connections
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
{raising}
opened = []
try:
    while len(opened) < 200:
        opened.append(socket.socket())
except OSError:
    pass
print(connections.open_file_limit(), len(opened))
"""


def opened(*, raising: str, soft: int = 64, hard: int = 512) -> tuple[int, int]:
    """The limit, and how many sockets of 200 could be opened under it."""
    script = SCRIPT.format(soft=soft, hard=hard, raising=raising)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    limit, count = map(int, done.stdout.split())
    return limit, count


def test_the_soft_limit_is_raised_to_the_hard_one():
    assert opened(raising="assert connections.raise_open_file_limit() == 512") == (512, 200)


def test_without_it_few_can_be_opened():
    limit, count = opened(raising="")
    assert limit == 64
    assert count < 64


@pytest.mark.parametrize("error", ["OSError", "ValueError"])
def test_where_it_cannot_be_raised_it_stays(error):
    refuse = (
        f"def refuse(*_): raise {error}\n"
        "resource.setrlimit = refuse\n"
        "assert connections.raise_open_file_limit() == 64"
    )
    assert opened(raising=refuse)[0] == 64


# deadlines


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
    assert missed == [1010 + LOOP_TURN]
    assert timers.set == []


@pytest.mark.parametrize(("late", "put_off"), [(0.0004, LOOP_TURN), (0.3, 0.3), (7, 7), (3600, 10)])
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
    assert missed == [1011 + 30 + LOOP_TURN]


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
    assert missed == [1019 + 1 + LOOP_TURN]


def test_the_timer_is_set_once_for_many_requests(timers, deadline, missed):
    for _ in range(100):
        deadline.set(30)
        deadline.clear()
        timers.now += 0.1
    assert len(timers.set) == 1
    timers.ring()
    assert timers.set == missed == []


def test_no_deadline_is_missed_that_was_lifted(timers, deadline, missed):
    deadline.set(10)
    timers.ring(late=3)
    deadline.clear()
    timers.ring()
    assert timers.set == missed == []


def test_it_tells_which_share_of_the_time_is_up(timers, deadline):
    assert deadline.elapsed_share() == -1
    deadline.set(10)
    assert deadline.elapsed_share() == 0
    timers.now += 5
    assert deadline.elapsed_share() == 0.5
    timers.now = math.inf
    assert deadline.elapsed_share() == math.inf
    deadline.clear()
    assert deadline.elapsed_share() == -1
