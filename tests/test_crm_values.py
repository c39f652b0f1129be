"""What CRM sinks share."""

import asyncio

import pytest

from relay.crm import Action, Bisection, LruKeys, Rule, SingleFlight, distinct_groups, find, halves

BUSY = Rule(Action.RETRY, frozenset({403}), frozenset({"LIMIT"}), "Concurrent", after=10.0)
USED_UP = Rule(Action.PAUSE, frozenset({403}), frozenset({"LIMIT"}), after=900.0, advice="Wait.")
DOWN = Rule(Action.RETRY, frozenset({500, 503}))
LOCKED = Rule(Action.RETRY, code=frozenset({"LOCKED"}))
NO_ANSWER = Rule(Action.RETRY, status=frozenset(), text="never")
REST = Rule(Action.DEAD)
RULES = (BUSY, USED_UP, DOWN, LOCKED, NO_ANSWER, REST)


@pytest.mark.parametrize(
    ("status", "code", "message", "rule"),
    [
        (403, "LIMIT", "concurrent requests exceeded", BUSY),
        (403, "LIMIT", "TotalRequests exceeded", USED_UP),
        (403, "OTHER", "Concurrent", REST),
        (503, "", "", DOWN),
        (200, "LOCKED", "somebody else has it", LOCKED),
        (None, "LOCKED", "", LOCKED),
        (None, "", "never came", REST),
        (418, "", "", REST),
    ],
)
def test_the_first_rule_that_fits_in_status_code_and_text(status, code, message, rule):
    assert find(RULES, status, code, message) is rule


def test_the_last_rule_fits_even_what_it_does_not_name():
    assert find((BUSY, DOWN), 418, "TEAPOT", "") is DOWN


def test_the_key_unused_longest_is_forgotten_first():
    keys = LruKeys(most=2, fold=str.casefold)
    keys.add("a", "1")
    keys.add("b", "2")
    assert keys.get("A") == "1"
    keys.add("c", "3")
    assert [keys.get(each) for each in "abc"] == ["1", None, "3"]
    assert ["A" in keys, "b" in keys] == [True, False]
    keys.discard("C")
    assert "c" not in keys


def test_items_of_one_key_are_never_in_one_group():
    groups = distinct_groups(["a", "b", "A", "a", "c"], str.casefold)
    assert groups == [["a", "b", "c"], ["A"], ["a"]]


@pytest.mark.parametrize("bad", [{3}, {0, 9}, set(range(3, 8)), set()])
def test_bisection_finds_what_is_refused_and_sends_the_rest_in_order(bad):
    parts, accepted, refused = Bisection(list(range(10)), 10), [], []
    while parts:
        part = parts.next()
        if bad.isdisjoint(part):
            accepted += part
        elif len(part) == 1:
            refused += part
        else:
            parts.put(halves(part))
        parts.note(accepted=bad.isdisjoint(part), refused=len(part) == 1)
    assert accepted == [each for each in range(10) if each not in bad]
    assert refused == sorted(bad)
    assert not parts.hopeless


def test_bisection_is_hopeless_after_five_refused_records_and_none_accepted():
    parts, sent = Bisection(list(range(100)), 100), 0
    while not parts.hopeless:
        part, sent = parts.next(), sent + 1
        parts.note(accepted=False, refused=len(part) == 1)
        parts.put(halves(part) if len(part) > 1 else [])
    assert sent <= 20
    assert parts.rest() == list(range(5, 100))


async def test_one_call_serves_all_who_ask_while_it_runs():
    gate, calls, flight = asyncio.Event(), [], SingleFlight()

    async def call():
        calls.append(1)
        await gate.wait()
        return len(calls)

    first, second, third = (asyncio.create_task(flight.run(call)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert [await second, await third] == [1, 1]
    assert first.cancelled() or first.cancelling()
    assert await flight.run(call) == 2


async def test_a_failure_is_raised_to_all_who_wait_and_the_next_call_is_made():
    flight, calls = SingleFlight(), []

    async def call():
        calls.append(1)
        await asyncio.sleep(0)
        raise ValueError("nobody signs in")

    found = await asyncio.gather(flight.run(call), flight.run(call), return_exceptions=True)
    assert [type(each) for each in found] == [ValueError] * 2
    assert len(calls) == 1
    with pytest.raises(ValueError, match="nobody signs in"):
        await flight.run(call)
