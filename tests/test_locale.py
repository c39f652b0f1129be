"""Where the locale is not UTF-8, commands show what they can, and relay.yaml names the paths."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from running import ENVIRONMENT, running

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CONFIG = """
server: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
store: dätä/reläy.db
sources: {sumotext: {country: US}}
sinks:
  archive: {plugin: csv, options: {path: "dätä/ö-{{ data.keyword }}.csv"}}
"""
SAYS = "\N{RIGHT-TO-LEFT OVERRIDE}héllo\N{CHECK MARK}\N{PARTY POPPER}"


def latin_1(folder):
    """The environment of a German terminal of the nineties."""
    if not shutil.which("localedef") or not Path("/usr/share/i18n/charmaps").exists():
        pytest.skip("localedef or its sources are not here")
    name = folder / "de_DE.ISO-8859-1"
    subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(name)], check=True, capture_output=True
    )
    return {"LOCPATH": str(folder), "LC_ALL": name.name}


@pytest.fixture(params=["ascii", "latin-1", "an encoding that Python is told"])
def locale(request, tmp_path):
    if request.param == "latin-1":
        return latin_1(tmp_path)
    return ASCII if request.param == "ascii" else {"PYTHONIOENCODING": "ascii"}


COMMANDS = """
import json, sys
from relay.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main.main(arguments)
    except SystemExit as end:
        sys.stdout.write(f"\\0{end.code}\\0")
"""


class Here:
    """A folder with a relay.yaml, and what commands say under a locale."""

    def __init__(self, folder, locale):
        folder = folder / "bücher"
        folder.mkdir()
        self.config = folder / "relay.yaml"
        self.config.write_text(CONFIG, "utf-8")
        self.environment = {**ENVIRONMENT, **locale}

    def commands(self, *lines):
        """What each writes; it has to succeed. They share a process, as each start takes time."""
        lines = [[*line, "-c", os.fsencode(self.config).decode()] for line in lines]
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps(lines, ensure_ascii=False)],
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        outputs = done.stdout.split(b"\0")
        assert (done.stderr, outputs[1::2]) == (b"", [b"0"] * len(lines)), done
        return outputs[::2]


@pytest.mark.timeout(180)
def test_commands_work_and_nobody_is_blamed(tmp_path, locale):
    here = Here(tmp_path, locale)
    with running(here.config, here.environment) as (_, url):
        check_commands(here, url)
    names = {os.fsencode(each.name) for each in (here.config.parent / "dätä").iterdir()}
    assert {"reläy.db".encode(), "reläy.db.lock".encode(), "ö-JOIN.csv".encode()} <= names


def check_commands(here, url):
    parameters = {"mobile": "2125551212", "key": "JOIN", "smsid": "1", "msg": SAYS}
    event = httpx.get(url, params=parameters).json()["id"]
    listed, findings, *_ = here.commands(
        ["events", "list", "--json"],
        ["doctor", "--offline", "--json"],
        ["check"],
        ["status"],
        ["events", "list"],
        ["events", "show", event],
        ["preview", "--event", event],
        ["preview", "web_form", "Name=Björn"],
        ["doctor", "--offline"],
    )
    assert json.loads(listed)[0]["data"]["message"] == SAYS
    assert b"\\u202eh" in listed  # it would turn the terminal's line round
    assert json.loads(findings)
