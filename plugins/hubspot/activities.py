"""Activities: the entry of each event on a contact's timeline.

Three kinds, of which the options name one: a custom event, a record of a custom object, which is
written by a unique property that holds the event's id, or a communication, HubSpot's own log of
text messages. Communications have no property that is unique; without one of the account's own
they are written at least once. The uuid of a custom event is the event's id, and HubSpot takes
none twice within a year; it answers 204 for all of a request, or refuses it as a whole.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import relay
from relay import (
    Delivered,
    EvaluationError,
    Log,
    NotDelivered,
    Outcome,
    Pause,
    RecordMap,
    Retry,
    Slices,
)
from relay.crm import Bisection, halves

from .client import ApiResponse, Client
from .errors import GONE, OF_VALUES, ApiError, each_refused, not_named
from .options import COMMUNICATIONS, ActivityOptions, Communication, CustomEvent, OnInvalid, Options
from .records import Record, properties
from .upsert import ASK_AGAIN, Repair, Writer

MILLISECONDS = len("2026-11-23T04:34:00.123")


@dataclass(slots=True, eq=False)
class TimelineEntry:
    """One event for the timeline of `contact`, the id of a contact; `outcome` is its result.

    `notes` say what was left out or cut.
    """

    delivery: relay.Delivery
    contact: str
    notes: list[str] = field(default_factory=list)
    outcome: Outcome | None = None


def end(entries: Iterable[TimelineEntry], outcome: Outcome) -> None:
    """The same end for all that have none."""
    for entry in entries:
        entry.outcome = entry.outcome or outcome


def moment(time: str) -> str:
    """An event's time in milliseconds, as HubSpot keeps them."""
    return f"{time[:MILLISECONDS]}Z" if len(time) > MILLISECONDS else time


MOST_EVENTS = 500
"""Inputs in a request (HubSpot's guide to custom events)."""
LONGEST_VALUE = 256
"""Characters of a property (the same guide)."""
Input = dict[str, Any]


class CustomEvents:
    """Sends custom events, up to MOST_EVENTS in a request."""

    def __init__(
        self, client: Client, options: CustomEvent, on_invalid: OnInvalid, log: Log
    ) -> None:
        self._client = client
        self._options = options
        self._on_invalid = on_invalid
        self._log = log

    async def write(self, entries: Sequence[TimelineEntry]) -> None:
        inputs: dict[TimelineEntry, Input] = {}
        slices = Slices()
        for entry in entries:
            await slices.rest()
            made = self._input(entry)
            if isinstance(made, dict):
                inputs[entry] = made
            else:
                entry.outcome = made
        await self._send(inputs)

    async def _send(self, inputs: dict[TimelineEntry, Input]) -> None:
        parts = Bisection(list(inputs), MOST_EVENTS)
        while parts:
            part = parts.next()
            content = {"inputs": [inputs[entry] for entry in part]}
            answer = await self._client.post(self._client.paths.events(), content)
            error = _problem(answer)
            refused = error is not None and error.rule not in OF_VALUES
            parts.note(accepted=error is None, refused=refused and len(part) == 1)
            if error is None:
                end(part, Delivered())
            elif error.holds_all():
                end(inputs, error.outcome())
                return
            elif len(part) > 1:
                parts.put(halves(part))
            else:
                end(part, error.outcome(inputs[part[0]]["properties"].values()))
                if parts.hopeless:
                    end(parts.rest(), each_refused(error))
                    return

    def _input(self, entry: TimelineEntry) -> Input | Outcome:
        event = entry.delivery.event
        try:
            values = properties(mapped(self._options.map, self._on_invalid, event, entry.notes))
        except EvaluationError as error:
            return relay.Reject(f"activity.event.map: {error}")
        too_long = [name for name, value in values.items() if len(value) > LONGEST_VALUE]
        if too_long and self._on_invalid == "dead":
            return relay.Reject(
                f"activity.event.map: {', '.join(too_long)} has more than the {LONGEST_VALUE} "
                "characters that a custom event takes: activity.on_invalid: truncate cuts it"
            )
        cuts = self._on_invalid == "truncate"
        kept = values if cuts else values.keys() - too_long
        if too_long:
            names = ", ".join(too_long)
            what = f"{names} cut to" if cuts else f"without {names}: more than"
            entry.notes.append(f"{what} {LONGEST_VALUE} characters")
        for note in entry.notes:
            self._log.warning("%s: activity %s", entry.delivery.id, note)
        return {
            "eventName": self._options.name,
            "objectId": entry.contact,
            "occurredAt": moment(event.time),
            "uuid": entry.delivery.id,
            "properties": {
                name: value[:LONGEST_VALUE]
                for name, value in values.items()
                if value and name in kept
            },
        }


