"""The test run itself: in the background, and killed."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS)}
RUN = """
import subprocess, sys
import leftovers
if sys.argv[1] == "watched":
    leftovers.watch()
print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("watched", ["watched", "not watched"])
def test_what_a_killed_run_has_started_ends_with_it(watched):
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, watched],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    with run:
        left = int(run.stdout.readline())
        end = os.pidfd_open(left)
        run.kill()
    seconds = 20 if watched == "watched" else 1
    ended, _, _ = select.select([end], [], [], seconds)
    os.close(end)
    if watched == "watched":
        assert ended
    else:  # control
        assert not ended
        os.kill(left, signal.SIGKILL)


def test_each_test_of_the_run_times_out_before_the_whole_run_ends(request):
    end = float(request.config.getini("faulthandler_timeout")) or float("inf")
    for item in request.session.items:
        if marker := item.get_closest_marker("timeout"):
            assert marker.args[0] < end, item.nodeid


def test_in_the_background_tests_get_the_signals_that_they_send():
    """A shell has programs in the background ignore them, and nohup has SIGHUP ignored."""
    code = (
        "import signal\n"
        "numbers = signal.SIGHUP, signal.SIGINT, signal.SIGQUIT\n"
        "print([signal.getsignal(each) is signal.SIG_IGN for each in numbers])\n"
        "import conftest\n"
        "print([signal.getsignal(each) is signal.SIG_IGN for each in numbers])\n"
    )
    line = ["/bin/sh", "-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh", sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.split("\n")[:2] == ["[True, True, True]", "[False, False, False]"]
