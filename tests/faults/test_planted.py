"""Root's commands while the service's user swaps files for links, and each name alone planted."""

import contextlib
import os
import random
import signal
import time

import pytest
import rooted
from rooted import KINDS, NAMES, USER

from relay import ownership

pytestmark = rooted.needed

NUMBER = "+12125550000\n"
COMMANDS = (
    ("restore", "{roots}/backup.db", "--yes"),
    ("backup", "{state}/copy.db"),
    ("backup", "{roots}/copy.db"),
    ("erase", "--yes"),
    ("purge", "--older-than", "1d", "--yes"),
    ("status",),
    ("doctor", "--offline"),
)
SHORT, LONG = 3, 60
"""Rounds of all commands."""
LONGEST = 600
"""Seconds after which the swapping ends, whatever becomes of the test."""


@contextlib.contextmanager
def swapping(here, names, seed):
    """A process of the service's user that makes links, pipes and files of these names in turn."""
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LONGEST)
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            swap(here, names, random.Random(seed))
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def swap(here, names, chance):
    beside = here.state / "swapped"
    while True:
        path = here.state / chance.choice(names)
        with contextlib.suppress(OSError):
            beside.symlink_to(chance.choice((here.secret, here.roots / "made")))
            beside.replace(path)
        time.sleep(chance.random() / 500)
        with contextlib.suppress(OSError):
            if chance.random() < 0.8:
                path.unlink()
            else:
                path.write_bytes(b"")
        time.sleep(chance.random() / 500)


def run(here, words, **more):
    """Its status."""
    given = [each.format(roots=here.roots, state=here.state) for each in words]
    return here.root(*given, stdin=NUMBER, **more)[0]


def run_all(here, **more):
    """The statuses; a command may fail, as what it needs is taken from it."""
    found = []
    for words in COMMANDS:
        for left in (here.roots / "copy.db", here.state / "copy.db"):
            left.unlink(missing_ok=True)
        found.append(run(here, words, **more))
        if (copy := here.roots / "copy.db").exists():
            copy.unlink()
    return found


def races(rounds):
    """What is swapped: now all but the store's own names, now one; and how commands ended."""
    ended = []
    for number in range(rounds):
        names = [each for each in NAMES if each != "copy.db"]
        names = names if number % 2 else random.Random(number).sample(names, 2)
        with rooted.place() as here:
            with swapping(here, names, number):
                ended += run_all(here)
            here.untouched()
    print(f"\nof {len(ended)} commands, {ended.count(0)} did their work meanwhile")
    assert 0 in ended


def test_no_race_gives_the_service_a_file_of_roots():
    races(SHORT)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_no_race_gives_the_service_a_file_of_roots_in_many_rounds():
    races(LONG)


def rights_kept():
    ownership.give_up_root = lambda _: None
    ownership.acting_for = lambda _: contextlib.nullcontext()
    ownership.is_root = lambda: False


def test_with_roots_rights_a_race_does():
    """The control."""
    harmed = False
    for number in range(30):
        with rooted.place() as here:
            with swapping(here, ["relay.db.lock", "relay.db.spill"], number):
                run_all(here, before=rights_kept)
            try:
                here.untouched()
            except AssertionError:
                harmed = True
                break
    assert harmed, "the fault did not fire"


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_each_name_planted_alone_costs_root_nothing(kind):
    for name in NAMES:
        with rooted.place() as here:
            here.plant(name, kind)
            for words in COMMANDS:
                run(here, words)
                if (copy := here.roots / "copy.db").exists():
                    here.changed(copy)
                here.untouched()
                here.restore_store()