def mapped(
    made: RecordMap, on_invalid: OnInvalid, event: relay.Event, notes: list[str]
) -> dict[str, Any]:
    """What `map` makes of the event; the list gets what a filter refused, where that is left out.

    Raises EvaluationError.
    """
    dropped: list[str] | None = None if on_invalid == "dead" else []
    values = made.record(event, dropped=dropped)
    notes += [f"without {each}" for each in dropped or ()]
    return values


def _problem(answer: ApiResponse) -> ApiError | None:
    """Whatever says more than nothing was not HubSpot's answer to events."""
    if answer.error is None and not answer.is_bare:
        return not_named()
    return answer.error


MOST_TIED = 2000
"""Inputs in a request that ties records (HubSpot's guide to associations)."""
REFUSED = 400
UNREADABLE = (403, 404)
AT_LEAST_ONCE = (
    "communications are written at least once: they have no unique property for the id of the"
    " event (relay setup makes it)"
)
ASSOCIATION_ADVICE = "correct the association in options.activity"


@dataclass(frozen=True, slots=True)
class Link:
    """The type of the association between a record and its contact."""

    type_id: int
    category: str

    def types(self) -> list[dict[str, Any]]:
        return [{"associationCategory": self.category, "associationTypeId": self.type_id}]


Made = Callable[[relay.Event, list[str]], Mapping[str, Any]]
"""The properties of the activity; the list gets what was left out. Raises EvaluationError."""


class UniqueRecords:
    """Writes records by their unique property, and associates them by a second request."""

    def __init__(
        self, client: Client, kind: str, other: str, repair: Repair, link: Link, made: Made
    ) -> None:
        self._client = client
        self._path = client.paths.associations(kind, other)
        self._writer = Writer(client, kind, repair)
        self._link = link
        self._made = made

    async def write(self, entries: Sequence[TimelineEntry]) -> None:
        pairs = await _records(entries, self._made)
        await self._writer.write([record for _, record in pairs])
        for entry, record in pairs:
            entry.notes += record.notes
            if not isinstance(record.outcome, Delivered):
                entry.outcome = record.outcome
        await self._tie([(entry, record) for entry, record in pairs if entry.outcome is None])

    async def _tie(self, pairs: Sequence[tuple[TimelineEntry, Record]]) -> None:
        """Tie them to their contacts; that some are tied already does no harm."""
        parts = Bisection(pairs, MOST_TIED)
        while parts:
            part = parts.next()
            answer = await self._client.post(self._path, {"inputs": [*map(self._tied, part)]})
            if answer.error is None:
                _conclude(part, answer)
            elif len(part) > 1 and not answer.error.holds_all():
                parts.put(halves(part))
            else:
                end((entry for entry, _ in part), _untied(answer.error))
            if stop := next((e.outcome for e, _ in part if isinstance(e.outcome, Pause)), None):
                end((entry for entry, _ in pairs), stop)
                return

    def _tied(self, pair: tuple[TimelineEntry, Record]) -> dict[str, Any]:
        entry, record = pair
        ends = {"from": {"id": _reference(record)}, "to": {"id": entry.contact}}
        return {**ends, "types": self._link.types()}


class Communications:
    """Writes communications without a unique property, each with its association."""

    def __init__(self, client: Client, kind: str, repair: Repair, link: Link, made: Made) -> None:
        self._writer = Writer(client, kind, repair)
        self._link = link
        self._made = made

    async def write(self, entries: Sequence[TimelineEntry]) -> None:
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
        client: Client,
        id_property: str,
        once: UniqueRecords,
        repeated: Communications,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._path = client.paths.properties(COMMUNICATIONS, f"/{id_property}")
        self._once = once
        self._repeated = repeated
        self._log = log
        self._monotonic = monotonic
        self._absent_until = 0.0

    async def write(self, entries: Sequence[TimelineEntry]) -> None:
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
        answer = await self._client.get(self._path)
        if answer.error:
            return answer.error.status in UNREADABLE
        return answer.body.get("hasUniqueValue") is not True


