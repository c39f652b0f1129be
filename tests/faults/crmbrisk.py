"""A relay whose clock runs many times faster, so that waits of minutes pass in a second.

`CRM_SPEED` says how many times, `CRM_EPOCH` since when: that is the same over all the lives of
a relay, as its clock must not fall back at a start. What the network is waited for stays as it is,
and so does the time-out of a send: at a thousandfold it would be over before an answer can be read.
With `CRM_UNGOVERNED` nobody heeds the vendor's quota, as a control.
"""

import asyncio
import os
import sys
import time
from dataclasses import dataclass

from relay.cli import main
from relay.clock import SystemClock
from relay.delivery import plugin_calls
from relay.quota import Quota


@dataclass(frozen=True)
class BriskClock:
    """Seconds that pass `speed` times as fast since `epoch`."""

    speed: float
    epoch: float

    def now(self) -> float:
        return self.epoch + (time.time() - self.epoch) * self.speed

    def monotonic(self) -> float:
        return time.monotonic() * self.speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)


REAL = BriskClock(speed=1, epoch=0)


async def _at_once(_quota) -> None:
    """No call waits."""


def _run() -> None:
    clock = BriskClock(float(os.environ["CRM_SPEED"]), float(os.environ["CRM_EPOCH"]))
    # Quotas and limiters make theirs for themselves.
    SystemClock.now = lambda _: clock.now()
    SystemClock.monotonic = lambda _: clock.monotonic()
    SystemClock.sleep = lambda _, seconds: clock.sleep(seconds)
    plugin_calls.SystemClock = lambda: REAL
    if os.environ.get("CRM_UNGOVERNED"):
        Quota.acquire = _at_once
        Quota.bulk_wait = lambda _: 0.0
        Quota.tight = False
    main(["run", *sys.argv[1:]])


if __name__ == "__main__":
    _run()
