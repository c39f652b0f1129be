"""The last valid configuration: kept at each start, used in place of a relay.yaml that is wrong."""

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from relay.cli import main
from relay.config import last_good, last_good_file
from relay.config.loader import ConfigError, load

YAML = """
store: kept/relay.db
sources:
  sumotext: {country: US, tokens: ["${file:token}"]}
sinks:
  archive: {plugin: csv, options: {path: data/events.csv}}
  crm: {plugin: own, when: data.keyword == 'JOIN', options: {key: "${KEY}"}, batch: {size: 5}}
"""
OWN = """
import relay

class Options(relay.Options):
    key: str = ""

class Own(relay.Sink):
    Options = Options
    max_batch = 10

    async def send_batch(self, deliveries):
        return [relay.Delivered() for _ in deliveries]

@relay.hookimpl
def register_sinks(register):
    register("own", Own)
"""
ENVIRON = {"KEY": "a secret"}


@pytest.fixture
def path(tmp_path):
    """A relay.yaml that the relay has started with."""
    path = tmp_path / "relay.yaml"
    path.write_text(YAML)
    (tmp_path / "token").write_text("a-token-that-lets-in\n")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "own.py").write_text(OWN)
    (tmp_path / "kept").mkdir()
    last_good.keep(load(path, ENVIRON))
    return path


def kept(path):
    return path.parent / "kept" / "relay.db.valid.yaml"


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def last(path, environ=ENVIRON):
    """What is used in place of a relay.yaml that is wrong."""
    with pytest.raises(ConfigError) as wrong:
        load(path, environ)
    return last_good.load(path, environ, wrong.value, fill=True)


def held(config):
    return {name: sink.held for name, sink in config.sinks.items() if sink.held}


def test_it_is_kept_for_its_owner_alone_and_without_a_secret(path):
    assert stat.S_IMODE(kept(path).stat().st_mode) == 0o600
    text = kept(path).read_text()
    assert text.endswith(YAML)
    assert str(path) in text
    assert "a secret" not in text
    assert "a-token" not in text


def test_it_is_written_only_when_it_has_changed(path):
    before = kept(path).stat()
    last_good.keep(load(path, ENVIRON))
    assert kept(path).stat().st_ino == before.st_ino
    change(path, "US", "CA")
    last_good.keep(load(path, ENVIRON))
    assert kept(path).stat().st_ino != before.st_ino
    assert "country: CA" in kept(path).read_text()


def test_where_it_cannot_be_kept_nothing_fails(path, caplog):
    config = load(path, ENVIRON)
    kept(path).unlink()
    kept(path).mkdir()
    last_good.keep(config)
    assert "cannot be kept" in caplog.text


def test_the_unchanged_sinks_go_on_and_the_changed_one_is_held(path):
    change(path, "plugin: csv", "plugin: cvs")
    config = last(path)
    assert held(config) == {"archive": last_good.CHANGED}
    assert config.sinks["crm"].options.key == "a secret"
    assert config.sinks["crm"].batch.size == 5
    assert config.store == kept(path).with_name("relay.db")
    assert "cvs" in path.read_text()
    assert "plugin" in config.problems[0]


def test_what_is_no_yaml_changes_no_sink(path):
    path.write_text("store: kept/relay.db # here\nsinks: {: :\n")
    assert held(last(path)) == {}


def test_a_sink_that_has_gone_is_held_and_one_that_has_come_waits(path):
    change(path, "  archive: {", "  another: {")
    change(path, "country: US", "country: nowhere")
    config = last(path)
    assert held(config) == {"archive": last_good.GONE}
    assert list(config.sinks) == ["archive", "crm"]


def test_a_credential_that_has_gone_holds_the_one_sink_that_needs_it(path):
    config = last(path, {})
    assert list(held(config)) == ["crm"]
    assert "KEY" in held(config)["crm"]
    assert config.sinks["crm"].when is not None, "its deliveries are to be queued"


def test_a_plugin_that_is_broken_holds_the_sinks_that_it_makes(path):
    (path.parent / "plugins" / "own.py").write_text("import nothing_of_that_name")
    config = last(path)
    assert list(held(config)) == ["crm"]
    assert "nothing_of_that_name" in held(config)["crm"]


def test_a_token_that_cannot_be_read_lets_nobody_in(path):
    (path.parent / "token").unlink()
    (token,) = last(path).sources["sumotext"].tokens
    assert len(token.get_secret_value()) > 40
    assert "file:" not in token.get_secret_value()


def test_relative_paths_start_at_the_folder_of_relay_yaml(path):
    change(path, "US", "nowhere")
    config = last(path)
    assert config.path == path
    assert config.folder == path.parent


