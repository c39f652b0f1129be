"""What CRM sinks share: error tables, consent options, bisection, keys, sign-in, redaction.

A CRM's errors are data: one rule a row, read from the top.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Generic, Protocol, Self, TypeVar

import orjson
import pydantic

from relay.caching import short_key
from relay.event import OPT_OUT, Event
from relay.outcome import NotDelivered, Outcome, Reject, Retry
from relay.redact import E164, mask_all, without
from relay.sink import Delivery, Options
from relay.templating.evaluation import EvaluationError
from relay.templating.expressions import Condition, Template
from relay.units import NUMBER

__all__ = [
    "Action",
    "Bisection",
    "Consent",
    "ConsentValues",
    "ConsentWrite",
    "KeyOwners",
    "LruKeys",
    "Pages",
    "QuotaShare",
    "Rule",
    "SingleFlight",
    "distinct_groups",
    "find",
    "halves",
    "key_of_number",
    "listed",
    "number_of",
    "read_json",
    "redacted",
    "without_consent",
]

MOST_VALUES = 250_000
"""Separators in one answer. The description of a large CRM object has a fifth of that."""
SEPARATORS = (b",", b"[", b"{")
FIELD = r"^[A-Za-z][A-Za-z0-9_-]*$"
MOST_KEYS = 50_000
STREAK = 5
"""Records refused in a row, with none accepted, after which the rest of a batch is not sent."""
MOST_CHOICES = 20
"""Choices of a field that a message names; some have a thousand."""
LONGEST_MESSAGE = 300
"""Characters of an error message that are shown."""

NO_NUMBER = "consent: the contact is no phone number, as in +12125551212, to find records by"

T = TypeVar("T")
Value = str | bool | int | float | None
Field = Annotated[str, pydantic.Field(pattern=FIELD)]


# errors


class Action(StrEnum):
    """What is done about an error.

    `RETRY`: try it later. `REFRESH`: sign in again and repeat the request once. `SPLIT`: send the
    batch in parts. `OK`: the record is there already. `DEAD`: this record will never be accepted.
    `PAUSE`: no record will be accepted until an operator acts. `FIX`: the sink may repair the
    record by its options, and send it once more; else it is dead.
    """

    RETRY = "retry"
    REFRESH = "refresh"
    SPLIT = "split"
    OK = "ok"
    DEAD = "dead"
    PAUSE = "pause"
    FIX = "fix"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of an error table: what is done about the errors that it matches.

    `status` are HTTP statuses and `code` the vendor's own codes, any where None; `text` is part
    of the message, in whatever case. `after` is in seconds: for RETRY it holds the whole sink,
    for PAUSE the first probe comes then. `advice` is what the operator is to do.
    """

    action: Action
    status: frozenset[int] | None = None
    code: frozenset[str] | None = None
    text: str = ""
    after: float | None = None
    advice: str = ""

    def matches(self, status: int | None, code: str, folded: str) -> bool:
        """Whether an error fits the row. `status` None: there was no answer.

        `folded` is the message, case-folded.
        """
        return (
            (self.status is None or status in self.status)
            and (self.code is None or code in self.code)
            and (not self.text or self.text.casefold() in folded)
        )


def find(rules: Sequence[Rule], status: int | None, code: str, message: str) -> Rule:
    """The first rule that matches; the last one of a table matches anything."""
    folded = message.casefold()
    return next((rule for rule in rules if rule.matches(status, code, folded)), rules[-1])


def redacted(words: str, values: Iterable[Any], *, whole: bool = False) -> str:
    """An error message, cut, without the record's texts that it quotes, and without numbers.

    With `whole`, a value inside a longer word stays.
    """
    texts = (value for value in values if isinstance(value, str))
    return mask_all(without(words, texts, whole=whole))[:LONGEST_MESSAGE]


# answers


def read_json(content: bytes) -> Any:
    """The JSON of an answer. Raises ValueError where it is no JSON, or has too many values.

    Eight MiB of `[],` would take half a second of the event loop, and 200 MiB.
    """
    if len(content) > MOST_VALUES and sum(map(content.count, SEPARATORS)) > MOST_VALUES:
        raise ValueError("it has too many values")
    return orjson.loads(content)


