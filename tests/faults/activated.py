"""Starts a program as systemd does a service with a socket unit: descriptors from 3, told of in
the environment.

    python activated.py 9=relay.socket,11=admin relay run
"""

import fcntl
import os
import sys

FIRST = 3


def main(sockets, *command):
    passed = [each.partition("=") for each in sockets.split(",")]
    # Out of the way first: one may stand where another has to go.
    above = FIRST + len(passed)
    moved = [fcntl.fcntl(int(each), fcntl.F_DUPFD, above) for each, _, _ in passed]
    for place, descriptor in enumerate(moved, start=FIRST):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(passed))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for _, _, name in passed)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
