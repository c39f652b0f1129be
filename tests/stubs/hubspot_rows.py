"""The rows of a HubSpot batch: which of them a test wants to fail, and what became of each."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stubs.hubspot_account import Account
from stubs.hubspot_errors import ROWS, Refusal

SILENT = ("SILENT", "SILENT_AFTER_COMMIT", "NAMELESS")
Write = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class RowFault:
    """A row that is to fail: the next one, or the one with this id, trace id or value."""

    code: str
    id: str | None
    name: str | None
    left: int

    def hits(self, each: dict[str, Any]) -> bool:
        known = (each.get("id"), each.get("objectWriteTraceId"), *each["properties"].values())
        return self.id is None or self.id in known


@dataclass
class Rows:
    """What became of them; an error knows the trace id of its row, if it has one."""

    results: list[dict[str, Any]] = field(default_factory=list)
    errors: list[tuple[Refusal, str | None]] = field(default_factory=list)


class Planned:
    """Faults of rows, in the order in which they were asked for."""

    def __init__(self, account: Account, fired: Counter[str]) -> None:
        self._account = account
        self._fired = fired
        self._faults: list[RowFault] = []

    def add(self, fault: RowFault) -> None:
        names = sorted({*ROWS, *SILENT})
        if fault.code not in names:
            raise ValueError(f"{fault.code} is no row of this stub: {', '.join(names)}")
        self._faults.append(fault)

    def run(self, each: dict[str, Any], write: Write, rows: Rows) -> None:
        """Write this row, or let it fail as planned. Raises Refusal."""
        fault = self._next(each)
        code = fault.code if fault else None
        if code in ROWS:
            raise ROWS[code](fault.name or _any_property(each))
        if code == "NAMELESS":
            rows.errors.append((ROWS["INTERNAL_ERROR"](""), None))
        elif code == "SILENT_AFTER_COMMIT":
            write(each)
        elif code is None:
            rows.results.append(write(each) | self._trace(each))

    def told(self, rows: Rows) -> list[dict[str, Any]]:
        """The `errors` of a 207."""
        if not self._account.merge_errors:
            return [refusal.row([trace] if trace else []) for refusal, trace in rows.errors]
        merged: dict[str, tuple[Refusal, list[str]]] = {}
        for refusal, trace in rows.errors:
            traces = merged.setdefault(refusal.message, (refusal, []))[1]
            traces.extend([trace] if trace else [])
        return [refusal.row(traces) for refusal, traces in merged.values()]

    def _next(self, each: dict[str, Any]) -> RowFault | None:
        for fault in self._faults:
            if fault.hits(each):
                fault.left -= 1
                if not fault.left:
                    self._faults.remove(fault)
                return self._counted(fault)
        code = self._account.row_chance(each)
        return self._counted(RowFault(code, None, None, 1)) if code else None

    def _counted(self, fault: RowFault) -> RowFault:
        self._fired[fault.code] += 1
        return fault

    def _trace(self, each: dict[str, Any]) -> dict[str, str]:
        trace = each.get("objectWriteTraceId")
        return {"objectWriteTraceId": trace} if trace and self._account.echo_traces else {}


def _any_property(each: dict[str, Any]) -> str:
    """The first that is not the key."""
    names = [name for name in each["properties"] if name != each.get("idProperty")]
    return next(iter(names), "firstname")
