"""What docs/operations.md says of retention, erasure and consent is so."""

import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from relay.cli import main
from relay.config.model import Retention
from relay.retention import DOUBT, EVERY
from relay.store.sqlite.purge import LEFT_FREE, SHARE, STEP

TEXT = (Path(__file__).parent.parent / "docs/operations.md").read_text()


def section(title):
    return re.split("^## ", TEXT.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


RETENTION = section("Retention, purge, erasure")
CONSENT = section("Consent")
SHELL = re.findall(r"^relay (\S[^#>\n]*)", RETENTION + CONSENT, re.MULTILINE)


def test_the_terms_are_the_defaults():
    (block,) = re.findall(r"```yaml\n(.*?)```", RETENTION, re.DOTALL)
    assert Retention(**yaml.safe_load(block)["retention"]) == Retention()


def test_the_figures_are_right():
    assert f"at most {STEP} events in a transaction" in RETENTION
    assert SHARE == 4, "more than a quarter of the file"
    assert f"more than\n{LEFT_FREE * 4096 // 2**20} MiB, the file" in RETENTION
    assert EVERY == 3600.0, "once an hour"
    assert DOUBT == 86_400.0, "only after a day"


@pytest.mark.parametrize("line", SHELL)
def test_each_command_runs(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.yaml").write_text("sources: {sumotext: {}}\n")
    answers = "+12125550142\n" if line.startswith("erase") else "y\n"
    result = CliRunner().invoke(main, line.split(), input=answers, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("words", re.findall(r"`relay ([^`]*)`", RETENTION + CONSENT))
def test_each_command_that_is_named_is_one(words):
    command, context = main, click.Context(main)
    for word in words.split():
        if isinstance(command, click.Group):
            command = command.get_command(context, word)
            assert command is not None, word
