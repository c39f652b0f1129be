"""The process of `relay run` outlives what plugins do beside their work."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

ROOT = str(Path(__file__).parent.parent)
SETTINGS = """
server: {listen: 127.0.0.1:0}
admin: {listen: 127.0.0.1:0}
sources: {sumotext: {}}
sinks: {leaving: {plugin: leaving}}
"""
LEAVING = """
import asyncio
import sys

import relay


class Leaving(relay.Sink):
    async def open(self):
        self.task = asyncio.create_task(self.leave())

    async def leave(self):
        sys.exit(3)

    async def send(self, delivery):
        pass


@relay.hookimpl
def register_sinks(register):
    register("leaving", Leaving)
"""
POLL = {"mobile": "2125550101", "shortcode": "84700", "key": "FB1", "reply": "A"}


def said(process, words):
    """The next message of the log with these words."""
    for line in process.stderr:
        message = json.loads(line)["message"]
        if words in message:
            return message
    raise AssertionError(f"it ended without: {words}")


def test_a_task_of_a_plugin_does_not_end_the_relay(tmp_path):
    (tmp_path / "relay.yaml").write_text(SETTINGS)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/leaving.py").write_text(LEAVING)
    with subprocess.Popen(
        [sys.executable, "-m", "relay.cli", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            log = [
                said(process, ""),
                said(process, ""),
            ]  # which of the two is first does not matter
            url = next(line.split()[-1] for line in log if "callbacks are taken on" in line)
            (left,) = [line for line in log if "SystemExit" in line]
            assert "leaving.py:" in left
            assert httpx.get(url, params=POLL, trust_env=False).status_code == 200
            process.send_signal(signal.SIGTERM)
            said(process, "nothing is lost")
            assert process.wait(20) == 0
        finally:
            process.kill()
