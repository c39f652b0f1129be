"""What docs/operations.md says of watching the relay, and of its alerts, is so."""

import json
import re
from pathlib import Path

import click
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from watching import NOW, readings

from relay.alerts import notifiers as words
from relay.alerts.monitor import TRY_AGAIN
from relay.alerts.policy import MAX_DOUBLINGS, MIN_GAP, RESOLVE_AFTER, Alert, Notification
from relay.alerts.rules import Snapshot, conditions
from relay.cli import main
from relay.config import loader
from relay.config.model import AlertRules, Alerts
from relay.counters import OUTCOMES
from relay.monitoring.metrics import SINK_STATES, exposition

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/operations.md").read_text()


def section(title):
    return re.split("^## ", TEXT.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


WATCHING = section("Watching it")
ALERTS = section("Alerts")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "block", [each for each in blocks(WATCHING + ALERTS, "yaml") if "scrape_configs" not in each]
)
def test_each_block_of_settings_is_right(block, tmp_path):
    (tmp_path / "relay.yaml").write_text(block)
    loaded = loader.load(tmp_path / "relay.yaml", {})
    assert loaded.alerts != Alerts() or loaded.tracing is not None


def test_the_rules_are_shown_with_their_defaults():
    (shown,) = [each for each in blocks(ALERTS, "yaml") if "rules:" in each]
    shown = Alerts.model_validate(yaml.safe_load(shown)["alerts"])
    assert shown.rules.model_copy(update={"keyword_silent": {}}) == AlertRules()
    assert shown.repeat == Alerts().repeat == 4 * 3600


def test_every_rule_is_explained():
    rows = re.findall(r"^\| (`.*?) \|", ALERTS, re.MULTILINE)
    explained = set(re.findall(r"`(\w+)`", " ".join(rows)))
    facts = {
        "relay_store_writable": 0.0,
        "relay_spill_records": 1.0,
        "relay_configuration_valid": 0.0,
    }
    always = {each.rule for each in conditions(Snapshot(readings(facts=facts)), AlertRules())}
    assert explained == set(AlertRules.model_fields) | always


def test_the_times_of_the_text_are_those_of_the_policy():
    assert (RESOLVE_AFTER, MIN_GAP) == (300, 300)
    assert 2.5 * 3600 < RESOLVE_AFTER * 2**MAX_DOUBLINGS < 3 * 3600
    assert (TRY_AGAIN[0], TRY_AGAIN[-1]) == (30, 900)


def test_the_example_of_a_note_has_the_keys_that_a_note_has():
    (block,) = blocks(ALERTS, "json")
    alert = Alert("sink_paused", "crm", "The sink crm is paused: 401", NOW - 300, NOW)
    said = json.loads(words.payload(Notification(NOW, [alert], [], [])))
    shown = json.loads(block)
    said["data"]["host"] = shown["data"]["host"]
    said["text"] = shown["text"]
    assert said == shown


def test_every_metric_is_in_the_table_and_no_other():
    text = exposition(readings()).decode()
    known = {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name.startswith("relay_")
    }
    known = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known}
    rows = re.findall(r"^\| (`relay_.*?) \|", WATCHING, re.MULTILINE)
    assert set(re.findall(r"`(relay_\w+)`", " ".join(rows))) == known


def test_the_outcomes_and_states_of_the_table_are_real():
    (outcomes,) = re.findall(r"answers: (.*?), …", WATCHING)
    assert set(re.findall(r"`(\w+)`", outcomes)) <= {"accepted", "repeated", *OUTCOMES.values()}
    (states,) = re.findall(r"the state it is in: (.*?) \|", WATCHING)
    assert tuple(re.findall(r"`(\w+)`", states)) == SINK_STATES


def test_there_are_as_many_rules_for_prometheus_as_it_says():
    rules = yaml.safe_load((ROOT / "config/examples/prometheus-rules.yml").read_text())
    assert sum(len(group["rules"]) for group in rules["groups"]) == 17
    assert "seventeen alerts" in WATCHING


@pytest.mark.parametrize("path", re.findall(r"\]\((\.\./\S+?)\)", WATCHING + ALERTS))
def test_each_file_that_is_named_is_there(path):
    assert (ROOT / "docs" / path).resolve().is_file()


def test_the_command_that_is_named_is_one():
    assert "`relay alerts test`" in ALERTS
    group = main.get_command(click.Context(main), "alerts")
    assert group.get_command(click.Context(group), "test") is not None


def test_the_example_of_readyz_is_json_with_the_words_of_the_table():
    (block,) = blocks(WATCHING, "json")
    shown = json.loads(block)
    assert list(shown) == ["ready", "reasons", "store", "sinks"]
    assert f"| `{shown['store']['state']}` |" in WATCHING
