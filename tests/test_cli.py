"""The commands: in process where that shows all, as a real process beside a real service."""

import asyncio
import base64
import contextlib
import csv
import gzip
import http.server
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from commandtree import GROUPS

from relay.cli import client, main
from relay.cli.options import parse_time
from relay.cli.output import printable
from relay.clock import SystemClock
from relay.config import loader
from relay.event import RawCallback
from relay.monitoring import logs
from relay.redact import mask, mask_all, mask_in
from relay.sources.router import Router
from relay.spill.queue import SpillQueue
from relay.spill.records import Spilled
from relay.store import Settlement, State
from relay.store.sqlite import SqliteStore

YAML = """
server: {{listen: 127.0.0.1:{port}}}
admin: {{listen: 127.0.0.1:0}}
timezone: America/New_York
sources:
  sumotext: {{country: US}}
  second: {{tokens: [first-token, next-token]}}
sinks:
  archive: {{plugin: csv, options: {{path: data/events.csv}}}}
  crm:
    plugin: csv
    when: type == 'com.sumotext.web_form'
    map: {{Mobile: "{{{{ data.mobile }}}}", Name: "{{{{ data.fields.Name }}}}"}}
    options: {{path: data/crm.csv}}
"""
WEB_FORM = b"mobile=2125551212&shortcode=84700&key=JOIN&carrierId=V&Name=Bill"
POLL = b"mobile=2125551213&shortcode=84700&key=FB1&reply=A&label=Tampa"
# The commands as processes find the package also where it is not installed.
ENVIRONMENT = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parent.parent)}
NUMBERS = ("2125551212", "2125551213", "2125550123")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a relay.yaml, which the commands find by themselves."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.yaml").write_text(YAML.format(port=free_port()))
    return tmp_path


def relay(*arguments, stdin="", status=0):
    """Run a command in this process; return what it printed."""
    result = CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


def fill(*queries, dead=None, quarantined=()):
    """Put events into the store, as a service would have."""

    async def filling():
        loaded = loader.load(Path("relay.yaml"), {})
        store = await SqliteStore.open(loaded.store)
        router = Router(loaded, store, SystemClock())
        made = [(await store.add(await router.new_event(callback(query)))).id for query in queries]
        if dead:
            claims = (await store.claim(dead, 100)).claims
            await store.settle(
                [
                    Settlement(dead, each.seq, State.DEAD, error="no field for 212-555-1212")
                    for each in claims
                ]
            )
        kept = [await store.quarantine(callback(query), 422, "no number") for query in quarantined]
        await store.close()
        return SimpleNamespace(events=made, quarantined=kept)

    return asyncio.run(filling())


