"""Records on the timelines: of a custom object, or communications."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import relay
from relay import Delivered, EvaluationError, Log, NotDelivered, Outcome, Pause, Retry, Slices
from relay.crm import Bisection, halves

from . import problem as problems
from .entry import Entry, end
from .errors import GONE
from .mender import ASK_AGAIN, Mender
from .options import COMMUNICATIONS
from .problem import Problem
from .record import Record, properties
from .session import Answer, Session
from .writer import Writer

MOST = 2000
"""Inputs in a request that ties records (HubSpot's guide to associations)."""
REFUSED = 400
UNKNOWN = (403, 404)
AT_LEAST_ONCE = (
    "communications are written at least once: they have no unique property for the id of the"
    " event (relay setup makes it)"
)
ASSOCIATION_ADVICE = "correct the association in options.activity"


@dataclass(frozen=True, slots=True)
class Link:
    """How a record is tied to its contact."""

    type_id: int
    category: str

    def types(self) -> list[dict[str, Any]]:
        return [{"associationCategory": self.category, "associationTypeId": self.type_id}]


Made = Callable[[relay.Event, list[str]], Mapping[str, Any]]
"""The properties of the activity; the list gets what was left out. Raises EvaluationError."""


class Records:
    """Records with a unique property: written by it, and tied to the contact with a call more."""

    def __init__(
        self, session: Session, kind: str, other: str, mender: Mender, link: Link, made: Made
    ) -> None:
        self._session = session
        self._path = session.paths.associations(kind, other)
        self._writer = Writer(session, kind, mender)
        self._link = link
        self._made = made

    async def write(self, entries: Sequence[Entry]) -> None:
        pairs = await _records(entries, self._made)
        await self._writer.write([record for _, record in pairs])
        for entry, record in pairs:
            entry.notes += record.notes
            if not isinstance(record.outcome, Delivered):
                entry.outcome = record.outcome
        await self._tie([(entry, record) for entry, record in pairs if entry.outcome is None])

    async def _tie(self, pairs: Sequence[tuple[Entry, Record]]) -> None:
        """Tie them to their contacts; that some are tied already does no harm."""
        parts = Bisection(pairs, MOST)
        while parts:
            part = parts.next()
            answer = await self._session.post(self._path, {"inputs": [*map(self._tied, part)]})
            if answer.problem is None:
                _conclude(part, answer)
            elif len(part) > 1 and not answer.problem.holds_all():
                parts.put(halves(part))
            else:
                end((entry for entry, _ in part), _untied(answer.problem))
            if stop := next((e.outcome for e, _ in part if isinstance(e.outcome, Pause)), None):
                end((entry for entry, _ in pairs), stop)
                return

    def _tied(self, pair: tuple[Entry, Record]) -> dict[str, Any]:
        entry, record = pair
        ends = {"from": {"id": _reference(record)}, "to": {"id": entry.contact}}
        return {**ends, "types": self._link.types()}


class Communications:
    """Communications without a property of their own to be known by."""

    def __init__(self, session: Session, kind: str, mender: Mender, link: Link, made: Made) -> None:
        self._writer = Writer(session, kind, mender)
        self._link = link
        self._made = made

    async def write(self, entries: Sequence[Entry]) -> None:
        pairs = await _records(entries, self._made)
        for entry, record in pairs:
            record.links = [{"to": {"id": entry.contact}, "types": self._link.types()}]
        await self._writer.write([record for _, record in pairs])
        for entry, record in pairs:
            entry.notes += record.notes
            entry.outcome = record.outcome


class OnceIfUnique:
    """Communications by their unique property, where HubSpot has that; else at least once.

    It is asked for only where they are refused, and then once an hour.
    """

    def __init__(
        self,
        session: Session,
        id_property: str,
        once: Records,
        repeated: Communications,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._path = session.paths.properties(COMMUNICATIONS, f"/{id_property}")
        self._once = once
        self._repeated = repeated
        self._log = log
        self._monotonic = monotonic
        self._absent_until = 0.0

    async def write(self, entries: Sequence[Entry]) -> None:
        if self._monotonic() >= self._absent_until:
            await self._once.write(entries)
            if not _are_refused(entries) or not await self._is_absent():
                return
            if not self._absent_until:
                self._log.warning(AT_LEAST_ONCE)
            self._absent_until = self._monotonic() + ASK_AGAIN
            for entry in entries:
                entry.outcome = None
                entry.notes.clear()
        await self._repeated.write(entries)

    async def _is_absent(self) -> bool:
        answer = await self._session.get(self._path)
        if answer.problem:
            return answer.problem.status in UNKNOWN
        return answer.body.get("hasUniqueValue") is not True


def _are_refused(entries: Sequence[Entry]) -> bool:
    """Whether none was taken, and the request itself was refused."""
    ends = [entry.outcome for entry in entries]
    if any(isinstance(each, Delivered | Retry) for each in ends):
        return False
    return any(isinstance(each, NotDelivered) and each.status == REFUSED for each in ends)


async def _records(entries: Sequence[Entry], made: Made) -> list[tuple[Entry, Record]]:
    """Each entry with the record for it; those for whom none can be made are ended."""
    pairs, slices = [], Slices()
    for entry in entries:
        await slices.rest()
        try:
            values = made(entry.delivery.event, entry.notes)
        except EvaluationError as error:
            entry.outcome = relay.Reject(f"activity: {error}")
        else:
            pairs.append((entry, Record(entry.delivery.id, entry.delivery.id, properties(values))))
    return pairs


def _reference(record: Record) -> str:
    assert isinstance(record.outcome, Delivered)
    return record.outcome.reference or ""


def _conclude(pairs: Sequence[tuple[Entry, Record]], answer: Answer) -> None:
    """Whom an answer names is tied or not; who is in neither list is tried again."""
    results = answer.list("results")
    ends = {(_end_id(result, "from"), _end_id(result, "to")) for result in results}
    found = answer.errors()
    for entry, record in pairs:
        both = (_reference(record), entry.contact)
        problem = next((each for each in found if not each.named.isdisjoint(both)), None)
        if both in ends:
            entry.outcome = Delivered()
        else:
            entry.outcome = _untied(problem or problems.no_word())


def _end_id(result: dict[str, Any], end: str) -> str:
    """Older versions say `fromObjectId`, others `from: {id}`."""
    nested = result.get(end)
    return str(nested.get("id") if isinstance(nested, dict) else result.get(f"{end}ObjectId"))


def _untied(problem: Problem) -> Outcome:
    """One end has just been written: if it is gone it was merged or deleted meanwhile."""
    if problem.code in GONE:
        return Retry(problem.reason())
    outcome = problem.outcome()
    if isinstance(outcome, Retry | Pause):
        return outcome
    return Pause(f"{problem.reason()}: {ASSOCIATION_ADVICE}")
