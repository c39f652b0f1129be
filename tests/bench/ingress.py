"""How many callbacks a second are acknowledged, beside a route that only answers JSON."""

from pathlib import Path

from processes import bare, load, receiver, stats, take_turns
from relayed import batches, closed, relay
from report import Report, Row

CLOSED_PORT = 1
TURN = 0.5
SINKS = [f"sink{number}" for number in range(4)]


def measure(report: Report, folder: Path, runs: int, turns: int, count: int) -> None:
    """`count` callbacks go the whole way."""
    base = report.add(Row("bare Starlette route", "answers/s"))
    busy = report.add(Row("load generator at that, share of its core", "", most=0.9))
    parked = report.add(Row("ingress, four sinks parked", "callbacks/s", base, least=0.6))
    mixed = report.add(Row("the same, all four kinds of callbacks", "callbacks/s", base))
    delivering = report.add(Row("ingress, four sinks delivering", "callbacks/s", base))
    whole = report.add(Row("callback to all four sinks, sustained", "callbacks/s", base))
    for run in range(runs):
        report.progress(f"ingress, run {run + 1} of {runs}")
        measured = _parked(folder / f"p{run}", turns)
        busy.taken.append(measured[0]["busy"])
        for row, figures in zip((base, parked, mixed), measured, strict=True):
            row.taken.append(figures["rate"])
        for row, figure in zip(
            (delivering, whole), _delivering(folder / f"d{run}", count), strict=True
        ):
            row.taken.append(figure)


def _parked(folder: Path, turns: int) -> list[dict]:
    """Of the bare route, of web forms, and of all kinds, by turns."""
    with bare() as port, relay(folder, dict.fromkeys(SINKS, closed(CLOSED_PORT))) as running:
        load(running.port, count=1, connections=1)
        running.wait_until_parked()
        return take_turns(
            [
                {"port": port, "seconds": TURN},
                {"port": running.port, "seconds": TURN},
                {"port": running.port, "seconds": TURN, "mixed": True},
            ],
            turns,
        )


def _delivering(folder: Path, count: int) -> tuple[float, float]:
    """Callbacks a second while they are taken, and over the time until all are delivered."""
    with receiver() as port:
        sinks = {name: batches(f"http://127.0.0.1:{port}/200/{name}") for name in SINKS}
        with relay(folder, sinks) as running:
            taken = load(running.port, count=count)
            delivered = [stats(port, name, expected=count) for name in SINKS]
            took = max(each["last"] for each in delivered) - taken["first"]
            return taken["rate"], count / took
