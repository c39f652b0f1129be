"""The mender: makes a refused record acceptable, as far as the options allow; each way once."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import relay
from relay import Log, Outcome
from relay.crm import Action

from .errors import ALREADY_SET, EXISTING_ID, EXISTS, GONE, MISSING, TOO_LONG, UNKNOWN, UNSET
from .options import OnConflict, OnInvalid
from .problem import Fault, Problem
from .record import Record

LONGEST_TEXT = 65_536
"""Characters of a text property (HubSpot's Properties guide)."""
LIMIT = re.compile(r"(?:max|up to|than)\D{0,50}?(\d[\d,]{0,15})", re.IGNORECASE)
REMEMBERED = 200
ASK_AGAIN = 3600.0
EMAIL = "email"
"""The one property of HubSpot's own that no two contacts may share."""


@dataclass(slots=True)
class Mender:
    """The ways for one kind of record.

    `on_conflict` says what becomes of a record whose unique value (an e-mail address) another one
    has. `mapped` are the properties that `map` fills: where one of them is missing its value was
    blank or invalid, and no setting is wrong. `fixed` are never left out. `unknown` are the
    properties that HubSpot did not have, and when it said so.
    """

    id_property: str | None
    log: Log
    on_invalid: OnInvalid = "drop"
    drop_unknown: bool = False
    defaults: dict[str, str] = field(default_factory=dict)
    on_conflict: OnConflict = "separate"
    mapped: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    unknown: dict[str, float] = field(default_factory=dict)
    monotonic: Callable[[], float] = time.monotonic

    def prepare(self, record: Record) -> None:
        """Leave out what HubSpot has said that it does not have."""
        for name in self.unknown.keys() & record.properties.keys():
            if self.monotonic() - self.unknown[name] < ASK_AGAIN:
                del record.properties[name]

    def mend(self, record: Record, problem: Problem) -> Outcome | None:
        """None: it is to be sent once more. Else the record's end."""
        end = problem.outcome(record.properties.values())
        if isinstance(end, relay.Delivered):  # something is there already, but not what we sent
            return relay.Retry(problem.reason(record.properties.values()), status=problem.status)
        if problem.rule.action is not Action.FIX:
            return end
        if self._is_misconfigured(problem):
            return relay.Pause(problem.reason(record.properties.values()), status=problem.status)
        if record.target and any(self.id_property in each.properties for each in problem.faults):
            return self._without_target(record, problem)
        if self._all_mended(record, problem):
            return None
        if isinstance(end, relay.Reject) and self._lacks_only_values(problem):
            end.status = None  # nothing that a pause could mend
        return end

    def _lacks_only_values(self, problem: Problem) -> bool:
        """Whether all that is missing is what `map` fills."""
        faults = problem.faults or (_whole(problem),)
        missing = [fault for fault in faults if _way(fault, problem) == "missing"]
        names = {name for fault in missing for name in fault.properties}
        return bool(names) and names <= self.mapped

    def _is_misconfigured(self, problem: Problem) -> bool:
        """A property that is not there: no record is at fault, and all would meet the same."""
        unknown = [
            name for each in problem.faults if each.code in UNKNOWN for name in each.properties
        ]
        return bool(unknown) and (not self.drop_unknown or self.id_property in unknown)

    def _all_mended(self, record: Record, problem: Problem) -> bool:
        ways = [(_way(fault, problem), fault) for fault in problem.faults or (_whole(problem),)]
        tries = {each for way, fault in ways for each in _tries(way, fault)}
        if tries & record.mended or len(record.mended) > REMEMBERED:
            return False
        record.mended |= tries
        return all(self._apply(way, record, fault, problem) for way, fault in ways)

    def without_taken(self, record: Record, problem: Problem) -> Outcome | None:
        """Another record keeps the value that ours was to have: go without it, or end."""
        names = [name for fault in problem.faults for name in fault.properties] or [EMAIL]
        names = [EMAIL if name == self.id_property else name for name in names]
        if self._separate(record, names, problem):
            return None
        return problem.outcome(record.properties.values())

    def _without_target(self, record: Record, problem: Problem) -> Outcome | None:
        """Our key is another record's, so that one is written and not the one found."""
        record.target = None
        record.restore()
        if record.is_bound:
            return problem.outcome()
        return self.without_taken(record, problem) if _was_taken(record) else None

    def _apply(self, way: str, record: Record, fault: Fault, problem: Problem) -> bool:
        match way:
            case "unknown":
                return self._forget(record, fault.properties)
            case "missing":
                return self._fill(record, fault.properties)
            case "taken":
                return self._take(record, fault, problem)
            case "gone":
                record.target = None
                record.restore()
                return not record.is_bound
            case _:
                return self._correct(record, fault)

    def _forget(self, record: Record, names: Iterable[str]) -> bool:
        names = [name for name in names if name != self.id_property]
        for name in names:
            record.properties.pop(name, None)
            if len(self.unknown) < REMEMBERED:
                self._learn(name)
        return bool(names)

    def _learn(self, name: str) -> None:
        """Told once; sent again now and then, as somebody may have made it."""
        if name not in self.unknown:
            self.log.warning("HubSpot has no property %s: it is left out (see check)", name)
        self.unknown[name] = self.monotonic()

    def _fill(self, record: Record, names: Iterable[str]) -> bool:
        names = list(names)
        if not names or any(name not in self.defaults for name in names):
            return False
        record.properties |= {name: self.defaults[name] for name in names}
        return True

    def _take(self, record: Record, fault: Fault, problem: Problem) -> bool:
        """Whose the value is has to be looked at, unless ours is a record of its own already."""
        is_free = record.target is None and not record.is_known
        if problem.other_record and is_free and self.on_conflict == "adopt":
            record.taken = problem
            return True
        return self._separate(record, fault.properties or (EMAIL,), problem)

    def _separate(self, record: Record, names: Iterable[str], problem: Problem) -> bool:
        """Leave to the other record what it has: two people may share an address."""
        names = self._removable(record, names)
        if self.on_conflict == "dead" or not names:
            return False
        for name in names:
            del record.properties[name]
        whose = f"record {problem.other_record} has" if problem.other_record else "another has"
        self._note(record, f"without {', '.join(names)}, which {whose}")
        return True

    def _correct(self, record: Record, fault: Fault) -> bool:
        cut = self.on_invalid == "truncate" and fault.code in TOO_LONG
        return (cut and self._cut(record, fault)) or self._drop(record, fault)

    def _drop(self, record: Record, fault: Fault) -> bool:
        names = self._removable(record, fault.properties)
        if self.on_invalid == "dead" or not names:
            return False
        for name in names:
            del record.properties[name]
        self._note(record, f"without {', '.join(names)}: {fault.code}")
        return True

    def _removable(self, record: Record, names: Iterable[str]) -> list[str]:
        kept = {self.id_property, *self.fixed}
        return [name for name in names if name in record.properties and name not in kept]

    def _note(self, record: Record, text: str) -> None:
        record.notes.append(text)
        self.log.warning("%s: %s", record.trace, text)

    def _cut(self, record: Record, fault: Fault) -> bool:
        found = LIMIT.search(fault.message)
        limit = int(found[1].replace(",", "")) if found else LONGEST_TEXT
        names = [name for name in fault.properties if len(record.properties.get(name, "")) > limit]
        for name in names:
            record.properties[name] = record.properties[name][:limit]
            self._note(record, f"{name} cut to {limit:,} characters")
        return bool(names)


def _tries(way: str, fault: Fault) -> set[tuple[str, str]]:
    """Each way once for each property: HubSpot may tell of one after the other."""
    return {(way, name) for name in fault.properties or ("",)}


def take_back_defaults(record: Record) -> None:
    """A record that was there keeps its own values where a new one was given defaults."""
    filled = {each for each in record.mended if each[0] == "missing"}
    record.mended -= filled
    for _, name in filled:
        record.properties.pop(name, None)


def _was_taken(record: Record) -> bool:
    return any(way == "taken" for way, _ in record.mended)


def _way(fault: Fault, problem: Problem) -> str:
    said = f"{problem.message} {fault.message}".casefold()
    if fault.code in UNKNOWN:
        return "unknown"
    if fault.code in MISSING or UNSET.casefold() in said:
        return "missing"
    if fault.code in EXISTS or EXISTING_ID.casefold() in said or ALREADY_SET.casefold() in said:
        return "taken"
    return "gone" if fault.code in GONE else "invalid"


def _whole(problem: Problem) -> Fault:
    """An error that names no property, as a fault."""
    return Fault(problem.code, problem.message, ())
