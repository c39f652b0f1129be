"""Crash count: how often in a row the process ended inside one sink's own code."""

import contextlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from relay.delivery.crashlog import Crash
from relay.store import SinkState, Store, StoreFull

HELD_AFTER = 2
"""So many crashes in a row hold the sink."""

log = logging.getLogger("relay")


def counted(state: SinkState, crash: Crash) -> SinkState:
    """The sink's state with one more crash, which may be the one that holds it."""
    crashes = state.crashes + 1
    if crashes < HELD_AFTER or state.held is not None:
        return replace(state, crashes=crashes)
    sink, name = crash.call
    reason = (
        f"the relay ended {crashes} times in a row inside this sink's own code, last in {name}"
        f" ({crash.how}); mend the plugin, reload, then: relay sinks resume {sink}"
    )
    return replace(state, crashes=crashes, held=reason)


async def count(
    crash: Crash | None,
    sinks: Collection[str],
    states: Mapping[str, SinkState],
    store: Store,
) -> Mapping[str, SinkState]:
    """The states of these sinks, with the crash of the previous process counted.

    The count is stored before any of the sink's code runs again.
    """
    if crash is None or crash.call.sink not in sinks:
        return states
    sink = crash.call.sink
    state = counted(states.get(sink) or SinkState(), crash)
    log.error("the previous process ended inside the code of %s (%s)", crash.call, crash.how)
    with contextlib.suppress(StoreFull):
        await store.save_sink_state(sink, state)
    return {**states, sink: state}
