"""`relay reload` asks the running relay by its socket, and says what became of it."""

import json
import signal

import pytest
from click.testing import CliRunner
from running import running

from relay.cli import main

CONFIG = """
server: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
sources: {sumotext: {country: US}}
"""
ARCHIVE = "sinks: {archive: {plugin: csv, options: {path: data/events.csv}}}\n"
IGNORING = ("/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh")
"""As nohup starts a program."""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(CONFIG)
    return path


def command(config, *words):
    return CliRunner().invoke(main, [*words, "-c", str(config)])


def status(config):
    return json.loads(command(config, "status", "--json").stdout)


@pytest.mark.timeout(180)
def test_a_relay_that_ignores_sighup_takes_the_new_file_or_says_what_is_wrong(config):
    with running(config, under=IGNORING) as (process, _):
        config.write_text(CONFIG + ARCHIVE)
        assert "`relay reload` has the relay use it" in command(config, "status").stdout
        process.send_signal(signal.SIGHUP)  # control: it is ignored
        assert status(config)["configuration"]["state"] == "outdated"

        done = command(config, "reload")
        assert (done.exit_code, done.stderr) == (0, "")
        assert f"The relay runs with {config} as it is now" in done.stdout
        found = status(config)
        assert (found["configuration"]["state"], list(found["sinks"])) == ("current", ["archive"])
        assert process.poll() is None

        config.write_text(CONFIG + ARCHIVE + "sink: {}\n")
        done = command(config, "reload")
        assert done.exit_code == 78
        assert f"{config}:6: sink: " in done.stderr
        assert done.stderr.count("is wrong") == 1
        assert "the relay goes on with what was read before" in done.stderr
        found = status(config)
        assert (found["configuration"]["state"], list(found["sinks"])) == ("outdated", ["archive"])


def test_where_no_relay_runs_it_says_so(config):
    done = command(config, "reload")
    assert done.exit_code == 1
    assert "the relay is not running" in done.stderr
