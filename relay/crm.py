"""What CRM sinks have in common."""

from typing import Annotated, Any, Self

import orjson
import pydantic

from relay.event import OPT_OUT, Event
from relay.outcome import Retry
from relay.sink import Options
from relay.templating.expressions import Condition

MOST_VALUES = 250_000
"""Separators in one answer. The description of a large CRM object has a fifth of that."""
SEPARATORS = (b",", b"[", b"{")
FIELD = r"^[A-Za-z][A-Za-z0-9_-]*$"

Value = str | bool | int | float | None
Field = Annotated[str, pydantic.Field(pattern=FIELD)]


class Word(Options):
    """What one field holds after an opt-out and after an opt-in; null clears it."""

    opted_out: Value = True
    opted_in: Value = False


class Consent(Options):
    """The fields that say whether a contact has opted out, and what they hold.

    One `field` or several with the same values, or `fields` with values of their own. `when`
    narrows the events whose word is written. `create` makes a record where none has the number.
    """

    field: Field | list[Field] | None = None
    opted_out: Value = True
    opted_in: Value = False
    fields: dict[Field, Word] = pydantic.Field(default={})
    when: Condition | None = None
    create: bool = True

    def values(self, word: str) -> dict[str, Any]:
        """What to write, by field, for `opt_out` or `opt_in`."""
        return {
            name: each.opted_out if word == OPT_OUT else each.opted_in
            for name, each in self.words().items()
        }

    def words(self) -> dict[str, Word]:
        """All the fields with their values."""
        named = [self.field] if isinstance(self.field, str) else self.field or []
        same = Word(opted_out=self.opted_out, opted_in=self.opted_in)
        return {**dict.fromkeys(named, same), **self.fields}

    def takes(self, event: Event) -> bool:
        """Whether the event's word of consent is written. Raises EvaluationError."""
        return self.when is None or self.when.matches(event)

    @pydantic.model_validator(mode="after")
    def _names_a_field(self) -> Self:
        if not self.words():
            raise ValueError("should name a field, as in field: SMS_Opt_Out__c")
        return self


def read_json(content: bytes) -> Any:
    """What an answer says. Raises ValueError where it is no JSON, or has too many values.

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
        """A page brought so many results, and the next one is to be asked for by `mark`.

        Raises Retry where that would never end.
        """
        if not results or mark == self._mark:
            raise Retry("a page of its list brings nothing, and names another as the next")
        self._mark = mark
        self._count += 1
        if self._count > self._most:
            raise Retry(f"its list has more than {self._most:,} pages")
