"""Which sink's own code the event loop is in is known at each moment, whatever the plugin does."""

import asyncio
import contextlib
import sys
import traceback

import pytest

from relay.delivery import plugin_calls
from relay.delivery.plugin_calls import POSITION, PluginCall, inside, run

CALL = PluginCall("crm", "send")


async def test_the_call_is_known_in_each_step_and_at_no_other_time():
    seen = []

    async def send():
        seen.append(POSITION.call)
        await asyncio.sleep(0)
        seen.append(POSITION.call)
        return "done"

    work = asyncio.ensure_future(run(CALL, send()))
    steps = POSITION.steps
    while not work.done():
        assert POSITION.call is None
        await asyncio.sleep(0)
    assert (await work, seen, POSITION.call) == ("done", [CALL, CALL], None)
    assert POSITION.steps == steps + 2


async def test_what_the_coroutine_raises_and_is_thrown_passes():
    async def send():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("cancelled") from None

    work = asyncio.ensure_future(run(CALL, send()))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(ValueError, match="cancelled"):
        await work
    assert POSITION.call is None


async def test_a_coroutine_that_is_closed_comes_to_its_end():
    ended = []

    async def send():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(POSITION.call)

    work = run(CALL, send())
    work.send(None)
    work.close()
    assert (ended, POSITION.call) == ([CALL], None)


async def test_an_error_leaves_no_reference_cycle():
    async def send():
        await asyncio.sleep(0)
        raise ValueError

    with pytest.raises(ValueError) as raised:  # noqa: PT011  it has no text
        await run(CALL, send())
    frames = [frame for frame, _ in traceback.walk_tb(raised.tb)]
    assert not any(raised.value in frame.f_locals.values() for frame in frames[1:])


async def test_a_task_of_a_plugin_is_marked_and_others_are_not():
    asyncio.get_running_loop().set_task_factory(plugin_calls.task_factory)
    seen = {}

    async def note(name):
        await asyncio.sleep(0)
        seen[name] = POSITION.call

    async def send():
        await asyncio.create_task(note("plugin's"))

    await asyncio.gather(run(CALL, send()), asyncio.create_task(note("other"), name="other"))
    assert seen == {"plugin's": CALL, "other": None}


async def test_a_stack_names_the_call():
    names = []

    async def send():
        names.extend(frame.f_code.co_name for frame, _ in traceback.walk_stack(sys._getframe()))

    await run(CALL, send())
    assert "sink crm: send" in names
    assert PluginCall.parse("sink crm: send") == CALL


def test_code_that_is_no_coroutine_is_marked_too():
    with inside(CALL):
        assert POSITION.call == CALL
    assert POSITION.call is None


def test_code_that_fails_is_marked_no_longer():
    with contextlib.suppress(OSError), inside(CALL):
        raise OSError
    assert POSITION.call is None