def callback(query):
    """One that has this query; or the callback itself."""
    if isinstance(query, RawCallback):
        return query
    return RawCallback("sumotext", "GET", query, "", b"", time.time_ns() // 1000)


def test_check_sums_up_a_configuration_that_is_right(here):
    assert relay("check").stdout == (
        "relay.yaml is right: 2 sources (sumotext, second), 2 sinks (archive, crm).\n"
    )
    assert not (here / "data").exists()


def test_check_prints_every_mistake_with_its_line_and_ends_with_78(here):
    text = (here / "relay.yaml").read_text()
    (here / "relay.yaml").write_text(text.replace("plugin: csv", "plugin: cvs"))
    lines = relay("check", status=78).stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["relay.yaml"] * 2
    assert all("csv" in line for line in lines)


@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_a_missing_configuration_ends_with_78(tmp_path, command):
    result = relay(command, "--config", str(tmp_path / "none.yaml"), status=78)
    assert "none.yaml" in result.stderr


def test_the_configuration_may_be_named_by_the_environment(here, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("RELAY_CONFIG", str(here / "relay.yaml"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert "2 sinks" in relay("check").stdout


def test_an_unset_name_stops_check_and_leaves_the_others_at_work(here):
    text = (here / "relay.yaml").read_text()
    (here / "relay.yaml").write_text(text.replace("first-token", "${UNSET_TOKEN}"))
    assert "UNSET_TOKEN" in relay("check", status=78).stderr
    relay("status")


def test_check_names_what_a_sink_that_has_gone_left(here):
    fill(WEB_FORM)
    text = (here / "relay.yaml").read_text()
    (here / "relay.yaml").write_text(text.replace("  crm:", "  sales:"))
    assert "Orphaned: crm, 1 pending and 0 dead." in relay("check").stdout
    relay("sinks", "rename", "crm", "sales")
    assert "Orphaned" not in relay("check").stdout


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "1 callback could not be stored so far, and waits in"), (2, "2 callbacks could not be")],
)
def test_status_says_what_waits_beside_the_store(here, number, said):
    async def spill():
        fallback = await SpillQueue.open(here / "data/relay.db.spill")
        for _ in range(number):
            await fallback.append(Spilled("1", callback(POLL)))
        await fallback.close()

    fill(WEB_FORM)
    asyncio.run(spill())
    assert said in relay("status").stdout


def test_status_says_that_the_spill_cannot_be_read(here):
    fill(WEB_FORM)
    (here / "data/relay.db.spill").mkdir()
    said = relay("status").stdout
    assert "relay.db.spill holds cannot be delivered so far" in said


def test_check_online_asks_each_sink(here):
    plugin = """
import relay
class Sad(relay.Sink):
    async def send(self, delivery): ...
    async def check(self):
        return ["the token has expired"]
class Broken(Sad):
    async def check(self):
        raise KeyError("x")
class Leaving(Sad):
    async def check(self):
        raise SystemExit(0)
class Vague(Sad):
    async def check(self):
        return None
class Brief(Sad):
    async def check(self):
        return "no field"
class Slow(Sad):
    async def check(self):
        return [relay.Notice("an index would be faster")]
@relay.hookimpl
def register_sinks(register):
    register("sad", Sad)
    register("broken", Broken)
    register("leaving", Leaving)
    register("vague", Vague)
    register("brief", Brief)
    register("slow", Slow)
"""
    (here / "plugins").mkdir()
    (here / "plugins" / "sad.py").write_text(plugin)
    with (here / "relay.yaml").open("a") as file:
        for name in ("sad", "broken", "leaving", "vague", "brief", "slow"):
            file.write(f"  {name}: {{plugin: {name}}}\n")
    lines = relay("check", "--online", status=1).stdout.splitlines()[1:]
    assert lines == [
        "archive: well",
        "crm: well",
        "sad: the token has expired",
        "broken: KeyError: 'x'",
        "leaving: PluginExit: SystemExit",
        "vague: well",
        "brief: no field",
        "slow: well",
        "slow: notice: an index would be faster",
    ]


def test_a_notice_is_no_reason_to_fail(here):
    plugin = """
import relay
class Slow(relay.Sink):
    async def send(self, delivery): ...
    async def check(self):
        return [relay.Notice("an index would be faster")]
@relay.hookimpl
def register_sinks(register):
    register("slow", Slow)
"""
    (here / "plugins").mkdir()
    (here / "plugins" / "slow.py").write_text(plugin)
    with (here / "relay.yaml").open("a") as file:
        file.write("  slow: {plugin: slow}\n")
    assert "slow: notice: an index would be faster" in relay("check", "--online").stdout


PICKY = """
import relay
class Picky(relay.Sink):
    async def send(self, delivery):
        pass
    async def check(self):
        notice = relay.Notice(f"map: {dict(self.constants)}")
        return [notice, relay.Mistake("costs a value")] if "bad" in self.constants else [notice]
@relay.hookimpl
def register_sinks(register):
    register("picky", Picky)
"""


@pytest.mark.parametrize(("name", "status"), [("good", 0), ("bad", 1)])
def test_a_mistake_fails_the_check_and_a_sink_knows_the_constants_of_its_map(here, name, status):
    (here / "plugins").mkdir()
    (here / "plugins" / "picky.py").write_text(PICKY)
    with (here / "relay.yaml").open("a") as file:
        file.write(f"  picky: {{plugin: picky, map: {{{name}: Web, id: '{{{{ id }}}}'}}}}\n")
    told = relay("check", "--online", status=status).stdout.splitlines()
    assert f"picky: notice: map: {{'{name}': 'Web'}}" in told
    assert ("picky: costs a value" in told) == bool(status)
    levels = {("sink picky", "warning"), ("sink picky", "problem" if status else "ok")}
    found = json.loads(relay("doctor", "--json", status=1).stdout)
    assert {
        (each["subject"], each["level"]) for each in found if "picky" in each["subject"]
    } == levels


def test_status_has_the_shape_that_programs_rely_on(here):
    fill(WEB_FORM, POLL)
    assert json.loads(relay("status", "--json").stdout) == {
        "events": 2,
        "quarantine": 0,
        "spill": 0,
        "spill_trouble": "",
        "refusal": "",
        "sinks": {
            "archive": {"state": "not running", "pending": 2, "delivered": 0, "dead": 0},
            "crm": {"state": "not running", "pending": 1, "delivered": 0, "dead": 0},
        },
        "configuration": {"state": "current", "problems": [], "warnings": []},
    }


def test_empty_states_say_what_to_do_next(here):
    assert "relay send" in relay("status").stdout
    assert "relay send" in relay("events", "list").stdout
    assert "relay status" in relay("dead", "list").stdout
    assert "no sink nope" in relay("dead", "list", "--sink", "nope", status=1).stderr
    assert "understood" in relay("quarantine", "list").stdout


def test_events_are_shown_with_the_last_four_digits_only(here):
    made = fill(WEB_FORM, POLL)
    texts = [
        relay("events", "list").stdout,
        relay("events", "show", made.events[0]).stdout,
        relay("events", "tail").stdout,
        relay("preview", "--event", made.events[0]).stdout,
        relay("replay", "--sink", "crm", "--since", "1h", "--dry-run").stdout,
    ]
    for text in texts:
        assert "…1212" in text
        assert not any(number in text for number in NUMBERS)


def test_a_number_texted_as_a_keyword_is_masked_too(here):
    made = fill(b"mobile=2125551213&shortcode=84700&key=212-555-0123&msg=x&smsid=1")
    for text in (relay("events", "list").stdout, relay("events", "tail").stdout):
        assert "84700/…0123" in text
    shown = relay("events", "show", made.events[0]).stdout
    assert "84700/…0123" in shown.partition("{")[0]
    fill(WEB_FORM.replace(b"JOIN", b"99"))
    assert "84700/99" in relay("events", "list").stdout


def test_json_output_is_an_array_an_object_or_lines(here):
    made = fill(WEB_FORM, POLL, quarantined=[b"mobile=1"])
    assert [each["id"] for each in json.loads(relay("events", "list", "--json").stdout)] == (
        made.events[::-1]
    )
    shown = json.loads(relay("events", "show", made.events[0], "--json").stdout)
    assert shown["data"]["mobile"] == "+12125551212"
    lines = relay("events", "tail", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == made.events
    (kept,) = json.loads(relay("quarantine", "list", "--json").stdout)
    assert kept["id"] == made.quarantined[0]
    shown = json.loads(relay("quarantine", "show", kept["id"], "--json").stdout)
    assert shown["callback"]["query"] == "mobile=1"
    assert json.loads(relay("dead", "list", "--json").stdout) == []
    assert [each["name"] for each in json.loads(relay("sinks", "list", "--json").stdout)] == [
        "archive",
        "crm",
    ]
    assert "csv" in [each["name"] for each in json.loads(relay("plugins", "list", "--json").stdout)]


def test_tail_shows_as_many_events_as_there_are_or_were_asked_for(here):
    fill(*[WEB_FORM] * 7)
    for asked, shown in ((0, 0), (3, 3), (10, 7)):
        assert len(relay("events", "tail", "-n", str(asked)).stdout.splitlines()) == shown


def test_a_table_does_not_let_a_callback_move_the_cursor(here):
    fill(WEB_FORM.replace(b"JOIN", b"%1B%5B2J%5Bbold%5D"))
    text = relay("events", "list").stdout
    assert "\x1b" not in text
    assert "[bold]" in text


def test_dead_deliveries_are_replayed_by_event_or_all_at_once(here):
    made = fill(WEB_FORM, WEB_FORM.replace(b"1212", b"1214"), dead="crm")
    assert "no field for …1212" in relay("dead", "list").stdout
    assert "no field for …1212" in relay("events", "show", made.events[0]).stdout
    relay("dead", "replay", status=2)
    assert "1 delivery on the way" in relay("dead", "replay", made.events[0]).stdout
    assert "1 delivery on the way" in relay("dead", "replay", "--all").stdout
    assert "0 deliveries" in relay("dead", "replay", "--all").stdout
    relay("dead", "replay", made.events[0], status=1)


def test_dead_deliveries_are_discarded_after_a_question(here):
    fill(WEB_FORM, dead="crm")
    relay("dead", "discard", "--all", stdin="n\n", status=1)
    assert "1 delivery discarded" in relay("dead", "discard", "--all", "--yes").stdout


def test_quarantine_is_shown_masked_and_released_or_kept(here):
    unnamed = WEB_FORM.replace(b"mobile", b"handset")
    kept = fill(quarantined=[unnamed, unnamed]).quarantined
    text = relay("quarantine", "show", kept[0]).stdout
    assert "…1212" in text
    assert not any(number in text for number in NUMBERS)
    refused = relay("quarantine", "release", "--all", status=1)
    assert "0 callbacks released, 2 not" in refused.stdout
    assert "`relay quarantine discard ID` deletes it" in refused.stderr
    text = (here / "relay.yaml").read_text()
    (here / "relay.yaml").write_text(text.replace("US}", "US, rename: {handset: mobile}}"))
    dry = relay("quarantine", "release", kept[0], "--dry-run").stdout
    assert '"Mobile": "…1212"' in dry
    assert "2 callbacks released, 0 not" in relay("quarantine", "release", "--all").stdout
    assert json.loads(relay("status", "--json").stdout)["events"] == 2


PACKED = gzip.compress(WEB_FORM + b"&msg=caf\xe9")
POSTED = RawCallback(
    "sumotext",
    "POST",
    b"a=\xe9",
    "application/x-www-form-urlencoded",
    PACKED,
    1_800_000_000_000_000,
    encoding="gzip",
)


def test_an_event_and_a_callback_in_quarantine_are_shown_with_their_raw_bytes(here):
    broken = POSTED._replace(body=b'{"mobile": "2125551212",}\n\x00\xff', encoding="")
    made = fill(POSTED, quarantined=[POSTED, broken])
    shown = {
        "event": ("events", "show", made.events[0]),
        "callback": ("quarantine", "show", made.quarantined[0]),
    }
    for name, command in shown.items():
        text = relay(*command).stdout
        assert "content_encoding  gzip" in text, name
        assert "application/x-www-form-urlencoded" in text
        assert re.search(r"^query +a=\\xe9$", text, re.MULTILINE)
        assert re.search(r"^body +\\x1f\\x8b\\x08", text, re.MULTILINE)
        assert re.search(r"^text .*mobile=…1212&.*msg=café$", text, re.MULTILINE)
        assert not any(number in text for number in NUMBERS)
        found = json.loads(relay(*command, "--json").stdout)["callback"]
        assert base64.b64decode(found["raw"]["body"]) == PACKED
        assert base64.b64decode(found["raw"]["query"]) == b"a=\xe9"
        assert (found["content_encoding"], found["body"][-8:]) == ("gzip", "msg=café")
        assert ["msg", "café"] in found["parameters"]
    text = relay("quarantine", "show", made.quarantined[1]).stdout
    assert r'{"mobile": "…1212",}\n\x00\xff' in text
    found = json.loads(relay("quarantine", "show", made.quarantined[1], "--json").stdout)
    assert base64.b64decode(found["callback"]["raw"]["body"]) == broken.body


def test_of_a_long_body_the_beginning_is_shown(here):
    long = POSTED._replace(body=b"x" * 5000, encoding="")
    kept = fill(quarantined=[long]).quarantined
    text = relay("quarantine", "show", kept[0]).stdout
    assert "x" * 2000 + " … and 3000 more: see --json" in text
    assert "x" * 2001 not in text.partition("Parameter")[0]


def test_quarantine_is_discarded_after_a_question(here):
    kept = fill(quarantined=[b"mobile=1", b"mobile=2"]).quarantined
    relay("quarantine", "discard", "--all", stdin="n\n", status=1)
    assert "1 callback discarded" in relay("quarantine", "discard", kept[0], "-y").stdout
    assert "1 callback discarded" in relay("quarantine", "discard", "--all", "-y").stdout


def test_replay_makes_deliveries_in_a_time(here):
    fill(WEB_FORM, POLL)
    relay("replay", "--sink", "crm", status=2)
    assert "No events" in relay("replay", "--sink", "crm", "--until", "1h").stdout
    done = json.loads(relay("replay", "--sink", "crm", "--since", "1h", "--json").stdout)
    assert done == {"made": 0, "skipped": 1}
    dry = relay("replay", "--sink", "crm", "--since", "1h", "--dry-run", "--json").stdout
    assert json.loads(dry)[0]["record"] == {"Mobile": "+12125551212", "Name": "Bill"}
    new = relay("replay", "--sink", "crm", "--since", "1h", "--as-new").stdout
    assert "1 event on the way to crm" in new
    assert json.loads(relay("status", "--json").stdout)["events"] == 3


def test_sinks_are_paused_and_resumed(here):
    relay("sinks", "pause", "crm", "--reason", "house move")
    text = relay("status").stdout
    assert "house move" in text
    assert "relay sinks resume" in text
    assert relay("sinks", "resume", "crm").stdout.startswith("crm goes on when the relay runs")
    listed = relay("sinks", "list").stdout
    assert "paused" not in listed
    assert listed.count("not running") == 2
    assert "known: archive, crm" in relay("sinks", "pause", "cmr", status=1).stderr


def test_preview_shows_what_each_sink_would_get(here):
    previews = json.loads(relay("preview", "web_form", "Name=Bill", "--json").stdout)["sinks"]
    assert previews[1]["record"] == {"Mobile": "+12125550123", "Name": "Bill"}
    url = f"/callbacks/sumotext?{POLL.decode()}"
    assert "crm: nothing, as `when` does not match" in relay("preview", url).stdout
    assert not (here / "data").exists()
    relay("preview", status=2)
    relay("preview", "nonsense", status=2)
    assert "quarantine" in relay("preview", "/x?mobile=1", status=1).stderr
    assert "no URL" in relay("preview", "http://[x/?mobile=1", status=2).stderr


def test_a_number_is_never_an_argument(here):
    for command in ("send", "preview"):
        for name in ("mobile", "Mo bile"):
            result = relay(command, "web_form", f"{name}=2125551212", status=2)
            assert "standard input" in result.stderr
            assert "2125551212" not in result.output


def test_send_says_when_it_does_not_know_the_token(here):
    """The relay has it from its own environment; sent unfilled, it would only be a wrong one."""
    text = (here / "relay.yaml").read_text()
    (here / "relay.yaml").write_text(text.replace("first-token, next-token", "'${TOKEN}'"))
    result = relay("send", "poll", "--source", "second", status=1)
    assert "${TOKEN} is not known here" in result.stderr


def test_send_says_when_nothing_listens(here):
    assert "is the relay running?" in relay("send", "poll", stdin="\n", status=1).stderr


def test_a_plugin_begun_by_the_command_loads(here):
    relay("plugins", "new", "my_sink")
    assert "my_sink" in relay("plugins", "list").stdout
    relay("plugins", "new", "my_sink", status=1)
    relay("plugins", "new", "My Sink", status=2)


def test_a_plugin_is_not_begun_under_a_name_that_is_taken(here):
    assert "there is a plugin csv already" in relay("plugins", "new", "csv", status=1).stderr
    assert not (here / "plugins").exists()


def settings(here, more, old=""):
    """Have relay.yaml say more, or something else."""
    text = (here / "relay.yaml").read_text()
    (here / "relay.yaml").write_text(text.replace(old, more) if old else text + more)


def test_a_plugin_is_begun_in_the_folder_that_the_settings_name(here):
    settings(here, "\nplugins: [first, second/inner]\n")
    (here / "first").mkdir()
    said = relay("plugins", "new", "my_sink").stdout
    assert f"{here / 'second/inner/my_sink.py'} is a plugin that works" in said
    assert not (here / "plugins").exists()
    assert "my_sink" in relay("plugins", "list").stdout


def test_a_plugin_is_begun_where_the_settings_already_name_it(here):
    settings(here, "\n  mine: {plugin: my_sink}\n")
    relay("plugins", "new", "my_sink")
    assert "my_sink" in relay("plugins", "list").stdout
    assert "options.url: is missing" in relay("check", status=78).stderr


def test_the_list_names_a_plugin_that_does_not_load(here):
    (here / "plugins").mkdir()
    (here / "plugins/broken.py").write_text("import nothing_of_that_name\n")
    listed = relay("plugins", "list", status=78)
    assert "csv" in listed.stdout
    assert "broken.py:1: ModuleNotFoundError" in listed.stderr


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ("plugins: []", 1, "names no folder under `plugins:`"),
        ("plugins: ['${DIR}']", 78, "${DIR} is not set in the environment"),
        ("plugins: [", 78, "is not YAML"),
    ],
)
def test_a_plugin_is_not_begun_where_the_settings_say_no_folder(here, more, status, said):
    settings(here, f"\n{more}\n")
    assert said in relay("plugins", "new", "my_sink", status=status).stderr
    assert list(here.rglob("my_sink.py")) == []


