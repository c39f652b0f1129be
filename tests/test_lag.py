"""The lag watch: what blocks the event loop is named."""

import asyncio
import logging
import sys

import pytest

from relay.config import plugins
from relay.event import RawCallback
from relay.loop_lag import LagWatch
from relay.sources.calls import SourceCalls

LIBRARY = """
import time

def post(depth=8):
    post(depth - 1) if depth else time.sleep(0.6)
"""
PLUGIN = """
import relay
import blocking_library

class Slow(relay.Sink):
    max_batch = 2

    async def send_batch(self, deliveries):
        blocking_library.post()

@relay.hookimpl
def register_sinks(register):
    register("slow", Slow)

class SlowSource(relay.Source):
    def parse(self, callback):
        blocking_library.post()
        return self.event(callback, type="com.slow.note", data={})

@relay.hookimpl
def register_sources(register):
    register("slow", SlowSource)
"""
CALLBACK = RawCallback("mine", "POST", b"", "text/plain", b"x", 1_800_000_000_000_000)


def send_batch(registry):
    return registry.sinks["slow"].sink_class("slow", None, None, None).send_batch([])


async def parse(registry):
    SourceCalls(registry.sources["slow"].source_class("slow", None, None)).event(CALLBACK)


@pytest.mark.parametrize(
    ("call", "place"), [(send_batch, "slow.py:9 send_batch"), (parse, "slow.py:17 parse")]
)
async def test_the_plugin_is_named_also_where_a_library_of_its_own_blocks(
    tmp_path, monkeypatch, caplog, call, place
):
    (tmp_path / "blocking_library.py").write_text(LIBRARY)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "slow.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    registry = plugins.load([tmp_path / "plugins"])
    watch = LagWatch(lag=0.2)
    watch.start()
    await asyncio.sleep(0.15)
    with caplog.at_level(logging.ERROR, "relay.lag"):
        await asyncio.ensure_future(call(registry))
    watch.stop()
    del sys.modules["blocking_library"]
    assert "blocking_library.py:5 post < " in caplog.text
    assert f"plugins/{place}" in caplog.text
