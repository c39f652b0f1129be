"""Ends what a killed test run has left running: all with the mark of the run in its environment.

`watch()` marks this process's environment, which whatever it starts inherits, and starts a process
that waits for this one to end.
"""

import os
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path

MARK = "RELAY_TEST_RUN"


def watch():
    """Have all that is started from here on end with this process, however that ends."""
    os.environ[MARK] = secrets.token_hex(8)
    there, _ = os.pipe()  # its other end closes when this process ends
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", __file__],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, there, 0)],
        setsid=True,
    )
    os.close(there)


def main():
    sys.stdin.read()
    mark = f"{MARK}={os.environ[MARK]}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            marked = mark in (process / "environ").read_bytes().split(b"\0")
            if marked and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


if __name__ == "__main__":
    main()