class Pages:
    """Counts the pages of one list, which may be `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 1
        self._mark: str | None = None

    def turn(self, mark: str, results: int) -> None:
        """A page brought so many results; the next one is asked for by `mark`.

        Raises Retry where the list would never end.
        """
        if not results or mark == self._mark:
            raise Retry("a page of its list brings nothing, and names another as the next")
        self._mark = mark
        self._count += 1
        if self._count > self._most:
            raise Retry(f"its list has more than {self._most:,} pages")


# batches


class Bisection(Generic[T]):
    """A batch in parts: a part that is refused as a whole is split until one record is left.

    while parts:
        part = parts.next()
        ...send it, and parts.put(halves(part)) where all of it was refused
    """

    def __init__(self, items: Sequence[T], most: int) -> None:
        starts = range(0, len(items), most)
        self._waiting = deque(items[start : start + most] for start in starts)
        self._refused = 0
        self._accepted = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def next(self) -> Sequence[T]:
        return self._waiting.popleft()

    def put(self, parts: Iterable[Sequence[T]]) -> None:
        """Send these parts next, in their order."""
        self._waiting.extendleft(reversed([part for part in parts if part]))

    def rest(self) -> list[T]:
        """All items that have not been sent."""
        return [item for part in self._waiting for item in part]

    def note(self, *, accepted: bool, refused: int) -> None:
        """The result of a part: how many records were refused where settings may be the cause."""
        self._accepted |= accepted
        self._refused += refused

    @property
    def hopeless(self) -> bool:
        """Whether STREAK records were refused and none accepted: settings are at fault."""
        return not self._accepted and self._refused >= STREAK


def halves(part: Sequence[T]) -> list[Sequence[T]]:
    """The two halves of a batch."""
    middle = len(part) // 2
    return [part[:middle], part[middle:]]


def distinct_groups(items: Iterable[T], key: Callable[[T], str]) -> list[list[T]]:
    """The items in as few groups as it takes for none to have a key twice, in their order."""
    groups: list[list[T]] = []
    seen: dict[str, int] = {}
    for item in items:
        turn = seen.get(key(item), 0)
        seen[key(item)] = turn + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(item)
    return groups


# keys


class LruKeys(Generic[T]):
    """Keys of records that are known to be there, with a value each; the least used go first.

    `fold` makes equal what the CRM takes for one key.
    """

    def __init__(self, most: int = MOST_KEYS, fold: Callable[[str], str] = str) -> None:
        self._most = most
        self._fold = fold
        self._values: OrderedDict[str, T] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return self._short(key) in self._values

    def get(self, key: str) -> T | None:
        key = self._short(key)
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def add(self, key: str, value: T) -> None:
        key = self._short(key)
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def discard(self, key: str) -> None:
        self._values.pop(self._short(key), None)

    def _short(self, key: str) -> str:
        return short_key(self._fold(key))


# sign-in


class SingleFlight(Generic[T]):
    """One call at a time: who asks while it runs gets its result, or its exception.

    A caller that is cancelled does not cancel the call, on which others may wait.
    """

    def __init__(self) -> None:
        self._running: asyncio.Task[T] | None = None

    async def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(call())
            self._running.add_done_callback(_take_exception)
        return await asyncio.shield(self._running)


def _take_exception(task: asyncio.Task[Any]) -> None:
    """Keep asyncio from logging a failure for which no caller waits any more."""
    if not task.cancelled():
        task.exception()


# options


class QuotaShare(Options):
    """Ordinary deliveries stop at this share of the vendor's calls; opt-outs may use all."""

    share: Annotated[float, pydantic.Field(gt=0, le=1), NUMBER] = 0.9
    """The share, from 0 to 1."""


class ConsentValues(Options):
    """What one field holds after an opt-out and after an opt-in; null clears it."""

    opted_out: Value = True
    """The value after an opt-out."""
    opted_in: Value = False
    """The value after an opt-in."""


class Consent(Options):
    """The fields that say whether a contact has opted out, and what they hold.

    One `field` or several with the same values, or `fields` with different values. `when`
    narrows the events that are written. `create` makes a record where none has the number.
    """

    field: Field | list[Field] | None = None
    """The field, or a list of fields with the same values."""
    opted_out: Value = True
    """The value of `field` after an opt-out."""
    opted_in: Value = False
    """The value of `field` after an opt-in."""
    fields: dict[Field, ConsentValues] = pydantic.Field(default={})
    """Fields with their own values, as in `{SMS_Status__c: {opted_out: Stopped, opted_in:
    Active}}`."""
    when: Condition | None = None
    """A Jinja expression that chooses the events. Default: every opt-out and opt-in."""
    create: bool = True
    """`false` creates no record for a number that has none."""

    def values(self, word: str) -> dict[str, Any]:
        """What to write, by field, for `opt_out` or `opt_in`."""
        return {
            name: each.opted_out if word == OPT_OUT else each.opted_in
            for name, each in self.words().items()
        }

    def words(self) -> dict[str, ConsentValues]:
        """All the fields with their values."""
        named = [self.field] if isinstance(self.field, str) else self.field or []
        same = ConsentValues(opted_out=self.opted_out, opted_in=self.opted_in)
        return {**dict.fromkeys(named, same), **self.fields}

    def takes(self, event: Event) -> bool:
        """Whether the event's word of consent is written. Raises EvaluationError."""
        return self.when is None or self.when.matches(event)

    @pydantic.model_validator(mode="after")
    def _names_a_field(self) -> Self:
        if not self.words():
            raise ValueError("should name a field, as in field: SMS_Opt_Out__c")
        return self


