"""What docs/operations.md says of reloads and restarts is so: commands, states, names."""

import re
from pathlib import Path

import click
import pytest

from relay import daemon
from relay.cli import main
from relay.cli.run import run
from relay.config import last_good
from relay.monitoring.metrics import FACTS
from relay.state_directory import StateDirectory

TEXT = (Path(__file__).parent.parent / "docs/operations.md").read_text()
SECTION = re.split(
    "^## ", TEXT.partition("\n## Reload, restart, upgrade\n")[2], flags=re.MULTILINE
)[0]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


def test_each_relay_command_is_one():
    named = [
        line.split()[2:] for block in BLOCKS for line in block.splitlines() if "sudo relay" in line
    ]
    named += [each.split()[1:] for each in re.findall(r"`(relay [a-z -]+)`", SECTION)]
    assert len(named) > 2
    for words in named:
        command = main
        for word in words:
            if not isinstance(command, click.Group):
                break
            command = command.get_command(click.Context(command), word)
            assert command is not None, words


def test_the_states_are_those_that_there_are():
    rows = re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE)
    assert rows[1:] == [last_good.CURRENT, last_good.OUTDATED, last_good.LAST_VALID]


def test_the_copy_has_the_name_that_it_says():
    assert f"`{StateDirectory.around(Path('relay.db')).last_good_config.name}`" in SECTION


def test_the_metric_is_one():
    assert "`relay_configuration_valid`" in SECTION
    assert "relay_configuration_valid" in FACTS


def test_it_is_told_as_often_as_it_says():
    assert "every ten minutes" in SECTION
    assert daemon.LOG_PROBLEMS_EVERY == 600


@pytest.mark.parametrize("word", ["READY=1", "RELOADING=1", "STOPPING=1"])
def test_systemd_hears_what_it_says(word, root):
    assert f"`{word}`" in SECTION
    assert f'"{word}"' in (root / "relay" / "systemd.py").read_text()


def test_the_unit_reloads_by_the_signal_that_it_says(root):
    unit = (root / "config" / "relay.service").read_text()
    assert re.search(r"^ExecReload=.*-HUP", unit, re.MULTILINE)
    assert "`Type=notify`" in SECTION
    assert re.search(r"^Type=notify$", unit, re.MULTILINE)
    assert "SIGHUP" in run.help
