"""Maintenance: purges, erasures and the consent log, as jobs that a command waits for.

An erasure deletes all that this machine keeps of a contact, in an order that may be cut short. The
files of the sinks go first, because the store lists which of their rows are the contact's; the
store follows. A second erasure finds nothing more.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pydantic
from starlette.requests import Request

from relay import retention
from relay.account import LARGEST
from relay.api import PAGE
from relay.api.endpoints import EndpointError, RequestBody, body_of, query_of
from relay.callback import mentions
from relay.clock import Clock, SystemClock
from relay.config.loader import Config
from relay.delivery import plugin_calls
from relay.delivery.manager import Workers, make_sink
from relay.delivery.plugin_calls import PluginCall
from relay.event import timestamp
from relay.redact import NumberMatcher
from relay.sink import Erased, Sink
from relay.sources.router import Router
from relay.spill.file import Redact
from relay.spill.queue import SpillQueue
from relay.store import ConsentRecord, ContactRows, State, StoreError
from relay.store.port import Store

MAX_JOBS = 10
"""Jobs whose result is kept."""
SENDING_TIMEOUT = 60.0
"""Seconds that an erasure waits for the contact's deliveries that are being sent."""
LOOK_AGAIN = 0.1

EraseSpill = Callable[[Redact], Awaitable[int]]
"""Leaves in the spill what is to be kept; returns how many callbacks lost something."""

log = logging.getLogger("relay")


class PurgeBody(RequestBody):
    """The body of a purge. `older_than` is in seconds; None is the retention of relay.yaml."""

    older_than: float | None = pydantic.Field(default=None, ge=0)
    dry_run: bool = False


class EraseBody(RequestBody):
    """The body of an erasure. `mobile` is a number in E.164."""

    mobile: str = pydantic.Field(pattern=r"^\+[1-9][0-9]{6,14}$")


class WordsQuery(RequestBody):
    after: int = 0
    limit: int = pydantic.Field(default=PAGE, ge=1, le=PAGE)


class KeepBody(RequestBody):
    """A value of an account. `account` is a digest; `value` may be a secret."""

    account: str = pydantic.Field(pattern="^[0-9a-f]{32}$")
    name: str = pydantic.Field(min_length=1, max_length=64)
    value: str = pydantic.Field(max_length=LARGEST)


class JobRefused(Exception):
    """A job that cannot run yet. The text says what to do first, and contains no phone number."""


@dataclass(slots=True)
class Job:
    """`done` of `total` (None where that is not known); in the end a `result` or an `error`."""

    done: int = 0
    total: int | None = None
    doing: str = ""
    result: dict[str, Any] | None = None
    error: str | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def view(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "total": self.total,
            "doing": self.doing,
            "result": self.result,
            "error": self.error,
        }


JobWork = Callable[[Job], Awaitable[dict[str, Any]]]


