"""docs/delivery-states.md shows the states of a delivery, and the changes, that the code has."""

import re
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.store import TRANSITIONS, Settlement, State
from relay.store.sqlite.state import WriterState

TEXT = (Path(__file__).parent.parent / "docs/delivery-states.md").read_text()
ARROW = re.compile(r"^ +(\S+) --> (\S+): \S", re.MULTILINE)


def state(name: str) -> State | None:
    return None if name == "[*]" else State[name]


def test_the_diagram_has_the_transitions_of_the_code():
    drawn = [(state(old), state(new)) for old, new in ARROW.findall(TEXT)]
    assert sorted(map(str, drawn)) == sorted(
        str((old, new)) for old, following in TRANSITIONS.items() for new in following
    )


def test_the_table_has_the_values_of_the_database():
    rows = re.findall(r"^\| (\d) \| (\w+) \|", TEXT, re.MULTILINE)
    assert [(int(value), name) for value, name in rows] == [(each, each.name) for each in State]


def test_a_change_that_is_not_drawn_is_refused():
    """The transaction fails, and is rolled back."""
    writer = WriterState(SystemClock(), quarantine_size=0)
    for old in (None, *State):
        for new in State:
            if new not in TRANSITIONS[old]:
                with pytest.raises(ValueError, match="no delivery goes"):
                    writer.count(1, old, new)
            else:
                writer.count(1, old, new)


@pytest.mark.parametrize("wrong", [State.PENDING, State.IN_FLIGHT, State.BLOCKED, State.DISCARDED])
def test_a_claim_does_not_end_with_another_state(wrong):
    with pytest.raises(ValueError, match=wrong.name):
        Settlement("crm", 1, wrong)


def test_a_claim_that_is_put_back_is_none_that_is_retried():
    assert Settlement.put_back("crm", 1).is_put_back
    assert not Settlement("crm", 1, State.WAITING).is_put_back
    assert not Settlement("crm", 1, State.WAITING, due=7, counted=False).is_put_back