def test_a_plugin_is_not_begun_beside_a_package_of_its_name(here):
    (here / "plugins/my_sink").mkdir(parents=True)
    assert "is there already" in relay("plugins", "new", "my_sink", status=1).stderr


def test_schema_is_a_json_schema(here):
    assert "$schema" in json.loads(relay("schema").stdout)


def test_a_store_in_other_hands_is_reported_in_a_sentence(here, monkeypatch):
    monkeypatch.setattr(client, "PAUSE", 0.0)

    async def held():
        store = await SqliteStore.open(loader.load(Path("relay.yaml"), {}).store)
        try:
            return await asyncio.to_thread(relay, "status", status=1)
        finally:
            await store.close()

    assert "another process holds the store" in asyncio.run(held()).stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", 1_800_000_000 - 7200),
        ("999999999999d", 0),
        ("2026-11-23", 1795410000),
        ("2026-11-23T12:00", 1795453200),
        ("2026-11-23T12:00:00Z", 1795435200),
    ],
)
def test_moments_are_of_the_configured_zone_or_ago(text, expected):
    zone = loader.ZoneInfo("America/New_York")
    assert parse_time(text)(zone, 1_800_000_000.0) == expected * 1_000_000


def test_check_does_not_need_the_store(here, monkeypatch):
    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(client, "has_store", forbidden)
    checked = relay("check")
    assert "is right" in checked.stdout
    assert "was not looked at" in checked.stderr


