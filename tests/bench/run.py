"""The benchmarks: `python tests/bench/run.py [--quick] [PART…]`, on a quiet machine.

The server has one core and all that loads it the other. A run measures everything once, the
baselines among the rest; ratios are within a run, and the table gives medians over the runs.
Ends with 1 where a goal is missed, or the machine too busy to tell.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import delivery
import ingress
import isolation
from processes import OTHER, SERVER
from report import Report

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
PARTS = ("ingress", "claims", "webhook", "isolation")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", default=[])
    parser.add_argument("--quick", action="store_true", help="one run of each, and a small backlog")
    parser.add_argument("--folder", type=Path, help="where the stores are (a disk, not memory)")
    arguments = parser.parse_args()
    if SERVER == OTHER:
        print("There is but one core: the load takes its share of it.", file=sys.stderr)
    report = Report()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="relay-bench-") as folder:
        for part in arguments.parts or PARTS:
            measure(report, part, Path(folder) / part, arguments.quick)
    print(report)
    return int(report.missed())


def measure(report: Report, part: str, folder: Path, quick: bool) -> None:
    runs = 1 if quick else 5
    match part:
        case "ingress":
            ingress.measure(
                report, folder, runs, turns=4 if quick else 12, count=4_000 if quick else 10_000
            )
        case "claims":
            delivery.measure_claims(
                report, folder, runs, backlog=100_000 if quick else 1_000_000, count=10_000
            )
        case "webhook":
            delivery.measure_webhook(
                report,
                folder,
                runs,
                singly=4_000 if quick else 8_000,
                batched=20_000 if quick else 40_000,
            )
        case "isolation":
            # In memory where there is one: at 200 callbacks a second the p99 is otherwise the
            # disk's, which on a shared machine differs tenfold from one second to the next.
            with tempfile.TemporaryDirectory(dir=MEMORY, prefix="relay-bench-") as memory:
                isolation.measure(report, Path(memory), runs, seconds=2 if quick else 5)


if __name__ == "__main__":
    sys.exit(main())
