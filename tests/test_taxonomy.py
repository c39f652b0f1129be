"""Tables of errors."""

import pytest

from relay.error_rules import Action, Rule, find

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
