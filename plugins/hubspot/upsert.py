"""Upserts records of one kind in batches, and repairs those that are refused.

A batch that is refused as a whole is bisected until the bad record is found; where the error names
a property or quotes a value, those who have it are the first part. A record that is named in an
answer is repaired or ended; one that is in neither list is tried again, and never taken for
written. Each way to repair a record is tried once.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import relay
from relay import Log, Outcome, Pause
from relay.crm import Action, Bisection, halves

from .client import ApiResponse, Client, unread
from .errors import (
    ALREADY_SET,
    EXISTING_ID,
    EXISTS,
    GONE,
    MISSING,
    TOO_LONG,
    UNKNOWN,
    UNSET,
    ApiError,
    FieldError,
    blocked,
    each_refused,
    not_named,
    parse_error,
)
from .options import OnConflict, OnInvalid
from .records import Record, by_keys, keep_filled, of_key, value

LONGEST_TEXT = 65_536
"""Characters of a text property (HubSpot's Properties guide)."""
LIMIT = re.compile(r"(?:max|up to|than)\D{0,50}?(\d[\d,]{0,15})", re.IGNORECASE)
REMEMBERED = 200
ASK_AGAIN = 3600.0
EMAIL = "email"
"""The one property of HubSpot's own that no two contacts may share."""


@dataclass(slots=True)
class Repair:
    """Repairs refused records of one kind, as far as the options allow.

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

    def apply(self, record: Record, error: ApiError) -> Outcome | None:
        """None: it is to be sent once more. Else the record's end."""
        end = error.outcome(record.properties.values())
        if isinstance(end, relay.Delivered):  # something is there already, but not what we sent
            return relay.Retry(error.reason(record.properties.values()), status=error.status)
        if error.rule.action is not Action.FIX:
            return end
        if self._is_misconfigured(error):
            return relay.Pause(error.reason(record.properties.values()), status=error.status)
        if record.target and any(
            self.id_property in each.properties for each in error.field_errors
        ):
            return self._without_target(record, error)
        if self._all_repaired(record, error):
            return None
        if isinstance(end, relay.Reject) and self._lacks_only_values(error):
            end.status = None  # nothing that a pause could mend
        return end

    def _lacks_only_values(self, error: ApiError) -> bool:
        """Whether all that is missing is what `map` fills."""
        field_errors = error.field_errors or (_whole(error),)
        missing = [
            field_error for field_error in field_errors if _way(field_error, error) == "missing"
        ]
        names = {name for field_error in missing for name in field_error.properties}
        return bool(names) and names <= self.mapped

    def _is_misconfigured(self, error: ApiError) -> bool:
        """A property that is not there: no record is at fault, and all would meet the same."""
        unknown = [
            name for each in error.field_errors if each.code in UNKNOWN for name in each.properties
        ]
        return bool(unknown) and (not self.drop_unknown or self.id_property in unknown)

    def _all_repaired(self, record: Record, error: ApiError) -> bool:
        ways = [
            (_way(field_error, error), field_error)
            for field_error in error.field_errors or (_whole(error),)
        ]
        tries = {each for way, field_error in ways for each in _tries(way, field_error)}
        if tries & record.repairs or len(record.repairs) > REMEMBERED:
            return False
        record.repairs |= tries
        return all(self._apply(way, record, field_error, error) for way, field_error in ways)

    def without_taken(self, record: Record, error: ApiError) -> Outcome | None:
        """Another record keeps the value that ours was to have: go without it, or end."""
        names = [name for field_error in error.field_errors for name in field_error.properties] or [
            EMAIL
        ]
        names = [EMAIL if name == self.id_property else name for name in names]
        if self._separate(record, names, error):
            return None
        return error.outcome(record.properties.values())

    def _without_target(self, record: Record, error: ApiError) -> Outcome | None:
        """Our key is another record's, so that one is written and not the one found."""
        record.target = None
        record.restore()
        if record.is_bound:
            return error.outcome()
        return self.without_taken(record, error) if _was_taken(record) else None

    def _apply(self, way: str, record: Record, field_error: FieldError, error: ApiError) -> bool:
        match way:
            case "unknown":
                return self._forget(record, field_error.properties)
            case "missing":
                return self._fill(record, field_error.properties)
            case "taken":
                return self._take(record, field_error, error)
            case "gone":
                record.target = None
                record.restore()
                return not record.is_bound
            case _:
                return self._correct(record, field_error)

    def _forget(self, record: Record, names: Iterable[str]) -> bool:
        names = [name for name in names if name != self.id_property]
        for name in names:
            record.properties.pop(name, None)
            if len(self.unknown) < REMEMBERED:
                self._learn(name)
        return bool(names)

    def _learn(self, name: str) -> None:
        """Logged once; sent again every hour, as an operator may have made it."""
        if name not in self.unknown:
            self.log.warning("HubSpot has no property %s: it is left out (see check)", name)
        self.unknown[name] = self.monotonic()

    def _fill(self, record: Record, names: Iterable[str]) -> bool:
        names = list(names)
        if not names or any(name not in self.defaults for name in names):
            return False
        record.properties |= {name: self.defaults[name] for name in names}
        return True

    def _take(self, record: Record, field_error: FieldError, error: ApiError) -> bool:
        """Look up the record with the value, unless ours is a separate record already."""
        is_free = record.target is None and not record.is_known
        if error.other_record and is_free and self.on_conflict == "adopt":
            record.taken = error
            return True
        return self._separate(record, field_error.properties or (EMAIL,), error)

    def _separate(self, record: Record, names: Iterable[str], error: ApiError) -> bool:
        """Leave to the other record what it has: two people may share an address."""
        names = self._removable(record, names)
        if self.on_conflict == "dead" or not names:
            return False
        for name in names:
            del record.properties[name]
        whose = f"record {error.other_record} has" if error.other_record else "another has"
        self._note(record, f"without {', '.join(names)}, which {whose}")
        return True

    def _correct(self, record: Record, field_error: FieldError) -> bool:
        cut = self.on_invalid == "truncate" and field_error.code in TOO_LONG
        return (cut and self._cut(record, field_error)) or self._drop(record, field_error)

    def _drop(self, record: Record, field_error: FieldError) -> bool:
        names = self._removable(record, field_error.properties)
        if self.on_invalid == "dead" or not names:
            return False
        for name in names:
            del record.properties[name]
        self._note(record, f"without {', '.join(names)}: {field_error.code}")
        return True

    def _removable(self, record: Record, names: Iterable[str]) -> list[str]:
        kept = {self.id_property, *self.fixed}
        return [name for name in names if name in record.properties and name not in kept]

    def _note(self, record: Record, text: str) -> None:
        record.notes.append(text)
        self.log.warning("%s: %s", record.trace, text)

    def _cut(self, record: Record, field_error: FieldError) -> bool:
        found = LIMIT.search(field_error.message)
        limit = int(found[1].replace(",", "")) if found else LONGEST_TEXT
        names = [
            name for name in field_error.properties if len(record.properties.get(name, "")) > limit
        ]
        for name in names:
            record.properties[name] = record.properties[name][:limit]
            self._note(record, f"{name} cut to {limit:,} characters")
        return bool(names)


def _tries(way: str, field_error: FieldError) -> set[tuple[str, str]]:
    """Each way once for each property: HubSpot may name one after the other."""
    return {(way, name) for name in field_error.properties or ("",)}


def take_back_defaults(record: Record) -> None:
    """A record that was there keeps its own values where a new one was given defaults."""
    filled = {each for each in record.repairs if each[0] == "missing"}
    record.repairs -= filled
    for _, name in filled:
        record.properties.pop(name, None)


def _was_taken(record: Record) -> bool:
    return any(way == "taken" for way, _ in record.repairs)


def _way(field_error: FieldError, error: ApiError) -> str:
    said = f"{error.message} {field_error.message}".casefold()
    if field_error.code in UNKNOWN:
        return "unknown"
    if field_error.code in MISSING or UNSET.casefold() in said:
        return "missing"
    if (
        field_error.code in EXISTS
        or EXISTING_ID.casefold() in said
        or ALREADY_SET.casefold() in said
    ):
        return "taken"
    return "gone" if field_error.code in GONE else "invalid"


def _whole(error: ApiError) -> FieldError:
    """An error that names no property, as a fault."""
    return FieldError(error.code, error.message, ())


MOST = 100
"""Inputs in a batch (HubSpot's contacts guide)."""
UPDATE = "batch/update"
QUOTED = 3
"""Characters that a value needs to be looked for in a message."""
TOO_SLOW = "a refused batch was not searched to its end in time"


class Writer:
    """Writes records of one kind."""

    def __init__(
        self, client: Client, kind: str, repair: Repair, only_if_empty: Sequence[str] = ()
    ) -> None:
        self._client = client
        self._kind = kind
        self._repair = repair
        self._only_if_empty = only_if_empty
        self._id_property = repair.id_property
        self._action = "batch/upsert" if repair.id_property else "batch/create"

    async def write(self, records: Sequence[Record]) -> None:
        """Each record has an outcome afterwards. No two have the same key."""
        waiting = [record for record in records if record.outcome is None]
        while waiting:
            for record in waiting:
                self._repair.prepare(record)
            await self._send(self._action, [each for each in waiting if each.target is None])
            await self._send(UPDATE, [each for each in waiting if each.target])
            await self._adopt([record for record in waiting if record.taken])
            waiting = [record for record in waiting if record.outcome is None]

    async def read(
        self, ids: Sequence[str], properties: Sequence[str], id_property: str | None = None
    ) -> tuple[list[dict[str, Any]], ApiError | None]:
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
            answer = await self._client.post(self._path("batch/read"), content)
            found += answer.list("results")
            # A person can have several addresses; one of another person is refused when writing.
            expected = 0 if id_property == EMAIL else len(asked)
            if error := answer.error or unread(answer, expected):
                return found, error
        return found, None

    def _path(self, action: str) -> str:
        return self._client.paths.objects(self._kind, action)

    async def _send(self, action: str, records: Sequence[Record]) -> None:
        """Send them together; in parts, where that is refused. Each is ended or mended."""
        parts = Bisection(records, MOST)
        while parts:
            part = parts.next()
            content = {"inputs": [self._input(record) for record in part]}
            answer = await self._client.post(self._path(action), content)
            if action == UPDATE and answer.error and answer.error.code in GONE:
                # A record is not there, one of many perhaps; the path would have no category.
                answer = replace(answer, error=parse_error(None, answer.body))
            parts.put(self._conclude(part, answer))
            if parts and (stop := self._stop(parts, part, answer)):
                end(parts.rest(), stop)
                return

    def _stop(
        self, parts: Bisection[Record], part: Sequence[Record], answer: ApiResponse
    ) -> Outcome | None:
        """What keeps the other parts from being sent."""
        ends = [record.outcome for record in part]
        accepted = any(isinstance(each, relay.Delivered) for each in ends)
        refused = any(isinstance(each, relay.Reject) and each.status for each in ends)
        parts.note(accepted=accepted, refused=refused and len(part) == 1)
        if answer.error and answer.error.holds_all():
            return answer.error.outcome()
        if pause := next((each for each in ends if isinstance(each, Pause)), None):
            return pause
        if answer.error and parts.hopeless:
            return each_refused(answer.error)
        return relay.Retry(TOO_SLOW) if self._client.spent() else None

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

    def _conclude(self, part: Sequence[Record], answer: ApiResponse) -> list[Sequence[Record]]:
        """Set the outcome or repair the records that it names; returns the parts to send again."""
        if answer.error is None:
            return self._read(part, answer)
        error = _of_all(answer.error) if len(part) > 1 else answer.error
        if error is None:
            return _split(part, answer.error)
        for record in part:
            self._refuse(record, error)
        return []

    def _read(self, part: Sequence[Record], answer: ApiResponse) -> list[Sequence[Record]]:
        """A 200 or a 207."""
        results, errors = answer.list("results"), answer.errors()
        self._accept(part, results)
        unsaid = [record for record in part if record.outcome is None]
        if not errors and not self._id_property and len(results) == len(part):
            for record in unsaid:  # they cannot be distinguished, and none is missing
                record.outcome = relay.Delivered(note=record.note)
            return []
        nameless: list[ApiError] = []
        for error in errors:
            blamed = [record for record in unsaid if _is_named(record, error)]
            for record in blamed:
                self._refuse(record, error)
            unsaid = [record for record in unsaid if record not in blamed]
            nameless += [] if error.named else [error]
        if nameless and len(unsaid) > 1:
            return _split(unsaid, nameless[0])
        for record in unsaid:
            self._refuse(record, nameless[0] if nameless else not_named())
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
        if len(unsaid) == len(strangers) == 1:  # it can be no other
            _deliver(unsaid[0], strangers[0])

    def _key(self, result: Mapping[str, Any]) -> str:
        return value(result, self._id_property) if self._id_property else ""

    def _refuse(self, record: Record, error: ApiError) -> None:
        record.outcome = self._repair.apply(record, error)

    # another record has it

    async def _adopt(self, records: Sequence[Record]) -> None:
        """Write to the record that has the value already, unless it has another key."""
        if not records:
            return
        others = {record.taken.other_record for record in records if record.taken}
        assert self._id_property
        wanted = [self._id_property, *self._only_if_empty]
        found, error = await self.read(sorted(filter(None, others)), wanted)
        if error:
            end(records, blocked(error))
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
            record.outcome = self._repair.without_taken(record, refusal)


def end(records: Iterable[Record], outcome: Outcome) -> None:
    """The same end for all that have none."""
    for record in records:
        record.outcome = record.outcome or outcome


def _deliver(record: Record, result: Mapping[str, Any]) -> None:
    if result.get("id"):
        record.is_new = result.get("new") is True
        record.outcome = relay.Delivered(str(result["id"]), record.note)


def _of_all(error: ApiError) -> ApiError | None:
    """What of a refusal applies to every record of the batch."""
    if error.holds_all():
        return error
    unknown = tuple(
        field_error for field_error in error.field_errors if field_error.code in UNKNOWN
    )
    return replace(error, field_errors=unknown) if unknown else None


def _split(part: Sequence[Record], error: ApiError) -> list[Sequence[Record]]:
    """The innocent and the suspects, where the refusal gives a hint; else two halves."""
    suspects = [record for record in part if _is_suspect(record, error)]
    if 0 < len(suspects) < len(part):
        return [[record for record in part if record not in suspects], suspects]
    return halves(part)


def _is_suspect(record: Record, error: ApiError) -> bool:
    return _is_named(record, error) or any(
        len(record.properties.get(name, "")) >= QUOTED
        and record.properties[name] in field_error.message
        for field_error in error.field_errors
        for name in field_error.properties
    )


def _is_named(record: Record, error: ApiError) -> bool:
    return not error.named.isdisjoint({record.trace, record.key, record.target})