class Jobs:
    """The last jobs, by number. One runs at a time."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._turn = asyncio.Lock()
        self._last = 0

    def start(self, work: JobWork) -> int:
        """Queue a job. Returns its number."""
        self._last += 1
        job = self._jobs[self._last] = Job()
        job.task = asyncio.create_task(self._run(job, work))
        self._jobs.pop(self._last - MAX_JOBS, None)
        return self._last

    def find(self, number: int) -> Job | None:
        return self._jobs.get(number)

    async def _run(self, job: Job, work: JobWork) -> None:
        async with self._turn:
            try:
                job.result = await work(job)
            except (JobRefused, StoreError, OSError) as error:
                job.error = str(error)
            except Exception as error:  # noqa: BLE001  its text may quote what is to be forgotten
                log.error("a job failed: %s", type(error).__name__)
                job.error = f"it failed ({type(error).__name__})"
            except asyncio.CancelledError:
                job.error = "the relay stopped"
                raise


@dataclass(slots=True)
class Report:
    """The result of an erasure: how many were found where, and what is left to an operator."""

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
        self,
        router: Router,
        store: Store,
        config: Config,
        workers: Workers,
        clock: Clock,
        erase_spill: EraseSpill,
    ) -> None:
        self._router = router
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
        report.found += await self._store.delete_contact(rows, matcher)
        job.doing = "what was deleted"
        report.traces, report.searched = await self._store.scrub(matcher)
        report.left += self._unreachable()
        await self._store.note_erasure(matcher, orjson.dumps(report.view()).decode())
        return report.view()

    def _refuse_held(self) -> None:
        """Raises JobRefused for a held sink that has files.

        Its files cannot be searched, and the store, which lists the contact's records in them, is
        erased last.
        """
        for name, live in self._workers.states().items():
            sink = self._config.sinks[name]
            unknown = sink.held is not None  # its plugin may not even load
            if live.state == "held" and (unknown or sink.sink_class.erase is not Sink.erase):
                raise JobRefused(
                    f"the sink {name} is held, so its files cannot be searched: {live.reason};"
                    " erase when it is resumed, or has gone from relay.yaml"
                )

    async def _halt(self, rows: ContactRows) -> None:
        """Discard the open deliveries, and wait for those that are being sent."""
        end = self._clock.monotonic() + SENDING_TIMEOUT
        while flying := await self._store.discard_open(rows):
            if self._clock.monotonic() > end:
                raise JobRefused(
                    f"{flying} of its deliveries are still being sent; try again in a while"
                )
            await self._clock.sleep(LOOK_AGAIN)

    async def _erase_from_spill(self, matcher: NumberMatcher) -> int:
        try:
            return await self._erase_spill(
                partial(mentions.kept, matcher, event_of=self._router.event)
            )
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
                await plugin_calls.run(PluginCall(name, "close"), sink.close())

    def _unreachable(self) -> list[str]:
        """Copies that an erasure does not reach: beside the store, and elsewhere."""
        state = self._config.state
        return [
            *(
                f"{copy}: a copy of the store; remove it when nobody needs it"
                for copy in state.store_copies()
            ),
            *(
                f"{file}: a damaged spill; remove it when nobody needs it"
                for file in state.damaged_spills()
            ),
            "backups, and whatever else was copied from here",
        ]


async def _erased(
    name: str, sink: Sink, matcher: NumberMatcher, ids: Sequence[str]
) -> Erased | None:
    erased: Erased | None = await plugin_calls.run(
        PluginCall(name, "erase"), sink.erase(matcher, ids)
    )
    return erased


def _refuse_waiting(waiting: Sequence[tuple[str, State, str]]) -> None:
    """Raises JobRefused while an opt-out has not arrived: its receiver would go on sending."""
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


class Maintenance:
    """The endpoints of `relay purge`, `relay erase` and `relay consent`, and of their jobs."""

    def __init__(
        self,
        router: Router,
        store: Store,
        config: Config,
        workers: Workers,
        erase_spill: EraseSpill | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock or SystemClock()
        self._erasure = Erasure(
            router, store, config, workers, self._clock, erase_spill or self._erase_spill
        )
        self._jobs = Jobs()

    async def purge(self, request: Request) -> dict[str, Any]:
        """Start to purge what is older than was asked for, or than relay.yaml says."""
        body = await body_of(request, PurgeBody)

        async def work(job: Job) -> dict[str, Any]:
            return await self._purge(job, body.older_than, dry_run=body.dry_run)

        return {"job": self._jobs.start(work)}

    async def erase(self, request: Request) -> dict[str, Any]:
        """Start to erase a contact."""
        mobile = (await body_of(request, EraseBody)).mobile

        async def work(job: Job) -> dict[str, Any]:
            return await self._erasure.erase(mobile, job)

        return {"job": self._jobs.start(work)}

    async def job(self, request: Request) -> dict[str, Any]:
        number = request.path_params["number"]
        job = self._jobs.find(number)
        if job is None:
            raise EndpointError(404, f"no job {number}")
        return job.view()

    async def words(self, request: Request) -> list[dict[str, Any]]:
        query = query_of(request, WordsQuery)
        words = await self._store.consent_log(after=query.after, limit=query.limit)
        return [_consent_view(word) for word in words]

    async def keep(self, request: Request) -> dict[str, Any]:
        """Save a value of an account for a command. No response contains the saved values."""
        body = await body_of(request, KeepBody)
        await self._store.keep(body.account, body.name, body.value)
        return {"kept": body.name}

    async def _purge(self, job: Job, older_than: float | None, *, dry_run: bool) -> dict[str, Any]:
        now = self._clock.now()
        what = (
            retention.before(self._config.retention, now)
            if older_than is None
            else retention.older_than(older_than, now)
        )
        total = {"events": 0, "callbacks": 0}
        throttle = retention.Throttle(self._clock)
        job.total = await self._store.last_seq()
        async for step in self._store.purge(what, dry_run=dry_run):
            total["events"] += step.events
            total["callbacks"] += step.callbacks
            job.done = max(job.done, step.seq)
            await throttle.rest()
        return total

    async def _erase_spill(self, redact: Redact) -> int:
        """Erase from the spill in this process, where no service runs."""
        spill = await SpillQueue.open(self._config.state.spill)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(spill.close)
            return await spill.erase(redact)


def _consent_view(word: ConsentRecord) -> dict[str, Any]:
    return {
        "seq": word.seq,
        "received": timestamp(word.received),
        "source": word.source,
        "mobile": word.mobile,
        "contact": word.contact,
        "word": word.word,
        "test": word.test,
        "accepted": {sink: timestamp(at) for sink, at in word.accepted.items()},
    }
