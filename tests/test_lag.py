"""The lag watch: what blocks the event loop is named."""

import asyncio
import logging
import sys

from relay.config import plugins
from relay.loop_lag import LagWatch

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
"""


async def test_the_plugin_is_named_also_where_a_library_of_its_own_blocks(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "blocking_library.py").write_text(LIBRARY)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "slow.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    sink = plugins.load([tmp_path / "plugins"]).sinks["slow"].sink_class("slow", None, None, None)
    watch = LagWatch(lag=0.2)
    watch.start()
    await asyncio.sleep(0.15)
    with caplog.at_level(logging.ERROR, "relay.lag"):
        await asyncio.ensure_future(sink.send_batch([]))
    watch.stop()
    del sys.modules["blocking_library"]
    assert "blocking_library.py:5 post < " in caplog.text
    assert "plugins/slow.py:9 send_batch" in caplog.text
