"""What docs/operations.md says of systemd is so: its paths, its commands, its units."""

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from relay.cli import main
from relay.install import (
    COMMAND,
    CONFIG,
    CREDENTIALS,
    PLUGINS,
    SERVICE,
    SOCKET,
    TOKEN,
    UNITS,
)

TEXT = (Path(__file__).parent.parent / "docs/operations.md").read_text()
SECTION = re.split("^## ", TEXT.partition("\n## systemd\n")[2], flags=re.MULTILINE)[0]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for found, text in BLOCKS if found == language]


def commands():
    """Every `relay …` of the examples, as words."""
    lines = "".join(blocks("sh")).splitlines()
    found = [re.fullmatch(r"(?:sudo )?(?:/opt/relay/bin/)?relay (.*)", line) for line in lines]
    return [each[1].split() for each in found if each]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_is_one(words):
    command, context = main, click.Context(main)
    while isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(context, name)
    named = {word for word in words if word.startswith("-")}
    assert named <= {option for each in command.params for option in each.opts}


def test_every_place_that_is_named_is_used(root):
    rows = re.findall(r"^\| `(/[^`]*)` \|", SECTION, re.MULTILINE)
    unit = (root / "config" / SERVICE.name).read_text()
    state = re.search("^WorkingDirectory=(.*)$", unit, re.MULTILINE)
    used = {CONFIG, CREDENTIALS, PLUGINS, UNITS, COMMAND, Path(state[1])}
    assert set(map(Path, rows)) == used
    for name in (TOKEN.name, SERVICE.name, SOCKET.name):
        assert f"`{name}`" in SECTION


def test_the_bounds_it_names_are_those_of_the_unit(root):
    unit = (root / "config/relay.service").read_text()
    found = dict(re.findall(r"^(MemoryMax|TasksMax)=(\w+)$", unit, re.MULTILINE))
    assert found.keys() == {"MemoryMax", "TasksMax"}
    said = (root / "docs/operations.md").read_text()
    assert "`MemoryMax={MemoryMax}` and `TasksMax={TasksMax}`".format(**found) in said


def test_a_unit_changed_as_it_says_is_understood(root, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: apt-get install systemd")
    lines = "".join(blocks("ini"))
    unit = (root / "config" / SERVICE.name).read_text()
    changed = re.sub("^ExecStart=.*$", "ExecStart=/bin/true", unit, flags=re.MULTILINE) + lines
    (tmp_path / SERVICE.name).write_text(changed)
    (tmp_path / SOCKET.name).write_text((root / "config" / SOCKET.name).read_text())
    words = ["systemd-analyze", "verify", "--man=no", tmp_path / SERVICE.name]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stderr
    assert "relay" not in said