def test_it_is_found_by_the_state_directory_where_relay_yaml_does_not_tell(path, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    kept(path).rename(state / "relay.db.valid.yaml")
    path.write_text("nonsense")
    assert held(last(path, ENVIRON | {"STATE_DIRECTORY": str(state)})) == {}


def test_it_is_found_in_the_usual_folder(path, tmp_path):
    (tmp_path / "data").mkdir()
    kept(path).rename(tmp_path / "data" / "relay.db.valid.yaml")
    path.unlink()
    assert last(path).sinks


def test_that_of_another_relay_yaml_is_not_taken(path):
    other = path.with_name("other.yaml")
    other.write_text("store: kept/relay.db\nnonsense: 1")
    with pytest.raises(ConfigError, match="nonsense"):
        last(other)


def test_one_that_is_no_use_either_is_not_taken(path):
    kept(path).write_text(kept(path).read_text() + "\nwrong: 1\n")
    path.write_text("store: kept/relay.db\nnonsense: 1")
    with pytest.raises(ConfigError, match="nonsense"):
        last(path)


def test_without_one_what_is_wrong_is_raised(path):
    kept(path).unlink()
    path.write_text("nonsense: 1")
    with pytest.raises(ConfigError, match="nonsense"):
        last(path)


def test_a_sink_that_cannot_be_made_is_held_too(path):
    change(path, "US", "nowhere")
    config = last_good.holding(last(path), {"crm": "the plugin cannot make it"})
    assert held(config) == {"crm": "the plugin cannot make it"}


def test_it_is_not_kept_while_it_is_in_use(path):
    change(path, "US", "nowhere")
    config = last(path)
    kept(path).unlink()
    last_good.keep(config)
    assert not kept(path).exists()


def test_a_relative_name_is_the_same_relay_yaml(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    path.write_text("store: kept/relay.db\nnonsense: 1")
    assert os.fspath(last(Path("relay.yaml")).path) == "relay.yaml"


# rules that an earlier release did not have

CRM = """
sinks:
  crm:
    plugin: salesforce
    map: {LastName: Doe, Title: ""}
    options:
      login_url: https://acme.my.salesforce.com
      client_id: an-id
      client_secret: a-secret
      activity:
        object: Sms__c
        external_id: Key__c
        contact: Contact__r
        map: {Note__c: " "}
"""
MEND = "write null to clear the field, or leave the key out (an error from release 0.3.0 on)"
WARNINGS = [
    f"sinks.crm.map.Title: is a blank text: {MEND}",
    f"sinks.crm.options.activity.map.Note__c: is a blank text: {MEND}",
]


def keep_as_an_earlier_release_did(path):
    """Make the copy that a release without the rule had kept."""
    (path.parent / "data").mkdir(exist_ok=True)
    place = path.parent / "data" / "relay.db.valid.yaml"
    place.write_bytes(last_good_file.content(path, path.read_bytes()))


def without_lines(warnings):
    return [each.partition(": ")[2] for each in warnings]


def test_a_new_rule_is_a_warning_in_a_file_that_the_relay_ran_with(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(CRM)
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert len(refused.value.issues) == 2
    keep_as_an_earlier_release_did(path)
    config = load(path, {})
    assert without_lines(config.warnings) == WARNINGS
    assert config.sinks["crm"].held is None
    assert config.sinks["crm"].map.columns == ("LastName", "Title")
    assert config.sinks["crm"].options.activity.object == "Sms__c"


def test_a_new_rule_refuses_a_file_that_has_changed(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(CRM)
    keep_as_an_earlier_release_did(path)
    path.write_text(CRM + "# changed\n")
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert [str(each.line) for each in refused.value.issues] == ["5", "14"]


def test_a_new_rule_is_no_reason_against_the_last_valid_configuration(tmp_path):
    """The relay goes on with it, sinks and all, while relay.yaml is wrong by an old rule."""
    path = tmp_path / "relay.yaml"
    path.write_text(CRM)
    keep_as_an_earlier_release_did(path)
    path.write_text(CRM + "colour: red\n")
    config = last(path, {})
    assert without_lines(config.warnings) == WARNINGS
    assert config.sinks["crm"].held is None


def test_the_check_shows_the_warnings_and_calls_the_file_right(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(CRM)
    keep_as_an_earlier_release_did(path)
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert result.exit_code == 0
    assert "is right" in result.stdout
    assert result.stderr.count("Warning: ") == 2
    path.write_text(CRM + "# changed\n")
    assert CliRunner().invoke(main, ["check", "--config", str(path)]).exit_code == 78
