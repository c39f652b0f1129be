"""The Prometheus rules and the Grafana dashboard ask only for what the relay has."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from watching import readings

from relay.monitoring.metrics import exposition

PROMETHEUS_OWN = {"up": {"job", "instance"}}
SCRAPED = {"job", "instance"}
SELECTOR = re.compile(r"\b((?:relay|process)_\w+|up)\b(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture(scope="module")
def known():
    """The labels of every sample that the relay can have."""
    labels = dict(PROMETHEUS_OWN)
    for family in text_string_to_metric_families(exposition(readings()).decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set(SCRAPED)).update(sample.labels)
    return labels


@pytest.fixture(scope="module")
def rules(root):
    document = yaml.safe_load((root / "config/examples/prometheus-rules.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard(root):
    return json.loads((root / "config/examples/grafana-dashboard.json").read_text())


def queries(dashboard):
    return [query["expr"] for panel in dashboard["panels"] for query in panel.get("targets", ())]


def check(expression, known):
    """Every metric and label in it is there."""
    asked = SELECTOR.findall(expression)
    assert asked, expression
    labels = set()
    for name, selection in asked:
        assert name in known, f"{name} in {expression}"
        labels |= known[name]
        assert set(re.findall(r'(\w+) ?(?:=~|!~|!=|=)"', selection)) <= known[name], expression
    for names in GROUPING.findall(expression):
        assert set(names.replace(" ", "").split(",")) <= labels, expression


def test_the_check_finds_what_is_not_there(known):
    for wrong in ("relay_nothing", 'relay_spill_records{sink="x"}', "sum by (source) (up)"):
        with pytest.raises(AssertionError):
            check(wrong, known)


def test_every_rule_asks_for_what_there_is(rules, known):
    assert len(rules) >= 15
    for rule in rules:
        check(rule["expr"], known)


def test_every_rule_says_what_it_means_and_how_bad_it_is(rules):
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        used = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        assert set(used) <= {"instance", "sink", "source", "state"}


def test_every_query_of_the_dashboard_asks_for_what_there_is(dashboard, known):
    assert len(queries(dashboard)) >= 25
    for query in queries(dashboard):
        check(query, known)


def test_the_dashboard_names_no_data_source_of_somebody_elses(dashboard):
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert set(variables) == {"datasource", "instance", "sink"}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
    used = set(re.findall(r"\$(\w+)", " ".join(queries(dashboard))))
    assert used <= {*variables, "__rate_interval"}


def test_no_two_panels_stand_in_one_place(dashboard):
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_metric_of_the_relay_is_looked_at_by_somebody(rules, dashboard, known):
    texts = " ".join(queries(dashboard) + [rule["expr"] for rule in rules])
    texts += json.dumps(dashboard["templating"])
    families = {
        re.sub(r"_(bucket|count|sum|created)$", "", name)
        for name in known
        if name.startswith("relay_")
    }
    assert {name for name in families if name not in texts} == set()


# Prometheus' own opinion


@pytest.fixture
def promtool():
    if not (found := shutil.which("promtool")):
        pytest.skip("promtool is not here; Debian has it in the package prometheus")

    def run(*arguments):
        done = subprocess.run([found, *arguments], text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_prometheus_takes_the_rules(promtool, root):
    promtool("check", "rules", str(root / "config/examples/prometheus-rules.yml"))


def test_prometheus_takes_the_queries(promtool, dashboard, tmp_path):
    texts = [each.replace("$__rate_interval", "5m") for each in queries(dashboard)]
    recorded = [{"record": f"query:{number}", "expr": each} for number, each in enumerate(texts)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    promtool("check", "rules", str(file))


SERIES = {
    'relay_sink_oldest_opt_out_age_seconds{sink="crm"}': "0 300 601 900 0",
    'relay_sink_state{sink="crm",state="paused"}': "0 1+0x9",
    'relay_callbacks_total{source="s",kind="",outcome="not_stored"}': "0 0 0 2 2 2 2 2 2 2 2 2",
    'relay_deliveries_total{sink="crm",outcome="dead"}': "0 0 1 1x20",
    'up{job="relay",instance="a"}': "1 0 0 0 0",
}
TOLD = [
    ("RelayOptOutUndelivered", "2m", {"sink": "crm"}),
    ("RelayOptOutUndelivered", "4m", None),
    ("RelaySinkPaused", "5m", None),
    ("RelaySinkPaused", "6m", {"sink": "crm", "state": "paused"}),
    ("RelayRefusesCallbacks", "4m", {}),
    ("RelayDeliveriesDead", "1m", None),
    ("RelayDeliveriesDead", "2m", {"sink": "crm"}),
    ("RelayDeliveriesDead", "20m", None),
    ("RelayDown", "2m", None),
    ("RelayDown", "3m", {"job": "relay", "instance": "a"}),
]


def test_the_rules_fire_when_they_should(promtool, root, rules, tmp_path):
    severity = {rule["alert"]: rule["labels"] for rule in rules}
    told = [
        {
            "alertname": name,
            "eval_time": time,
            "exp_alerts": [] if labels is None else [{"exp_labels": labels | severity[name]}],
        }
        for name, time, labels in TOLD
    ]
    for test in told:  # promtool wants the texts, too
        for alert in test["exp_alerts"]:
            alert["exp_annotations"] = annotations(rules, test["alertname"], alert["exp_labels"])
    document = {
        "rule_files": [str(root / "config/examples/prometheus-rules.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in SERIES.items()
                ],
                "alert_rule_test": told,
            }
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(file))


def annotations(rules, name, labels):
    (rule,) = (each for each in rules if each["alert"] == name)
    summary = rule["annotations"]["summary"]
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], summary)
    return {"summary": text.replace("{{ $value | humanizeDuration }}", "10m 1s")}
