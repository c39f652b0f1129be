"""`relay setup`, with sinks of a plugin that the test brings."""

import logging
import sys

import pytest
from click.testing import CliRunner

from relay.cli import main
from relay.cli.output import progress
from relay.sink import Sink

YAML = """
sources: {sumotext: {country: US}}
sinks:
  archive: {plugin: csv, options: {path: data/events.csv}}
  crm: {plugin: crm}
  refused: {plugin: refused}
  leaving: {plugin: leaving}
  vague: {plugin: vague, enabled: false}
  maker: {plugin: maker}
"""
PLUGIN = """
import httpx
import relay

class Crm(relay.Sink):
    async def send(self, delivery): ...
    async def setup(self, *, backfill, progress):
        if not backfill:
            return ["made the field sms_key", "left to you: \\x1b[2Jthe page layout"]
        for done in range(3):
            progress(done, None if done == 0 else 2)
        return ["2 people have a key now"]

class Refused(Crm):
    async def setup(self, *, backfill, progress):
        request = httpx.Request("PUT", "https://crm.example/fields?token=secret")
        httpx.Response(401, request=request).raise_for_status()

class Leaving(Crm):
    async def setup(self, *, backfill, progress):
        raise SystemExit(0)

class Vague(Crm):
    async def setup(self, *, backfill, progress):
        return None

class Maker(Crm):
    async def setup(self, *, backfill, progress, create=()):
        return [f"made {name}" for name in create] or ["made nothing"]

@relay.hookimpl
def register_sinks(register):
    for sink in (Crm, Refused, Leaving, Vague, Maker):
        register(sink.__name__.lower(), sink)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a relay.yaml and a plugin."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.yaml").write_text(YAML)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "crm.py").write_text(PLUGIN)
    return tmp_path


def setup(*arguments, status=0):
    """Run the command in this process; return what it printed."""
    result = CliRunner().invoke(main, ["setup", *arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


def test_what_was_made_and_what_is_left_to_do_is_printed(here):
    assert setup("crm").stdout == "made the field sms_key\nleft to you: �[2Jthe page layout\n"
    assert not (here / "data").exists()


def test_backfilling_is_asked_for_and_tells_how_far_it_is(here, monkeypatch):
    bars = []

    def noted(*arguments):
        bars.append(progress(*arguments))
        return bars[-1]

    monkeypatch.setattr(sys.modules["relay.cli.configure"], "progress", noted)
    assert setup("crm", "--backfill-keys").stdout == "2 people have a key now\n"
    (task,) = bars[0].tasks
    assert (task.completed, task.total) == (2, 2)


def test_fields_that_look_like_slips_are_made_by_name(here):
    assert setup("maker", "--create", "a", "--create", "b").stdout == "made a\nmade b\n"
    assert setup("maker").stdout == "made nothing\n"


def test_a_sink_that_makes_nothing_by_name_says_so(here):
    said = setup("crm", "--create", "a", status=2).stderr
    assert "the sink crm makes no fields, so --create has no use" in said


@pytest.mark.parametrize("name", ["archive", "vague"])
def test_most_sinks_have_nothing_to_set_up(here, name):
    assert setup(name).stdout == "nothing to set up\n"


def test_a_refusal_is_told_in_a_sentence_without_secrets(here):
    said = setup("refused", status=1).stderr
    assert said == "Error: refused: 401 Unauthorized: the credentials are refused; correct them\n"


def test_a_plugin_does_not_end_the_command_as_if_all_were_well(here):
    assert setup("leaving", status=1).stderr == "Error: leaving: PluginExit: SystemExit\n"


def test_a_sink_that_is_not_there_is_wrong_usage(here):
    said = setup("cmr", status=2).stderr
    assert (
        "no sink 'cmr' in relay.yaml (known: archive, crm, refused, leaving, vague, maker)" in said
    )


def test_a_mistake_in_the_configuration_ends_with_78(here):
    (here / "relay.yaml").write_text("sinks: {crm: {plugin: crn}}")
    assert "relay.yaml:1: sinks.crm.plugin" in setup("crm", status=78).stderr


def test_help_says_what_it_is_for(here):
    said = setup("--help").stdout
    assert "SINK" in said
    assert "--backfill-keys" in said


async def test_a_sink_of_its_own_needs_no_setup():
    sink = Sink("plain", None, None, logging.getLogger("relay.sinks.plain"))
    assert await sink.setup(backfill=True) == ["nothing to set up"]
