"""The writer: puts records of one kind into HubSpot by batch upsert, each to an end of its own.

A batch that is refused as a whole is halved until the bad record stands alone; where the error
names a property or quotes a value, those who have it are the first half. A record that is named
in an answer is mended or ended; one that is in neither list is tried again, and never taken for
written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import relay
from relay import Outcome, Pause
from relay.crm import Bisection, halves

from . import problem as problems
from .errors import GONE, UNKNOWN
from .mender import EMAIL, Mender, take_back_defaults
from .problem import Problem
from .record import Record, by_keys, keep_filled, of_key, value
from .session import Answer, Session

MOST = 100
"""Inputs in a batch (HubSpot's contacts guide)."""
UPDATE = "batch/update"
QUOTED = 3
"""Characters that a value needs to be looked for in a message."""
TOO_SLOW = "a refused batch was not searched to its end in time"


class Writer:
    """Writes records of one kind."""

    def __init__(
        self, session: Session, kind: str, mender: Mender, only_if_empty: Sequence[str] = ()
    ) -> None:
        self._session = session
        self._kind = kind
        self._mender = mender
        self._only_if_empty = only_if_empty
        self._id_property = mender.id_property
        self._action = "batch/upsert" if mender.id_property else "batch/create"

    async def write(self, records: Sequence[Record]) -> None:
        """Each record has an outcome afterwards. No two have the same key."""
        waiting = [record for record in records if record.outcome is None]
        while waiting:
            for record in waiting:
                self._mender.prepare(record)
            await self._send(self._action, [each for each in waiting if each.target is None])
            await self._send(UPDATE, [each for each in waiting if each.target])
            await self._adopt([record for record in waiting if record.taken])
            waiting = [record for record in waiting if record.outcome is None]

    async def read(
        self, ids: Sequence[str], properties: Sequence[str], id_property: str | None = None
    ) -> tuple[list[dict[str, Any]], Problem | None]:
        """Those of the records that are there, by id or by a unique property.

        With a problem where it is not said of each of the others that it is not there.
        """
        found: list[dict[str, Any]] = []
        for start in range(0, len(ids), MOST):
            asked = ids[start : start + MOST]
            content = {
                "inputs": [{"id": each} for each in asked],
                "properties": list(properties),
                "propertiesWithHistory": [],
            } | ({"idProperty": id_property} if id_property else {})
            answer = await self._session.post(self._path("batch/read"), content)
            found += answer.list("results")
            # A person can have several addresses; that of somebody else is found out when writing.
            expected = 0 if id_property == EMAIL else len(asked)
            if problem := answer.problem or _unread(answer, expected):
                return found, problem
        return found, None

    def _path(self, action: str) -> str:
        return self._session.paths.objects(self._kind, action)

    async def _send(self, action: str, records: Sequence[Record]) -> None:
        """Send them together; in parts, where that is refused. Each is ended or mended."""
        parts = Bisection(records, MOST)
        while parts:
            part = parts.next()
            content = {"inputs": [self._input(record) for record in part]}
            answer = await self._session.post(self._path(action), content)
            if action == UPDATE and answer.problem and answer.problem.code in GONE:
                # A record is not there, one of many perhaps; the path would have no category.
                answer = replace(answer, problem=problems.read(None, answer.body))
            parts.put(self._conclude(part, answer))
            if parts and (stop := self._stop(parts, part, answer)):
                end(parts.rest(), stop)
                return

    def _stop(
        self, parts: Bisection[Record], part: Sequence[Record], answer: Answer
    ) -> Outcome | None:
        """What keeps the other parts from being sent."""
        ends = [record.outcome for record in part]
        accepted = any(isinstance(each, relay.Delivered) for each in ends)
        refused = any(isinstance(each, relay.Reject) and each.status for each in ends)
        parts.note(accepted=accepted, refused=refused and len(part) == 1)
        if answer.problem and answer.problem.holds_all():
            return answer.problem.outcome()
        if pause := next((each for each in ends if isinstance(each, Pause)), None):
            return pause
        if answer.problem and parts.hopeless:
            return problems.every_one(answer.problem)
        return relay.Retry(TOO_SLOW) if self._session.spent() else None

    def _input(self, record: Record) -> dict[str, Any]:
        made: dict[str, Any] = {
            "objectWriteTraceId": record.trace,
            "properties": dict(record.properties),
        }
        if record.links:
            made["associations"] = record.links
        if record.target or self._id_property:
            made["id"] = record.target or record.key
        if self._id_property:
            made["properties"][self._id_property] = record.key
        if self._id_property and not record.target:
            made["idProperty"] = self._id_property
        return made

    # what the answer says

    def _conclude(self, part: Sequence[Record], answer: Answer) -> list[Sequence[Record]]:
        """End or mend those of whom it says something; gives the parts to be sent anew."""
        if answer.problem is None:
            return self._read(part, answer)
        problem = _of_all(answer.problem) if len(part) > 1 else answer.problem
        if problem is None:
            return _split(part, answer.problem)
        for record in part:
            self._refuse(record, problem)
        return []

    def _read(self, part: Sequence[Record], answer: Answer) -> list[Sequence[Record]]:
        """A 200 or a 207."""
        results, errors = answer.list("results"), answer.errors()
        self._accept(part, results)
        unsaid = [record for record in part if record.outcome is None]
        if not errors and not self._id_property and len(results) == len(part):
            for record in unsaid:  # nothing tells them apart, and none is missing
                record.outcome = relay.Delivered(note=record.note)
            return []
        nameless: list[Problem] = []
        for problem in errors:
            blamed = [record for record in unsaid if _is_named(record, problem)]
            for record in blamed:
                self._refuse(record, problem)
            unsaid = [record for record in unsaid if record not in blamed]
            nameless += [] if problem.named else [problem]
        if nameless and len(unsaid) > 1:
            return _split(unsaid, nameless[0])
        for record in unsaid:
            self._refuse(record, nameless[0] if nameless else problems.no_word())
        return []

    def _accept(self, part: Sequence[Record], results: Iterable[Mapping[str, Any]]) -> None:
        """The order is not theirs: matched by trace id, else by key, else by the record's id."""
        by_trace = {record.trace: record for record in part}
        by_key = by_keys((record.key, record) for record in part)
        by_target = {record.target: record for record in part if record.target}
        strangers = []
        for result in results:
            record = (
                by_trace.get(str(result.get("objectWriteTraceId")))
                or of_key(by_key, self._key(result))
                or by_target.get(str(result.get("id")))
            )
            if record:
                _deliver(record, result)
            else:
                strangers.append(result)
        unsaid = [record for record in part if record.outcome is None]
        if len(unsaid) == len(strangers) == 1:  # there is nobody else that it could be
            _deliver(unsaid[0], strangers[0])

    def _key(self, result: Mapping[str, Any]) -> str:
        return value(result, self._id_property) if self._id_property else ""

    def _refuse(self, record: Record, problem: Problem) -> None:
        record.outcome = self._mender.mend(record, problem)

    # another record has it

    async def _adopt(self, records: Sequence[Record]) -> None:
        """Write to the record that has the value already, unless that is somebody else's."""
        if not records:
            return
        others = {record.taken.other_record for record in records if record.taken}
        assert self._id_property
        wanted = [self._id_property, *self._only_if_empty]
        found, problem = await self.read(sorted(filter(None, others)), wanted)
        if problem:
            end(records, blocked(problem))
            return
        free = {str(each.get("id")): each for each in found if not self._key(each)}
        for record in records:
            self._settle(record, free)

    def _settle(self, record: Record, free: dict[str, dict[str, Any]]) -> None:
        """A record without a key is the same person; it gets only one key."""
        refusal, record.taken = record.taken, None
        assert refusal is not None
        if result := free.pop(refusal.other_record or "", None):
            record.target = refusal.other_record
            take_back_defaults(record)
            keep_filled(record, result, self._only_if_empty)
        else:
            record.outcome = self._mender.without_taken(record, refusal)


def end(records: Iterable[Record], outcome: Outcome) -> None:
    """The same end for all that have none."""
    for record in records:
        record.outcome = record.outcome or outcome


def _deliver(record: Record, result: Mapping[str, Any]) -> None:
    if result.get("id"):
        record.is_new = result.get("new") is True
        record.outcome = relay.Delivered(str(result["id"]), record.note)


def blocked(problem: Problem) -> relay.Retry | Pause:
    """Reading failed: it is no record's fault, so none is dead for it."""
    outcome = problem.outcome()
    if isinstance(outcome, relay.Retry | Pause):
        return outcome
    return Pause(problem.reason(), status=problem.status)


def _unread(answer: Answer, expected: int) -> Problem | None:
    """What keeps an answer from telling of each that it is there, or that it is not.

    An error that names none of those that are not there speaks of all that are not listed.
    """
    if not answer.are_records():
        return problems.no_word()
    absent, unnamed = 0, False
    for problem in answer.errors():
        if problem.code not in GONE:
            return problem
        absent += len(problem.named)
        unnamed |= not problem.named
    enough = unnamed or len(answer.list("results")) + absent >= expected
    return None if enough else problems.no_word()


def _of_all(problem: Problem) -> Problem | None:
    """What of a refusal applies to every record of the batch."""
    if problem.holds_all():
        return problem
    unknown = tuple(fault for fault in problem.faults if fault.code in UNKNOWN)
    return replace(problem, faults=unknown) if unknown else None


def _split(part: Sequence[Record], problem: Problem) -> list[Sequence[Record]]:
    """The innocent and the suspects, where the refusal gives a hint; else two halves."""
    suspects = [record for record in part if _is_suspect(record, problem)]
    if 0 < len(suspects) < len(part):
        return [[record for record in part if record not in suspects], suspects]
    return halves(part)


def _is_suspect(record: Record, problem: Problem) -> bool:
    return _is_named(record, problem) or any(
        len(record.properties.get(name, "")) >= QUOTED and record.properties[name] in fault.message
        for fault in problem.faults
        for name in fault.properties
    )


def _is_named(record: Record, problem: Problem) -> bool:
    return not problem.named.isdisjoint({record.trace, record.key, record.target})
