"""What docs/operations.md says of backups and of the doctor is so."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from olderstore import EVENTS, content, make_older

from relay.cli import main
from relay.doctor import security, sinks, storage
from relay.doctor.storage import OLD
from relay.state_directory import StateDirectory
from relay.store.sqlite.migrate import migrations

TEXT = (Path(__file__).parent.parent / "docs/operations.md").read_text()


def section(title):
    return re.split("^## ", TEXT.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


BACKUP = section("Backup, restore, and the way back to an older release")
DOCTOR = section("Doctor")


def test_the_commands_of_the_text_do_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.yaml").write_text("store: relay.db\nsources: {sumotext: {}}\n")
    before = content(make_older(tmp_path / "relay.db"))
    done = []
    for line in re.findall(r"^relay (backup|restore) (/srv/\S+)$", BACKUP, re.MULTILINE):
        words = [word.replace("/srv/backups", str(tmp_path)) for word in line]
        result = CliRunner().invoke(main, words, input="y\n", catch_exceptions=False)
        assert result.exit_code == 0, result.output
        done.append(words[0])
    assert done == ["backup", "restore"]
    assert content(tmp_path / "relay.db") == before
    assert len(before["events"]) == EVENTS
    assert len(list(tmp_path.glob("relay.db.replaced-*"))) == 1


@pytest.mark.parametrize("words", re.findall(r"`relay ([^`]*)`", BACKUP + DOCTOR))
def test_each_command_that_is_named_is_one(words):
    command, context = main, click.Context(main)
    for word in words.split():
        if word.startswith("-"):
            assert word in {option for each in command.params for option in each.opts}
        elif isinstance(command, click.Group):
            command = command.get_command(context, word)


def test_the_copy_has_the_name_that_the_text_says():
    copy = StateDirectory.around(Path("data/relay.db")).before_schema(len(migrations()))
    assert BACKUP.replace("`relay restore ", "`").count(f"`{copy}`") == 1
    assert f"`{copy.name}`" in BACKUP
    assert OLD == 30 * 86400
    assert "after thirty days" in BACKUP


def test_every_subject_of_the_doctor_is_in_the_table(root):
    sources = [security, storage, storage, sinks]
    code = "".join(Path(each.__file__).read_text() for each in sources)
    code += (root / "relay/cli/doctor.py").read_text()
    called = re.findall(r"\b(?:ok|warning|problem)\(\s*f?\"([^\"{]*)", code)
    assigned = re.findall(r"subject = f?\"([^\"{]*)", code)
    subjects = {each.strip() for each in (*called, *assigned)}
    rows = re.findall(r"^\| (`.*?`) \|", DOCTOR, re.MULTILINE)
    named = {each.removesuffix(" …") for row in rows for each in re.findall("`([^`]*)`", row)}
    assert named == subjects


def test_the_example_of_the_doctor_is_what_it_prints():
    found = security._strength("source sumotext", "sources.sumotext.tokens[0]", "abc123")
    assert found.text in DOCTOR
    assert found.advice in DOCTOR