# keys and consent of records that are there


def number_of(event: Event) -> str:
    """The contact's number in E.164; empty where the contact is no number, or there is none."""
    contact = event.contact or ""
    return contact if E164.fullmatch(contact) else ""


def key_of_number(key: Template, mobile: str, country: str | None) -> str:
    """The key of whoever has this E.164 number; empty if it takes more than the number.

    It is rendered for two events that have nothing else in common.
    """
    try:
        one, other = (
            key.render(_event_of(mobile, country, mark, kind)).strip()
            for mark, kind in (("1", "com.sumotext.message"), ("2", "com.sumotext.poll"))
        )
    except EvaluationError:
        return ""
    return one if one == other else ""


def _event_of(mobile: str, country: str | None, mark: str, kind: str) -> Event:
    data: dict[str, Any] = {
        "mobile": mobile,
        "country": country,
        "keyword": mark,
        "message": mark,
        "message_id": mark,
        "fields": {},
        "parameters": [],
    }
    return Event(mark, f"/callbacks/{mark}", kind, mark, f"2026-01-0{mark}T00:00:00.000000Z", data)


class KeyOwners:
    """The record that is to get each key. A key that several would get is given to none of them.

    A back-fill reads all records before it writes one: `shared` has the ids of those in question.
    """

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self.shared: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, key: str) -> bool:
        return key in self._owners or key in self.shared

    def add(self, key: str, record_id: str) -> None:
        if key in self.shared:
            self.shared[key].append(record_id)
        elif other := self._owners.pop(key, None):
            self.shared[key] = [other, record_id]
        else:
            self._owners[key] = record_id

    def discard(self, key: str) -> None:
        """Another record has the key already."""
        self._owners.pop(key, None)

    def take(self, most: int) -> list[tuple[str, str]]:
        """Up to `most` keys with their records, which are no longer kept."""
        return [self._owners.popitem() for _ in range(min(most, len(self._owners)))]


class WrittenRecord(Protocol):
    """A record of a sink, with its outcome once it was sent."""

    outcome: Outcome | None


R = TypeVar("R", bound=WrittenRecord)


@dataclass(slots=True, eq=False)
class ConsentWrite(Generic[R]):
    """The word of consent of one delivery, and the records that it is written to."""

    noun: ClassVar[str] = "records"
    delivery: Delivery
    key: str
    records: list[R] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def mobile(self) -> str:
        return number_of(self.delivery.event)

    def has_number(self) -> bool:
        """Whether the contact has a number; else the outcome says that it has none."""
        if not self.mobile:
            self.outcome = Reject(NO_NUMBER)
        return bool(self.mobile)

    def conclude(self) -> None:
        """Set the outcome: that of a record that was not written, where there is one.

        What may still succeed comes before a Reject: it is tried again.
        """
        outcomes = [record.outcome for record in self.records]
        failed = [each for each in outcomes if isinstance(each, NotDelivered)]
        if not failed:
            self.outcome = outcomes[0] if outcomes else self.outcome
            return
        first = copy(min(failed, key=lambda each: isinstance(each, Reject)))  # others share it
        if len(outcomes) > 1:
            count = f"{len(failed)} of {len(outcomes)} {self.noun} with the number"
            first.reason = f"{count} were not written: {first.reason}"
        first.reason = f"consent: {first.reason}"
        self.outcome = first


def without_consent(record: Mapping[str, Any], consent: Consent | None) -> dict[str, Any]:
    """The record without the fields of consent, which are written alone."""
    names = {name.casefold() for name in (consent.words() if consent else ())}
    return {name: value for name, value in record.items() if name.casefold() not in names}


def listed(choices: Sequence[str]) -> str:
    """The choices of a field, as a message names them."""
    return ", ".join(choices[:MOST_CHOICES]) + (", …" if len(choices) > MOST_CHOICES else "")
