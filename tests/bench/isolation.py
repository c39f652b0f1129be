"""Whether the ingress and a good sink notice that another sink is in trouble.

In each round every behaviour of the other sink has its turn under the same load, a healthy one
twice: the difference between these two is that of nothing (A/A).
"""

import random
from pathlib import Path

from processes import load, receiver, stats
from relayed import relay, webhook
from report import Report, Row

TROUBLES = {
    "hang": "hangs",
    "503": "answers 503",
    "429": "answers 429 with Retry-After",
    "400": "answers 400",
}
CONTROL = "healthy too"
RATE = 200
CONNECTIONS = 32
SETTLE = 1.0


def measure(report: Report, folder: Path, runs: int, seconds: float) -> None:
    rounds = []
    for run in range(runs):
        report.progress(f"isolation, run {run + 1} of {runs}")
        turns = ["200", CONTROL, *TROUBLES]
        random.shuffle(turns)
        rounds.append({turn: _turn(folder / f"{run}{turn}", turn, seconds) for turn in turns})
    for place, what in enumerate(("ingress, p99 to acknowledge", "good sink, p99 to deliver")):
        base = report.add(Row(f"{what}; other sink healthy", "ms"))
        base.taken = [each["200"][place] * 1000 for each in rounds]
        control = report.add(Row("  the other healthy (A/A)", "ms", base))
        control.taken = [each[CONTROL][place] * 1000 for each in rounds]
        for turn, words in TROUBLES.items():
            row = report.add(Row(f"  the other {words}", "ms", base, most=1.1, control=control))
            row.taken = [each[turn][place] * 1000 for each in rounds]


def _turn(folder: Path, turn: str, seconds: float) -> tuple[float, float]:
    """The two p99."""
    behaviour = "200" if turn == CONTROL else turn
    with receiver() as port:
        sinks = {
            "good": webhook(f"http://127.0.0.1:{port}/200/good"),
            "other": webhook(f"http://127.0.0.1:{port}/{behaviour}/other"),
        }
        with relay(folder, sinks) as running:
            warm = load(running.port, seconds=SETTLE, rate=RATE, connections=CONNECTIONS)
            stats(port, "good", warm["answered"])
            taken = load(running.port, seconds=seconds, rate=RATE, connections=CONNECTIONS)
            return taken["p99"], stats(port, "good", taken["answered"])["p99"]
