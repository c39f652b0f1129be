"""Jobs: what a command asks for that takes longer than one answer may; it looks on meanwhile."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from relay.store import StoreError

KEPT = 10

log = logging.getLogger("relay")


class JobRefused(Exception):
    """What was asked for cannot be done; the text says what to do first. It holds no number."""


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


Work = Callable[[Job], Awaitable[dict[str, Any]]]


class Jobs:
    """The last few jobs by their number; one runs at a time."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._turn = asyncio.Lock()
        self._last = 0

    def start(self, work: Work) -> int:
        """Begin it, or have it wait for its turn; return its number."""
        self._last += 1
        job = self._jobs[self._last] = Job()
        job.task = asyncio.create_task(self._run(job, work))
        self._jobs.pop(self._last - KEPT, None)
        return self._last

    def find(self, number: int) -> Job | None:
        return self._jobs.get(number)

    async def _run(self, job: Job, work: Work) -> None:
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
