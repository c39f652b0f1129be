"""The table: medians over the runs, and ratios within one run."""

import sys
from dataclasses import dataclass, field
from statistics import median

NOISE = 0.1
HEADS = ["", "median", "", "ratio", "its range", "goal"]


@dataclass
class Row:
    """One figure. `base` is what it is a ratio to; a goal is about the ratio where there is one.

    `control` is a ratio of like to like: unless that is close to one, nothing can be told.
    """

    name: str
    unit: str
    base: "Row | None" = None
    least: float | None = None
    most: float | None = None
    control: "Row | None" = None
    taken: list[float] = field(default_factory=list)
    """A figure for each run."""

    def ratios(self) -> list[float]:
        assert self.base is not None
        return [mine / other for mine, other in zip(self.taken, self.base.taken, strict=True)]

    def value(self) -> float:
        return median(self.ratios() if self.base else self.taken)

    def unclear(self) -> bool:
        return self.control is not None and abs(self.control.value() - 1) > NOISE

    def missed(self) -> bool:
        too_low = self.least is not None and self.value() < self.least
        return too_low or (self.most is not None and self.value() > self.most)

    def cells(self) -> list[str]:
        ratio = spread = ""
        if self.base is not None:
            ratios = self.ratios()
            ratio, spread = f"{median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"
        return [self.name, f"{_figure(median(self.taken))}", self.unit, ratio, spread, self._goal()]

    def _goal(self) -> str:
        if self.least is None and self.most is None:
            return ""
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        if self.unclear():
            return f"{bound}, UNCLEAR: A/A differs as much"
        return f"{bound}, {'MISSED' if self.missed() else 'met'}"


class Report:
    """Collects rows; a table at the end, and a line for each step until then."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, row: Row) -> Row:
        self.rows.append(row)
        return row

    def progress(self, step: str) -> None:
        print(f"… {step}", file=sys.stderr, flush=True)

    def missed(self) -> bool:
        return any(row.missed() or row.unclear() for row in self.rows)

    def __str__(self) -> str:
        lines = [HEADS, *(row.cells() for row in self.rows if row.taken)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
        return "\n".join(_line(line, widths) for line in lines)


def _line(cells: list[str], widths: list[int]) -> str:
    """Texts to the left, figures to the right."""
    name, figure, unit, ratio, spread, goal = widths
    places = (f"<{name}", f">{figure}", f"<{unit}", f">{ratio}", f">{spread}", f"<{goal}")
    return "  ".join(
        format(cell, place) for cell, place in zip(cells, places, strict=True)
    ).rstrip()


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
