"""The activities: what stands on a contact's timeline for each event.

Three kinds, of which the options name one: a custom event (its uuid is the event's id, and
HubSpot takes none twice), a record of a custom object (written by a unique property that holds
the event's id), or a communication, HubSpot's own log of text messages. Communications have no
property that is unique; without one of the account's own they are written at least once.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import relay
from relay.evaluation import EvaluationError
from relay.outcome import Delivered, Outcome, Pause, Retry

from . import problem as problems
from .errors import GONE
from .mender import Mender
from .options import ActivityOptions, Communication, CustomEvent, OnInvalid, Options
from .problem import Problem
from .record import Record, properties
from .session import Answer, Session
from .tokens import Log as Logger
from .writer import Writer, halves

LONGEST_VALUE = 256
"""Characters of a custom event's property (HubSpot's guide to custom events)."""
COMMUNICATIONS = "communications"
ASSOCIATION_ADVICE = "correct the association in options.activity"


@dataclass(slots=True, eq=False)
class Entry:
    """An event that is to stand on the timeline of `contact`, an id; `outcome` is its end."""

    delivery: relay.Delivery
    contact: str
    outcome: Outcome | None = None


class Activity(Protocol):
    """One of the kinds."""

    async def write(self, entries: Sequence[Entry]) -> None:
        """Each has an outcome afterwards."""


@dataclass(frozen=True, slots=True)
class Link:
    """How a record is tied to its contact."""

    type_id: int
    category: str

    def types(self) -> list[dict[str, Any]]:
        return [{"associationCategory": self.category, "associationTypeId": self.type_id}]


TO_CONTACT = Link(81, "HUBSPOT_DEFINED")
"""From a communication (HubSpot's guide to associations)."""

Made = Callable[[relay.Event], Mapping[str, Any]]
"""The properties of the activity. Raises EvaluationError."""


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
        pairs = list(_records(entries, self._made))
        await self._writer.write([record for _, record in pairs])
        for entry, record in pairs:
            if not isinstance(record.outcome, Delivered):
                entry.outcome = record.outcome
        await self._tie([(entry, record) for entry, record in pairs if entry.outcome is None])

    async def _tie(self, pairs: Sequence[tuple[Entry, Record]]) -> None:
        """Tie them to their contacts; that some are tied already does no harm."""
        parts = deque([pairs] if pairs else [])
        while parts:
            part = parts.popleft()
            answer = await self._session.post(self._path, {"inputs": [*map(self._tied, part)]})
            if answer.problem is None:
                _conclude(part, answer)
            elif len(part) > 1 and not answer.problem.holds_all():
                parts.extendleft(reversed(halves(part)))
            else:
                _end((entry for entry, _ in part), _untied(answer.problem))
            if stop := next((e.outcome for e, _ in part if isinstance(e.outcome, Pause)), None):
                _end((entry for entry, _ in pairs), stop)
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
        pairs = list(_records(entries, self._made))
        for entry, record in pairs:
            record.links = [{"to": {"id": entry.contact}, "types": self._link.types()}]
        await self._writer.write([record for _, record in pairs])
        for entry, record in pairs:
            entry.outcome = record.outcome


class CustomEvents:
    """Occurrences of a custom event. HubSpot answers 204 for all of a request or refuses it."""

    def __init__(self, session: Session, options: CustomEvent, on_invalid: OnInvalid) -> None:
        self._session = session
        self._options = options
        self._on_invalid = on_invalid

    async def write(self, entries: Sequence[Entry]) -> None:
        inputs: dict[Entry, dict[str, Any]] = {}
        for entry in entries:
            made = self._input(entry)
            if isinstance(made, dict):
                inputs[entry] = made
            else:
                entry.outcome = made
        parts: deque[Sequence[Entry]] = deque([list(inputs)] if inputs else [])
        while parts:
            part = parts.popleft()
            content = {"inputs": [inputs[entry] for entry in part]}
            answer = await self._session.post(self._session.paths.events(), content)
            if answer.problem is None:
                # Whatever says more than nothing was not HubSpot's answer to events.
                _end(part, Delivered() if answer.is_bare else problems.no_word().outcome())
            elif answer.problem.holds_all():
                _end(inputs, answer.problem.outcome())
                return
            elif len(part) > 1:
                parts.extendleft(reversed(halves(part)))
            else:
                _end(part, answer.problem.outcome(inputs[part[0]]["properties"].values()))

    def _input(self, entry: Entry) -> dict[str, Any] | Outcome:
        event = entry.delivery.event
        try:
            values = properties(self._options.map.record(event))
        except EvaluationError as error:
            return relay.Reject(f"activity.event.map: {error}")
        too_long = [name for name, value in values.items() if len(value) > LONGEST_VALUE]
        if too_long and self._on_invalid == "dead":
            names = ", ".join(too_long)
            return relay.Reject(
                f"activity: {names} has more than the {LONGEST_VALUE} characters that a custom "
                "event takes: activity.on_invalid: truncate cuts it"
            )
        for name in too_long:
            if self._on_invalid == "truncate":
                values[name] = values[name][:LONGEST_VALUE]
            else:
                del values[name]
        return {
            "eventName": self._options.name,
            "objectId": entry.contact,
            "occurredAt": moment(event.time),
            "uuid": entry.delivery.id,
            "properties": values,
        }


def moment(time: str) -> str:
    """An event's time in milliseconds, as HubSpot keeps them."""
    return f"{time[:23]}Z" if len(time) > len("2026-11-23T04:34:00.123") else time


def _records(entries: Sequence[Entry], made: Made) -> Iterator[tuple[Entry, Record]]:
    """Each entry with the record for it; those for whom none can be made are ended."""
    for entry in entries:
        try:
            values = made(entry.delivery.event)
        except EvaluationError as error:
            entry.outcome = relay.Reject(f"activity: {error}")
        else:
            yield entry, Record(entry.delivery.id, entry.delivery.id, properties(values))


def _reference(record: Record) -> str:
    assert isinstance(record.outcome, Delivered)
    return record.outcome.reference or ""


def _conclude(pairs: Sequence[tuple[Entry, Record]], answer: Answer) -> None:
    """Whom an answer names is tied or not; who is in neither list is tried again."""
    results = answer.list("results")
    ends = {(_end_id(result, "from"), _end_id(result, "to")) for result in results}
    found = [problems.read(None, error) for error in answer.list("errors")]
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


def _end(entries: Iterable[Entry], outcome: Outcome) -> None:
    for entry in entries:
        entry.outcome = entry.outcome or outcome


def make(session: Session, options: Options, log: Logger) -> Activity | None:
    """The kind that the options name; None without one."""
    chosen = options.activity
    if chosen is None:
        return None
    if chosen.event:
        return CustomEvents(session, chosen.event, chosen.on_invalid)
    if chosen.object:
        mender = _mender(options, chosen, chosen.object.id_property, log)
        link = Link(chosen.object.association, chosen.object.category)
        kind, made = chosen.object.type, chosen.object.map.record
        return Records(session, kind, options.object, mender, link, made)
    assert chosen.communication
    mender = _mender(options, chosen, chosen.communication.id_property, log)
    made = partial(communication, chosen.communication)
    if chosen.communication.id_property:
        return Records(session, COMMUNICATIONS, options.object, mender, TO_CONTACT, made)
    return Communications(session, COMMUNICATIONS, mender, TO_CONTACT, made)


def communication(options: Communication, event: relay.Event) -> dict[str, str]:
    """A text message in HubSpot's log (HubSpot's guide to communications)."""
    return {
        "hs_communication_channel_type": "SMS",
        "hs_communication_logged_from": "CRM",
        "hs_communication_body": options.body.render(event),
        "hs_timestamp": moment(event.time),
    }


def _mender(
    options: Options, chosen: ActivityOptions, id_property: str | None, log: Logger
) -> Mender:
    return Mender(
        id_property,
        log,
        chosen.on_invalid,
        drop_unknown=options.unknown_property == "drop",
        defaults=chosen.defaults,
    )
