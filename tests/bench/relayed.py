"""The relay under measurement: a real `relay run` on the server's core."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from processes import PATIENCE, SERVER, fetch, free_port, running

LOOPBACK = ["127.0.0.0/8"]
UNREACHED = {"rate": "1000000/1s", "bytes": "10GiB/1s"}


@dataclass(frozen=True)
class Relay:
    process: Popen
    port: int
    admin: int

    def sinks(self) -> dict:
        return fetch(f"http://127.0.0.1:{self.admin}/readyz")["sinks"]

    def wait_until_parked(self) -> None:
        end = time.monotonic() + PATIENCE
        while any(sink["state"] != "parked" for sink in self.sinks().values()):
            assert time.monotonic() < end, "the sinks do not park"
            time.sleep(0.05)


def webhook(url: str, **settings) -> dict:
    """A webhook sink; `body` goes to its options."""
    options = {"url": url, "body": settings.pop("body", "structured")}
    return {"plugin": "webhook", "options": options, "allow_private": LOOPBACK} | settings


def batches(url: str, **settings) -> dict:
    """A webhook sink that sends many events in one request."""
    return webhook(url, body="batch", batch={"size": 100, "wait": "50ms"}) | settings


def closed(port: int) -> dict:
    """A sink that nobody answers, parked for long by its first failure."""
    return webhook(f"http://127.0.0.1:{port}/", breaker={"failures": 1, "cooldown": "1h"})


@contextlib.contextmanager
def relay(folder: Path, sinks: Mapping[str, dict], store: Path | None = None) -> Iterator[Relay]:
    """A relay with these sinks, from when it takes callbacks. Its store is a new one."""
    folder.mkdir(parents=True, exist_ok=True)
    port, admin = free_port(), free_port()
    config = {
        "server": {"listen": f"127.0.0.1:{port}"},
        "admin": {"listen": f"127.0.0.1:{admin}"},
        "store": str(store or folder / "relay.db"),
        "sources": {"sumotext": {"limit": UNREACHED}},
        "sinks": dict(sinks),
    }
    file = folder / "relay.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    with (
        (folder / "log").open("w") as log,
        running(
            SERVER, "-m", "relay.cli", "run", "--config", file, port=port, stderr=log
        ) as process,
    ):
        yield Relay(process, port, admin)
