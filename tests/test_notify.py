"""What the service manager is told, by a real socket such as it has."""

import socket

import pytest

from relay.systemd import SystemdNotifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A manager's socket, and its name in the environment."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name if request.param == "path" else f"\0{name}")
        receiver.settimeout(5)
        yield receiver, {"NOTIFY_SOCKET": name if request.param == "path" else f"@{name}"}


def test_each_message_is_one_datagram(manager):
    receiver, environ = manager
    notifier = SystemdNotifier.of(environ)
    notifier.extend_timeout("the store is being opened", 0.5)
    notifier.ready("callbacks are taken\nand more")
    notifier.feed_watchdog()
    notifier.reloading()
    notifier.stopping()
    not_yet, ready, alive, reloading, stopping = (receiver.recv(4096).decode() for _ in range(5))
    assert not_yet == "EXTEND_TIMEOUT_USEC=500000\nSTATUS=the store is being opened"
    assert ready == "READY=1\nSTATUS=callbacks are taken"
    assert alive == "WATCHDOG=1"
    first, moment, _ = reloading.split("\n")
    assert first == "RELOADING=1"
    assert moment.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert stopping.startswith("STOPPING=1\n")


def test_without_a_manager_nothing_is_said():
    SystemdNotifier.of({}).ready("callbacks are taken")


def test_a_manager_that_has_gone_does_no_harm(tmp_path):
    SystemdNotifier.of({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("callbacks are taken")


def test_a_manager_that_does_not_listen_holds_up_nothing(manager):
    _, environ = manager
    notifier = SystemdNotifier.of(environ)
    for _ in range(10_000):
        notifier.feed_watchdog()
