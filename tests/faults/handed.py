"""A relay on a listening socket that it is handed, as by systemd: the descriptor comes first."""

import functools
import socket
import sys

from relay import service
from relay.cli import main


def start():
    public = socket.socket(fileno=int(sys.argv[1]))
    service.started = functools.partial(service.started, public=public)
    main(["run", *sys.argv[2:]])


if __name__ == "__main__":
    start()
