"""`make stubs` prints a relay.yaml that works with what it serves."""

import os
import subprocess
import sys
from itertools import takewhile

import httpx
import pytest
import yaml
from click.testing import CliRunner

from relay.cli import main

REST = """\
server: {listen: 127.0.0.1:0}
admin: {listen: 127.0.0.1:0}
sources: {sumotext: {country: US}}
"""


@pytest.fixture
def stubs(root):
    """The program, on ports of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "stubs", "0", "0"],
        env=os.environ | {"PYTHONPATH": str(root / "tests")},
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running
        if running.poll() is None:
            running.terminate()


def test_what_the_stubs_print_is_a_configuration_of_them(stubs, tmp_path):
    sinks = "".join(takewhile(lambda line: line != "\n", stubs.stdout))
    path = tmp_path / "relay.yaml"
    path.write_text(REST + sinks)
    checked = CliRunner().invoke(main, ["check", "--online", "--config", str(path)])
    assert "salesforce: well\nhubspot: well\n" in checked.output
    assert checked.exit_code == 0
    url = yaml.safe_load(sinks)["sinks"]["salesforce"]["options"]["login_url"]
    calls = httpx.get(f"{url}/_stub/calls", trust_env=False).json()
    assert calls[0]["path"] == "/services/oauth2/token"
    stubs.terminate()
    lines = stubs.stdout.read().splitlines()
    assert any(line.endswith("POST /services/oauth2/token 200") for line in lines)
    assert stubs.wait(10) == 0
