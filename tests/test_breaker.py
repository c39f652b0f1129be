"""What failures in a row say."""

from relay.delivery.breaker import CircuitBreaker, RejectStreak


def test_failures_of_different_contacts_in_a_row_open_the_breaker():
    breaker = CircuitBreaker(3)
    assert [breaker.failure(contact) for contact in (1, 2, 3)] == [False, False, True]


def test_one_contact_alone_never_opens_it():
    breaker = CircuitBreaker(3)
    assert not any(breaker.failure(1) for _ in range(50))


def test_a_success_starts_the_count_anew():
    breaker = CircuitBreaker(2)
    breaker.failure(1)
    breaker.success()
    assert not breaker.failure(2)


def test_a_streak_gives_back_all_of_it_once_and_then_each():
    streak = RejectStreak(3)
    rejected = [streak.reject(400, contact, seq=contact * 10) for contact in (1, 2, 3, 4)]
    assert rejected == [[], [], [10, 20, 30], [40]]


def test_another_cause_ends_a_streak():
    streak = RejectStreak(2)
    streak.reject(400, 1, 10)
    assert streak.reject(404, 2, 20) == []
    assert streak.reject(404, 3, 30) == [20, 30]


def test_one_contact_alone_makes_no_streak():
    streak = RejectStreak(2)
    assert [streak.reject(400, 1, seq) for seq in (10, 20, 30)] == [[], [], []]
