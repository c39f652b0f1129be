"""A command that calls sinks: a plugin that blocks it is named, and ends it after a while."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from relay.delivery import plugincode
from relay.delivery.crashlog import CrashLog
from relay.delivery.loop_watch import Standstill
from relay.delivery.sink_checks import TIMEOUT
from relay.loop_lag import LAG, LOOKS, LagWatch

T = TypeVar("T")

log = logging.getLogger("relay")


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that calls sinks."""

    async def watched() -> T:
        asyncio.get_running_loop().set_task_factory(plugincode.task_factory)
        standstill = Standstill(CrashLog(), LAG / LOOKS, _give_up, too_long=TIMEOUT)
        watch = LagWatch(look=standstill.look)
        watch.start()
        try:
            return await work
        finally:
            watch.stop()

    return asyncio.run(watched())


def _give_up() -> None:
    log.critical("the plugin blocks this command, which ends here")
    os._exit(1)
