"""The sink: what a plugin writes to deliver events to one place."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import httpx
import pydantic

from relay.account import Account, Accounts
from relay.event import Event
from relay.outcome import Delivered, Outcome, Pause, Reject, Retry
from relay.quota import Quota
from relay.redact import NumberMatcher

_log = logging.getLogger("relay.delivery")


class Options(pydantic.BaseModel):
    """The base of a sink's options; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one sink.

    `id` is the event's id and the idempotency key, the same over all attempts and replays.
    `record` is the outcome of the sink's `map`; without one, the event itself as a dict. It is
    None where only the word of consent is to be written, as the sink's `when` does not match or
    its `map` failed with `map_error`: only sinks get that which take consent. They write
    `last_word`, `opt_out` or `opt_in`: the last word of the number, over all sources. `dropped`
    names what `map` left out because its filters refused the value.
    `attempt` counts from 1. `replayed` says that it was asked for again. `stale` says that a
    later event of this contact has already been delivered here.
    """

    id: str
    event: Event
    record: dict[str, Any] | None
    attempt: int = 1
    replayed: bool = False
    stale: bool = False
    map_error: str | None = None
    dropped: tuple[str, ...] = ()
    last_word: str | None = None

    def __repr__(self) -> str:
        return f"Delivery(id={self.id!r}, attempt={self.attempt})"


class Notice(str):
    """A line of `check()` that is no problem: deliveries go on, and it keeps no sink paused."""

    __slots__ = ()


class Mistake(str):
    """A line of `check()` about a value that is not written: deliveries go on without it.

    It keeps no sink paused.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Erased:
    """What a sink removed of a contact from this machine, and what it could not reach."""

    records: int = 0
    mentions: int = 0
    left: Sequence[str] = ()


Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
"""A logger of a sink."""

Progress = Callable[[int, int | None], None]
"""Called with how many are done, and of how many, or None."""


def in_silence(done: int, total: int | None) -> None:
    """The default: progress is not shown."""


class Sink:
    """The base of every sink. Override `send`, or `send_batch` with `max_batch`.

    `name` is the sink's name in relay.yaml; `options` an instance of the class's `Options`;
    `http` a guarded client with time-outs, counted by `rate`; `log` its own logger;
    `columns` the keys of the sink's `map` in their order, or None without one; `constants` those
    of its values that are the same for each event, by key. A sink whose vendor allows only so many
    calls sets a `quota`, for the last of them to be kept for opt-outs; `account` gives one that all
    sinks of the account share, and more that they do.
    `blank` says what becomes of a value of `map` that is nothing but white space, where relay.yaml
    does not: it stays, or its key is left out of the record.
    """

    Options: ClassVar[type[Options]] = Options
    max_batch: ClassVar[int] = 1
    blank: ClassVar[Literal["keep", "omit"]] = "keep"
    check_ends_pause: ClassVar[bool] = True
    """Whether a `check` without problems ends a pause; else one delivery is tried."""
    quota: Quota | None = None
    constants: Mapping[str, Any] = MappingProxyType({})
    accounts: Accounts | None = None
    """The relay sets both before it calls `__init__`, which a plugin may override."""
    _warned = False

    def __init__(
        self,
        name: str,
        options: Any,
        http: httpx.AsyncClient,
        log: Log,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.http = http
        self.log = log
        self.columns = columns

    def account(self, *credentials: str) -> Account:
        """The account that is used with these: the vendor's name, its address, a token, say.

        Sinks that give the same get the same one.
        """
        if self.accounts is None:
            self.accounts = Accounts()
        return self.accounts.of(*credentials)

    @classmethod
    def batch_limit(cls, options: Any) -> int:  # noqa: ARG003  overrides may need the options
        """The most deliveries that `send_batch` takes with these options."""
        return cls.max_batch

    @classmethod
    def drops_invalid(cls, options: Any) -> bool:  # noqa: ARG003  for sinks that do
        """Whether a value that a filter of `map` refuses is left out; else the delivery is dead."""
        return False

    @classmethod
    def own_files(cls, options: Any) -> Collection[Path]:  # noqa: ARG003  for sinks that write some
        """Absolute paths of files that no other sink may write to, as far as options name them."""
        return ()

    @classmethod
    def takes_consent(cls, options: Any, event: Event) -> bool:  # noqa: ARG003  for sinks that do
        """Whether the sink writes the word of consent of this event, whatever its `when` says.

        Asked only of an event that carries one.
        """
        return False

    async def open(self) -> None:
        """Called once, before the first delivery."""

    async def close(self) -> None:
        """Called once, after the last delivery."""

    async def check(self) -> list[str]:
        """Problems found without delivering anything; empty when all is well.

        While the sink is paused it is asked every five minutes, and ends the pause, unless the
        class says otherwise (`check_ends_pause`). A line about what does not stop deliveries is a
        `Mistake`, where a value is not written, or a `Notice`, which is shown and has no other
        effect.
        """
        return []

    async def setup(
        self,
        *,
        backfill: bool = False,  # noqa: ARG002  for those who have something to fill
        progress: Progress = in_silence,  # noqa: ARG002  the same
        create: Collection[str] = (),  # noqa: ARG002  for those who make things by name
    ) -> list[str]:
        """Make on the other side what deliveries need there: fields, say, and indexes.

        Returns what was made, and what is left for a person to do, a line each. It may be asked
        for again at any time, and then makes only what is missing. `backfill` asks to also give
        the records that are there already the key by which events find them; `progress` is called
        how many are done, of how many where that is known. `create` names what is to be made
        though it looks like a slip; it is given only if the operator asked for it. Raises what
        `send` raises.
        """
        return ["nothing to set up"]

    async def erase(
        self,
        matcher: NumberMatcher,  # noqa: ARG002  for those who keep something
        ids: Collection[str],  # noqa: ARG002  the same
    ) -> Erased | None:
        """Remove what the sink keeps of a contact on this machine, in its own files.

        `matcher` finds the number in bytes; `ids` are those of the contact's events. None says
        that it keeps nothing. It is asked while nothing of the contact is being delivered.
        """
        return None

    async def send(self, delivery: Delivery) -> Delivered | None:
        """Deliver one event; return when the other side has it.

        Raises Retry, Reject or Pause. An httpx.HTTPStatusError is classed by its status; any
        other exception is a retry.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither send nor send_batch")

    async def send_batch(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        """Deliver up to `max_batch` events; one outcome for each, in their order.

        An exception applies to all of them.
        """
        (delivery,) = deliveries
        try:
            result: Any = await self.send(delivery)  # a plugin may return anything
        except (Retry, Reject, Pause) as outcome:
            return [outcome]
        if isinstance(result, httpx.Response):
            result.raise_for_status()  # the plugin has not checked it yet
        if result is False:
            return [Retry("send returned False")]
        if isinstance(result, Retry | Reject | Pause):  # returned in place of raised
            return [result]
        if isinstance(result, Delivered):
            return [result]
        if result is not None and not isinstance(result, httpx.Response):
            self._warn_once(type(result).__name__)
        return [Delivered()]

    def _warn_once(self, kind: str) -> None:
        """A decoded answer may hold an error that the plugin ignores."""
        if not self._warned:
            self._warned = True
            # Not by `self.log`: a plugin that overrides `__init__` may not have it.
            _log.warning(
                "sink %s: send returned %s, which counts as delivered; return relay.Delivered() or"
                " nothing, and raise relay.Retry or relay.Reject for an answer that says so",
                getattr(self, "name", "?"),
                kind,
            )
