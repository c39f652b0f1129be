"""The checkup: each sink asked whether it would deliver; nothing is sent."""

import asyncio
from collections.abc import Iterable

from relay.account import Accounts
from relay.clock import SystemClock
from relay.config.loader import SinkConfig
from relay.delivery import plugin_calls
from relay.delivery.classify import lines
from relay.delivery.crashes import COMMAND_LIMIT as TIMEOUT
from relay.delivery.manager import make_sink
from relay.delivery.plugin_calls import Call
from relay.delivery.sender import within
from relay.sink import Notice, Sink

NOT_ASKED = Notice("not asked: its plugin has no check")
"""What is said of a sink in place of `well`."""


async def check_all(sinks: Iterable[SinkConfig], accounts: Accounts) -> dict[str, list[str]]:
    """By the sinks' names, what their own `check` finds; a Notice is no problem."""
    asked = list(sinks)
    found = await asyncio.gather(*(check(sink, accounts) for sink in asked))
    return {sink.name: problems for sink, problems in zip(asked, found, strict=True)}


async def check(sink: SinkConfig, accounts: Accounts) -> list[str]:
    """What the sink's own `check` finds. Plugins may raise anything."""
    if sink.sink_class.check is Sink.check:
        return [NOT_ASKED]
    try:
        made = make_sink(sink, SystemClock(), accounts)
        async with made.http:
            found = await within(TIMEOUT, plugin_calls.run(Call(sink.name, "check"), made.check()))
            return lines(found)
    except TimeoutError:
        return [f"no answer within {TIMEOUT:.0f} seconds"]
    except Exception as error:  # noqa: BLE001  it is the plugin's, whatever it is
        return [f"{type(error).__name__}: {error}"]
