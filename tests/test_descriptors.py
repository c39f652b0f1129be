"""The limit of open files, in processes of their own: a limit given up never comes back."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, socket
from relay.server import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
{raising}
opened = []
try:
    while len(opened) < 200:
        opened.append(socket.socket())
except OSError:
    pass
print(descriptors.limit(), len(opened))
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
    assert opened(raising="assert descriptors.raise_limit() == 512") == (512, 200)


def test_without_it_few_can_be_opened():
    limit, count = opened(raising="")
    assert limit == 64
    assert count < 64


@pytest.mark.parametrize("error", ["OSError", "ValueError"])
def test_where_it_cannot_be_raised_it_stays(error):
    refuse = (
        f"def refuse(*_): raise {error}\n"
        "resource.setrlimit = refuse\n"
        "assert descriptors.raise_limit() == 64"
    )
    assert opened(raising=refuse)[0] == 64
