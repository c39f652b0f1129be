"""The commands where what they are given is no text, or names nothing: no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parent.parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}
NO_TEXT = b"\xff".decode(errors="surrogateescape")
COMMANDS = """
import json, sys
from relay.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main.main(arguments)
    except SystemExit as end:
        sys.stderr.write(f"\\0{end.code}\\0")
"""


@pytest.fixture
def odd(tmp_path):
    """Runs Python with these arguments."""
    (tmp_path / "relay.yaml").write_text("sources: {sumotext: {}}\n")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_command_ends_in_order_whatever_it_is_given(odd):
    """They share a process, as each start takes time."""
    lines = [
        ["events", "list", "--keyword", NO_TEXT],
        ["events", "show", NO_TEXT],
        ["replay", "--since", "1h", "--sink", NO_TEXT],
        ["events", "show", ""],
        ["events", "show", "../status"],
    ]
    errors = odd("-c", COMMANDS, json.dumps(lines)).stderr
    assert b"Traceback" not in errors
    said = errors.split(b"\0")
    assert said[1::2] == [b"2", b"2", b"2", b"1", b"1"], errors
    assert all(b"is neither a name nor an id" in each for each in said[6:10:2]), errors


def test_what_is_no_text_is_said_to_be_none(odd):
    found = odd("-m", "relay.cli", "events", "show", NO_TEXT)
    assert found.returncode == 2
    assert b"is not UTF-8 text" in found.stderr
