"""What CRM sinks have in common."""

from typing import Annotated, Any, Self

import pydantic

from relay.callbacks.consent import OPT_OUT
from relay.event import Event
from relay.sink import Options
from relay.templates.expressions import Condition

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
