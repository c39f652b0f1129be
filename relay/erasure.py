"""Erasure: all that this machine keeps of a contact goes, in an order that may be cut short.

The files of the sinks go first, as the store knows which of their rows are the contact's; the
store itself follows. Done twice, it finds nothing more.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from relay.clock import Clock
from relay.config.loader import Config
from relay.delivery import plugin_calls
from relay.delivery.manager import Workers, make_sink
from relay.delivery.plugin_calls import Call
from relay.jobs import Job, JobRefused
from relay.redact import NumberMatcher
from relay.sink import Erased, Sink
from relay.sources import mentions
from relay.spill import file as spillfile
from relay.spill.file import Kept
from relay.store import ContactRows, State, Store
from relay.store.sqlite.backup import copies_beside

PATIENCE = 60.0
LOOK_AGAIN = 0.1

EraseSpill = Callable[[Kept], Awaitable[int]]
"""Leaves in the spill what is to be kept; returns how many callbacks lost something."""


@dataclass(slots=True)
class Report:
    """How many were found in each place; what is `left` is for a person to see to."""

    found: Counter[str] = field(default_factory=Counter)
    sinks: dict[str, dict[str, int]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    traces: int = 0
    searched: int = 0
    """Bytes of the store's file that were looked through at the end."""

    def view(self) -> dict[str, Any]:
        return {
            "found": dict(self.found),
            "sinks": self.sinks,
            "left": self.left,
            "traces": self.traces,
            "searched": self.searched,
        }


class Erasure:
    """Erases contacts: from the files of the sinks, then from the spill and the store."""

    def __init__(
        self, store: Store, config: Config, workers: Workers, clock: Clock, erase_spill: EraseSpill
    ) -> None:
        self._store = store
        self._config = config
        self._workers = workers
        self._clock = clock
        self._erase_spill = erase_spill

    async def erase(self, mobile: str, job: Job) -> dict[str, Any]:
        """Erase the number, in E.164. Raises JobRefused where something has to be done before."""
        matcher, report = NumberMatcher(mobile), Report()
        self._refuse_held()
        job.doing = "the open deliveries"
        rows = await self._store.find_contact(matcher)
        _refuse_waiting(rows.waiting)
        await self._halt(rows)
        job.doing = "the sinks' files"
        await self._erase_from_sinks(matcher, list(rows.events.values()), report)
        job.doing = "the store"
        report.found["spill"] = await self._erase_from_spill(matcher)
        report.found += await self._store.forget(rows, matcher)
        job.doing = "what was deleted"
        report.traces, report.searched = await self._store.scrub(matcher)
        report.left += self._unreachable()
        await self._store.note_erasure(matcher, orjson.dumps(report.view()).decode())
        return report.view()

    def _refuse_held(self) -> None:
        """Only the store knows which records in a sink's files are the contact's; it goes last."""
        for name, live in self._workers.states().items():
            sink = self._config.sinks[name]
            unknown = sink.held is not None  # its plugin may not even load
            if live.state == "held" and (unknown or sink.sink_class.erase is not Sink.erase):
                raise JobRefused(
                    f"the sink {name} is held, so its files cannot be searched: {live.reason};"
                    " erase when it is resumed, or has gone from relay.yaml"
                )

    async def _halt(self, rows: ContactRows) -> None:
        """Give up what is open, and let end what is being sent."""
        end = self._clock.monotonic() + PATIENCE
        while flying := await self._store.halt(rows):
            if self._clock.monotonic() > end:
                raise JobRefused(
                    f"{flying} of its deliveries are still being sent; try again in a while"
                )
            await self._clock.sleep(LOOK_AGAIN)

    async def _erase_from_spill(self, matcher: NumberMatcher) -> int:
        try:
            return await self._erase_spill(partial(mentions.kept, matcher))
        except OSError as error:
            raise JobRefused(
                f"the spill cannot be read ({error.strerror}), so the number may be in it:"
                " `relay doctor` says what to do; then erase"
            ) from error

    async def _erase_from_sinks(
        self, matcher: NumberMatcher, ids: list[str], report: Report
    ) -> None:
        for name, sink in self._config.sinks.items():
            erased = await self._erase_from(name, matcher, ids)
            if erased is None:
                report.left.append(f"{name}: what its receiver ({sink.plugin}) was sent")
                continue
            report.sinks[name] = {"records": erased.records, "mentions": erased.mentions}
            report.left += [f"{name}: {matcher.blacked_in(each)}" for each in erased.left]
        for name in await self._store.sink_counts():
            if name not in self._config.sinks:
                report.left.append(f"{name}: this sink has gone from relay.yaml; so has its place")

    async def _erase_from(self, name: str, matcher: NumberMatcher, ids: list[str]) -> Erased | None:
        if self._config.sinks[name].sink_class.erase is Sink.erase:
            return None
        if sink := self._workers.sink(name):
            return await _erased(name, sink, matcher, ids)
        sink = make_sink(self._config.sinks[name], self._clock)
        async with sink.http:
            try:
                return await _erased(name, sink, matcher, ids)
            finally:
                await plugin_calls.run(Call(name, "close"), sink.close())

    def _unreachable(self) -> list[str]:
        """Copies of the store that lie beside it, and those that lie elsewhere."""
        store = self._config.store
        beside = [] if isinstance(store, str) else copies_beside(store)
        spills = spillfile.damaged(self._config.store_fallback)
        return [
            *(f"{copy}: a copy of the store; remove it when nobody needs it" for copy in beside),
            *(f"{file}: a damaged spill; remove it when nobody needs it" for file in spills),
            "backups, and whatever else was copied from here",
        ]


async def _erased(
    name: str, sink: Sink, matcher: NumberMatcher, ids: Sequence[str]
) -> Erased | None:
    erased: Erased | None = await plugin_calls.run(Call(name, "erase"), sink.erase(matcher, ids))
    return erased


def _refuse_waiting(waiting: Sequence[tuple[str, State, str]]) -> None:
    """An opt-out must arrive before it is forgotten: else its receiver goes on sending."""
    for sink, state, event_id in waiting:
        if state == State.DEAD:
            raise JobRefused(
                f"the contact's opt-out {event_id} is dead at the sink {sink}: have it delivered"
                f" (`relay dead replay {event_id}`) or give it up (`relay dead discard {event_id}`)"
                ", then erase"
            )
        raise JobRefused(
            f"the contact's opt-out {event_id} has not reached the sink {sink}: `relay status` says"
            f" what stops it (`relay sinks resume {sink}` where it is paused, `relay sinks discard"
            f" {sink}` where it has gone from relay.yaml); have it delivered, then erase"
        )