def test_a_moment_that_is_none_is_wrong_usage(here):
    assert "'soon' is neither" in relay("events", "list", "--since", "soon", status=2).stderr


def test_numbers_are_masked_however_they_are_written():
    assert mask("+12125551212") == "…1212"
    record = {"a": "+12125551212", "b": ["(212) 555-1212", 2125551212, "x"], "c": "1-212-555-1212"}
    assert mask_in(record, "+12125551212") == {
        "a": "…1212",
        "b": ["(…1212", "…1212", "x"],
        "c": "…1212",
    }
    assert mask_all("call 212-555-1212 or 84700") == "call …1212 or 84700"
    assert mask_all("192.168.100.100 refuses 212.555.1212") == "192.168.100.100 refuses …1212"


def test_what_is_not_printable_is_replaced():
    assert printable("a\x1b[2Jb\nc") == "a�[2Jb\nc"


def test_logs_are_json_lines_without_what_an_exception_says():
    stream = StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.set_up(stream=stream)
        try:
            int("2125551212?")
        except ValueError:
            logging.getLogger("relay.test").exception("it failed")
    finally:
        root.handlers[:], root.level = before
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"], line["message"]) == ("error", "relay.test", "it failed")
    assert line["error"].startswith("ValueError; ")
    assert "2125551212" not in stream.getvalue()