def _are_refused(entries: Sequence[TimelineEntry]) -> bool:
    """Whether none was taken, and the request itself was refused."""
    ends = [entry.outcome for entry in entries]
    if any(isinstance(each, Delivered | Retry) for each in ends):
        return False
    return any(isinstance(each, NotDelivered) and each.status == REFUSED for each in ends)


async def _records(
    entries: Sequence[TimelineEntry], made: Made
) -> list[tuple[TimelineEntry, Record]]:
    """Each entry with its record. An entry for which none can be made gets its outcome."""
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


def _conclude(pairs: Sequence[tuple[TimelineEntry, Record]], answer: ApiResponse) -> None:
    """Whom an answer names is tied or not; who is in neither list is tried again."""
    results = answer.list("results")
    ends = {(_end_id(result, "from"), _end_id(result, "to")) for result in results}
    found = answer.errors()
    for entry, record in pairs:
        both = (_reference(record), entry.contact)
        error = next((each for each in found if not each.named.isdisjoint(both)), None)
        if both in ends:
            entry.outcome = Delivered()
        else:
            entry.outcome = _untied(error or not_named())


def _end_id(result: dict[str, Any], end: str) -> str:
    """Older versions say `fromObjectId`, others `from: {id}`."""
    nested = result.get(end)
    return str(nested.get("id") if isinstance(nested, dict) else result.get(f"{end}ObjectId"))


def _untied(error: ApiError) -> Outcome:
    """One end has just been written: if it is gone it was merged or deleted meanwhile."""
    if error.code in GONE:
        return Retry(error.reason())
    outcome = error.outcome()
    if isinstance(outcome, Retry | Pause):
        return outcome
    return Pause(f"{error.reason()}: {ASSOCIATION_ADVICE}")


FIXED = frozenset({"hs_communication_channel_type", "hs_communication_logged_from", "hs_timestamp"})
"""Of a communication: without them it is none."""
TO_CONTACT = Link(81, "HUBSPOT_DEFINED")
"""From a communication (HubSpot's guide to associations)."""


class Activity(Protocol):
    """One of the three kinds of activity."""

    async def write(self, entries: Sequence[TimelineEntry]) -> None:
        """Each has an outcome afterwards."""


def make_activity(client: Client, options: Options, log: Log) -> Activity | None:
    """The kind that the options name; None without one."""
    chosen = options.activity
    if chosen is None:
        return None
    if chosen.event:
        return CustomEvents(client, chosen.event, chosen.on_invalid, log)
    if chosen.object:
        repair = _repair(options, chosen, chosen.object.id_property, log)
        repair.mapped = frozenset(chosen.object.map.columns)
        link = Link(chosen.object.association, chosen.object.category)
        kind = chosen.object.type
        made = partial(mapped, chosen.object.map, chosen.on_invalid)
        return UniqueRecords(client, kind, options.object, repair, link, made)
    assert chosen.communication
    return _communications(client, options, chosen, chosen.communication, log)


def _communications(
    client: Client, options: Options, chosen: ActivityOptions, asked: Communication, log: Log
) -> Activity:
    made = partial(communication, asked)
    repair = _repair(options, chosen, None, log)
    repair.fixed = FIXED
    repeated = Communications(client, COMMUNICATIONS, repair, TO_CONTACT, made)
    if asked.id_property is None:
        return repeated
    repair = _repair(options, chosen, asked.id_property, log)
    repair.fixed = FIXED
    once = UniqueRecords(client, COMMUNICATIONS, options.object, repair, TO_CONTACT, made)
    if asked.requires_property:
        return once
    return OnceIfUnique(client, asked.id_property, once, repeated, log)


def communication(
    options: Communication,
    event: relay.Event,
    notes: list[str],  # noqa: ARG001  nothing of it can be left out
) -> dict[str, str]:
    """A text message in HubSpot's log (HubSpot's guide to communications)."""
    return {
        "hs_communication_channel_type": "SMS",
        "hs_communication_logged_from": "CRM",
        "hs_communication_body": options.body.render(event),
        "hs_timestamp": moment(event.time),
    }


def _repair(options: Options, chosen: ActivityOptions, id_property: str | None, log: Log) -> Repair:
    return Repair(
        id_property,
        log,
        chosen.on_invalid,
        drop_unknown=options.unknown_property == "drop",
        defaults=chosen.defaults,
        on_conflict="dead" if chosen.on_invalid == "dead" else "separate",
    )
