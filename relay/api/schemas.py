"""Schemas of the requests that the commands make."""

from dataclasses import replace
from typing import Self
from uuid import UUID

import pydantic

from relay.account import LARGEST
from relay.api.unauthorized import Taken
from relay.store import EventFilter

# What one request may ask for: no more than the event loop can do without anybody waiting.
CHUNK = 100
PAGE = 1_000


class RequestBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Where(RequestBody):
    source: str | None = None
    kind: str | None = None
    keyword: str | None = None
    since: int | None = None
    until: int | None = None

    def filter(self) -> EventFilter:
        return EventFilter(self.source, self.kind, self.keyword, self.since, self.until)


class EventsQuery(Where):
    cursor: str | None = None
    after: int | None = None
    limit: int = pydantic.Field(default=50, ge=1, le=PAGE)


class DeadQuery(RequestBody):
    sink: str | None = None
    cursor: str | None = None
    limit: int = pydantic.Field(default=50, ge=1, le=PAGE)


class QuarantineQuery(RequestBody):
    cursor: str | None = None
    limit: int = pydantic.Field(default=50, ge=1, le=PAGE)


class DeliveriesBody(RequestBody):
    sink: str
    seqs: list[int] = pydantic.Field(max_length=CHUNK)


class ReplayBody(Where):
    """One chunk of a replay. `through` is the last seq when it began, so that it ends."""

    sink: str
    after: int = 0
    through: int | None = None
    limit: int = pydantic.Field(default=CHUNK, ge=1, le=CHUNK)
    as_new: bool = False
    dry_run: bool = False

    def filter(self) -> EventFilter:
        """Of copies the first ones go: theirs were for one sink, and are no news to it."""
        return replace(super().filter(), copies=False)


class ReleaseBody(RequestBody):
    """`unauthorized`: which of those that came with a wrong token may be among them."""

    ids: list[str] = pydantic.Field(max_length=CHUNK)
    dry_run: bool = False
    unauthorized: Taken = Taken.NONE

    @pydantic.model_validator(mode="after")
    def _one_choice_at_a_time(self) -> Self:
        if self.unauthorized is Taken.CHOSEN and not self.dry_run and len(self.ids) != 1:
            raise ValueError("a callback with a wrong token is chosen alone")
        return self


class DiscardBody(RequestBody):
    """`ids` None is all of them."""

    ids: list[UUID] | None = None


class PauseBody(RequestBody):
    reason: str = "paused by hand"


class PurgeBody(RequestBody):
    """`older_than` in seconds; None is what relay.yaml says."""

    older_than: float | None = pydantic.Field(default=None, ge=0)
    dry_run: bool = False


class EraseBody(RequestBody):
    """A number in E.164."""

    mobile: str = pydantic.Field(pattern=r"^\+[1-9][0-9]{6,14}$")


class WordsQuery(RequestBody):
    after: int = 0
    limit: int = pydantic.Field(default=PAGE, ge=1, le=PAGE)


class KeepBody(RequestBody):
    """`account` is a digest, `value` perhaps a secret."""

    account: str = pydantic.Field(pattern="^[0-9a-f]{32}$")
    name: str = pydantic.Field(min_length=1, max_length=64)
    value: str = pydantic.Field(max_length=LARGEST)


class RenameBody(RequestBody):
    to: str