@contextlib.contextmanager
def service(here):
    """`relay run` as a process; its standard error is in relay.log."""
    with (here / "relay.log").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay.cli", "run"], stderr=stderr, env=ENVIRONMENT
        )
        try:
            wait_for(lambda: "callbacks are taken" in (here / "relay.log").read_text(), process)
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(condition, process=None, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the service ended"
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def command(*arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "relay.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=ENVIRONMENT,
    )


def delivered(sink):
    return json.loads(relay("status", "--json").stdout)["sinks"][sink]["delivered"]


def test_send_says_that_what_answers_is_no_relay(here):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    port = loader.load(Path("relay.yaml"), {}, fill=False).server.listen.port
    with http.server.HTTPServer(("127.0.0.1", port), Other) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        assert "is no relay" in relay("send", "poll", status=1).stderr
        answering.join()


UNMADE = """
import relay


class Unmade(relay.Sink):
    def __init__(self, *args, **named):
        raise ValueError("no luck")

    async def send(self, delivery):
        pass


@relay.hookimpl
def register_sinks(register):
    register("unmade", Unmade)
"""
STUBBORN = """
import asyncio, time, relay

class Stubborn(relay.Sink):
    async def send(self, delivery):
        sleeping = asyncio.to_thread(time.sleep, 60)
        while True:
            try:
                await asyncio.shield(sleeping)
            except asyncio.CancelledError:
                sleeping = asyncio.sleep(60)

    async def close(self):
        await asyncio.sleep(60)

@relay.hookimpl
def register_sinks(register):
    register("stubborn", Stubborn)
"""


@pytest.mark.parametrize("name", ["../status", "a/b", "a?b=c#d", "a\nb", "%2e%2e/sinks"])
def test_what_is_typed_for_a_name_leads_nowhere_else(here, name):
    for command in (
        ("events", "show"),
        ("quarantine", "show"),
        ("preview", "--event"),
        ("sinks", "pause"),
        ("dead", "replay"),
    ):
        assert "Error: " in relay(*command, name, status=1).stderr


def test_a_plugin_that_does_not_end_does_not_keep_the_process(here):
    (here / "plugins").mkdir(exist_ok=True)
    (here / "plugins" / "stubborn.py").write_text(STUBBORN)
    with (here / "relay.yaml").open("a") as file:
        file.write("  stubborn: {plugin: stubborn}\n")
    with service(here) as process:
        assert command("send", "poll").returncode == 0
        wait_for(lambda: delivered("archive") == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(12) == 0
    assert "nothing is lost" in (here / "relay.log").read_text()
    pending = json.loads(command("status", "--json").stdout)["sinks"]["stubborn"]["pending"]
    assert pending == 1


def test_what_is_no_certificate_is_said_before_a_start(here):
    for name in ("cert.pem", "key.pem"):
        (here / name).write_text("nothing of the kind")
    yaml = (here / "relay.yaml").read_text()
    (here / "relay.yaml").write_text(
        yaml.replace("server: {", "server: {tls: {cert: cert.pem, key: key.pem}, ")
    )
    for subcommand in ("check", "run"):
        failed = command(subcommand)
        assert failed.returncode == 1
        assert "are no certificate with its key" in failed.stderr
        assert "Traceback" not in failed.stderr


def test_a_plugin_whose_sink_cannot_be_made_is_named(here):
    (here / "plugins").mkdir(exist_ok=True)
    (here / "plugins" / "unmade.py").write_text(UNMADE)
    with (here / "relay.yaml").open("a") as file:
        file.write("  unmade: {plugin: unmade}\n")
    for arguments in (("run",), ("check", "--online")):
        failed = command(*arguments)
        assert failed.returncode == 78
        assert "the plugin unmade cannot make it: ValueError: no luck" in (
            failed.stderr + failed.stdout
        )
        assert "Traceback" not in failed.stderr


def test_the_commands_work_beside_a_running_service(here):
    with service(here) as process:
        sent = relay("send", "web_form", "Name=Bill", "--json", stdin="2125551212\n")
        assert json.loads(sent.stdout)["type"] == "com.sumotext.web_form"
        relay("send", "poll", "--source", "second", "--post")
        wait_for(lambda: delivered("archive") == 2)
        with (here / "data" / "events.csv").open() as file:
            assert [row["mobile"] for row in csv.DictReader(file)] == [
                "+12125551212",
                "+12125550123",
            ]
        relay("sinks", "pause", "crm")
        done = relay("replay", "--sink", "crm", "--since", "1h", "--as-new")
        assert "1 event on the way" in done.stdout, done.stderr
        crm = json.loads(relay("status", "--json").stdout)["sinks"]["crm"]
        assert (crm["state"], crm["pending"]) == ("paused", 1)
        assert relay("sinks", "resume", "crm").stdout == "crm goes on.\n"
        wait_for(lambda: delivered("crm") == 2)
        (here / "relay.yaml").write_text((here / "relay.yaml").read_text() + "# mended\n")
        assert "has changed since: `relay reload`" in relay("sinks", "resume", "crm").stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    log_text = (here / "relay.log").read_text()
    assert not any(number in log_text for number in NUMBERS)
    assert relay("status").stdout.startswith("3 events")


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_the_help_of_a_group_cuts_no_sentence(group):
    said = " ".join(CliRunner().invoke(main, [group.name, "--help"]).stdout.split())
    for command in group.commands.values():
        assert f" {command.name} {command.get_short_help_str(1000)}" in said


def test_events_tail_follows_the_service(here):
    with service(here):
        tail = subprocess.Popen(
            [sys.executable, "-m", "relay.cli", "events", "tail", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        try:
            time.sleep(1.5)
            relay("send", "text_4_info")
            assert json.loads(tail.stdout.readline())["type"] == "com.sumotext.text_4_info"
            tail.send_signal(signal.SIGINT)
            assert tail.wait(10) == 0
        finally:
            tail.kill()
            tail.wait()
            tail.stdout.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user is root's")
def test_root_acts_as_the_owner_of_the_store():
    # Neither tmp_path, whose parents are closed to other users, nor a whole command, as the
    # interpreter itself may lie where only root can read.
    code = (
        "import sys, pathlib; from relay.cli.client import become_owner; path ="
        " pathlib.Path(sys.argv[1]); become_owner(path / 'relay.db'); (path / 'made').touch()"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        subprocess.run([sys.executable, "-c", code, folder], check=True, env=ENVIRONMENT)
        assert (Path(folder) / "made").stat().st_uid == 65534
