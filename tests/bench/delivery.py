"""Deliveries a second: claiming and settling alone, and through the webhook sink."""

import shutil
import subprocess
from pathlib import Path

from processes import HERE, OTHER, SERVER, load, memory, receiver, start, stats
from relayed import batches, relay, webhook
from report import Report, Row

SINK = "crm"
IN_FLIGHT = 16
SMALL = 1_000


def measure_claims(report: Report, folder: Path, runs: int, backlog: int, count: int) -> None:
    """`count` deliveries are claimed and settled in each run."""
    base = report.add(Row(f"claim and settle, backlog of {SMALL:,}", "deliveries/s"))
    large = report.add(Row(f"the same, backlog of {backlog:,}", "deliveries/s", base, least=0.9))
    report.progress(f"a backlog of {backlog:,} deliveries is made")
    folder.mkdir()
    path = folder / "large.db"
    with _Turns(folder / "small.db", SMALL) as small, _Turns(path, backlog) as turns:
        for run in range(runs):
            report.progress(f"claim and settle, run {run + 1} of {runs}")
            for row, process in ((base, small), (large, turns)):
                row.taken.append(count / process.turn(count))
    _measure_memory(report, folder, path)


def _measure_memory(report: Report, folder: Path, store: Path) -> None:
    idle = report.add(Row("resident memory with that backlog, at the start", "MB", most=150))
    busy = report.add(Row("the same, after 5 s of load and deliveries", "MB", most=150))
    with receiver() as port:
        sinks = {SINK: webhook(f"http://127.0.0.1:{port}/200/{SINK}")}
        with relay(folder, sinks, store) as running:
            idle.taken.append(memory(running.process))
            load(running.port, seconds=5)
            busy.taken.append(memory(running.process))


class _Turns:
    """A store in a process of its own that claims and settles when told."""

    def __init__(self, path: Path, backlog: int) -> None:
        self._process = start(
            SERVER,
            HERE / "backlog.py",
            "turn",
            path,
            backlog,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self):
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_) -> None:
        self._process.communicate("\n")

    def turn(self, count: int) -> float:
        """The seconds that it took."""
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def measure_webhook(report: Report, folder: Path, runs: int, singly: int, batched: int) -> None:
    """So many deliveries go singly and in batches in each run."""
    base = report.add(Row(f"stock httpx, {IN_FLIGHT} in flight", "requests/s"))
    single = report.add(Row(f"webhook, {IN_FLIGHT} in flight", "deliveries/s", base, least=3.5))
    batch = report.add(Row("webhook, batches of 100", "deliveries/s", base, least=20))
    folder.mkdir()
    stores = {count: _filled(folder, count) for count in (singly, batched)}
    with receiver() as port:
        url = f"http://127.0.0.1:{port}/200/{SINK}"
        for run in range(runs):
            report.progress(f"webhook, run {run + 1} of {runs}")
            base.taken.append(_stock(port, url, singly // 4))
            for row, sink, count in (
                (single, webhook(url, concurrency=IN_FLIGHT), singly),
                (batch, batches(url, concurrency=IN_FLIGHT), batched),
            ):
                row.taken.append(_drained(folder, stores[count], sink, port, count))


def _filled(folder: Path, count: int) -> Path:
    path = folder / f"{count}.db"
    process = start(OTHER, HERE / "backlog.py", "fill", path, count, SINK)
    assert process.wait() == 0
    return path


def _stock(port: int, url: str, count: int) -> float:
    process = start(SERVER, HERE / "stock.py", url, count)
    assert process.wait() == 0
    return stats(port, SINK, count)["rate"]


def _drained(folder: Path, filled: Path, sink: dict, port: int, count: int) -> float:
    store = folder / "relay.db"
    shutil.copy(filled, store)
    with relay(folder, {SINK: sink}, store):
        return stats(port, SINK, count)["rate"]
