"""`relay run` as a process of its own, for tests of what only a process has.

with running(folder / "relay.yaml") as (process, url):
    ... url is the address for callbacks; the log is in folder / "relay.log"
"""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = str(Path(__file__).parent.parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}
TAKEN = b"callbacks are taken on "


@contextlib.contextmanager
def running(config, environment=ENVIRONMENT, under=()):
    """The process, killed at the end, and its address. `under` runs it, as `nohup` would."""
    log = config.with_name("relay.log")
    line = [*under, sys.executable, "-m", "relay.cli", "run", "-c", config]
    with log.open("wb") as stderr:
        process = subprocess.Popen(line, stderr=stderr, env=environment)
    try:
        end = time.monotonic() + 40
        while TAKEN not in (text := log.read_bytes()):
            assert time.monotonic() < end, text
            assert process.poll() is None, text
            time.sleep(0.05)
        yield process, text.partition(TAKEN)[2].split(b'"')[0].decode()
    finally:
        process.kill()
        process.wait()
