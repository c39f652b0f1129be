"""Processes, each pinned to a core: the server's own, and the other for all that loads it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CORES = sorted(os.sched_getaffinity(0))
SERVER, OTHER = CORES[0], CORES[-1]
PATIENCE = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start(core: int, *arguments, **options) -> subprocess.Popen:
    """Start Python with these arguments on the core."""
    return subprocess.Popen(
        ["taskset", "--cpu-list", str(core), sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        text=True,
        **options,
    )


@contextlib.contextmanager
def running(core: int, *arguments, port: int, **options) -> Iterator[subprocess.Popen]:
    """A server, from when it answers on the port."""
    process = start(core, *arguments, **options)
    try:
        _wait_for(process, port)
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_for(process: subprocess.Popen, port: int) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{process.args} does not listen")


@contextlib.contextmanager
def receiver() -> Iterator[int]:
    """The receiver; yields its port."""
    port = free_port()
    with running(OTHER, HERE / "receiver.py", port, port=port):
        yield port


@contextlib.contextmanager
def bare() -> Iterator[int]:
    """The bare route; yields its port."""
    port = free_port()
    with running(SERVER, HERE / "bare.py", port, port=port):
        yield port


def load(port: int, **plan) -> dict:
    """Load the server with callbacks; what was measured."""
    return take_turns([{"port": port} | plan], 1)[0]


def take_turns(plans: list[dict], turns: int) -> list[dict]:
    """Load several servers by turns; what was measured of each plan."""
    process = start(OTHER, HERE / "load.py", json.dumps(plans), turns, stdout=subprocess.PIPE)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("the load failed")
    measured = json.loads(output)
    assert not any(each["failed"] for each in measured), "callbacks were refused"
    return measured


def stats(port: int, name: str, expected: int) -> dict:
    """What the receiver counted for the name, once it has that many events; it counts anew."""
    end = time.monotonic() + PATIENCE
    while (so_far := fetch(f"http://127.0.0.1:{port}/count/{name}")["events"]) < expected:
        if time.monotonic() > end:
            raise TimeoutError(f"{name} has got {so_far} of {expected} events")
        time.sleep(0.05)
    return fetch(f"http://127.0.0.1:{port}/stats/{name}")


def fetch(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return json.load(answer)


def memory(process: subprocess.Popen) -> float:
    """The process's resident memory in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000
