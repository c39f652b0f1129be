"""The commands where what they are given is no text, or names nothing: no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parent.parent)
NO_TEXT = b"\xff".decode(errors="surrogateescape")


@pytest.fixture
def odd(tmp_path):
    """Runs a command."""
    (tmp_path / "relay.yaml").write_text("sources: {sumotext: {}}\n")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "relay.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["events", "list", "--keyword", NO_TEXT],
        ["events", "show", NO_TEXT],
        ["replay", "--since", "1h", "--sink", NO_TEXT],
    ],
)
def test_a_command_ends_in_order_whatever_it_is_given(odd, arguments):
    found = odd(*arguments)
    assert found.returncode == 2, found.stderr
    assert b"Traceback" not in found.stderr


@pytest.mark.parametrize("name", ["", "../status"])
def test_what_names_nothing_is_said_to_be_no_name(odd, name):
    found = odd("events", "show", name)
    assert (found.returncode, b"is neither a name nor an id" in found.stderr) == (1, True)


def test_what_is_no_text_is_said_to_be_none(odd):
    assert b"is not UTF-8 text" in odd("events", "show", NO_TEXT).stderr
