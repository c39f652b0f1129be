"""The metrics: named as Prometheus wants it, and true of what happened."""

import re
import shutil
import subprocess

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from relaying import relaying
from stubs.receiver import Receiver, status
from watching import ago, readings

from relay.delivery.gate import QuotaUse, SinkStatus
from relay.monitoring.metrics import FACTS, exposition
from relay.store import BacklogAge

UNITS = ("_seconds", "_bytes", "_ratio")
FOREIGN_UNITS = re.compile(r"_(ms|milliseconds|minutes|hours|kb|mb|kilobytes|percent)(_|$)")


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


@pytest.fixture(scope="module")
def text():
    return exposition(readings()).decode()


@pytest.fixture(scope="module")
def found(text):
    return families(text)


def sample(families, name, **labels):
    """The one sample of this name and these labels."""
    samples = [each for family in families.values() for each in family.samples]
    (value,) = [each.value for each in samples if (each.name, each.labels) == (name, labels)]
    return value


# names


def test_every_name_is_the_relays_or_the_process(found):
    assert found
    for name in found:
        assert re.fullmatch(r"(relay|process)(_[a-z]+)+", name), name


def test_every_metric_has_a_sample_and_says_what_it_is(found):
    for name, family in found.items():
        assert family.samples, name
        assert family.documentation.endswith("."), name


def test_counters_end_in_total_and_nothing_else_does(text):
    """The parser strips the ending, so it is looked for in the text."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, kind in types.items():
        assert name.endswith("_total") == (kind == "counter"), name


def test_units_are_base_units_and_stand_at_the_end(found):
    for name in found:
        assert not FOREIGN_UNITS.search(name), name
        for unit in UNITS:
            assert unit not in name.removesuffix(unit).removesuffix("_max"), name


def test_a_histogram_is_in_seconds_or_counts_pieces(found):
    histograms = [name for name, family in found.items() if family.type == "histogram"]
    assert len(histograms) == 5
    for name in histograms:
        assert name.endswith(("_seconds", "_size")), name


def test_no_label_repeats_what_the_name_says_and_none_is_odd(found):
    known = {"source", "kind", "outcome", "sink", "state", "status", "le", "version"}
    for family in found.values():
        assert {label for each in family.samples for label in each.labels} <= known


def test_promtool_finds_nothing_to_complain_of(text):
    if not (promtool := shutil.which("promtool")):
        pytest.skip("promtool is not here; Debian has it in the package prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("process_")]
    assert complaints == []


# values


def test_ages_are_those_of_the_oldest_and_nought_without_any(found):
    age, opt_out = "relay_sink_oldest_pending_age_seconds", "relay_sink_oldest_opt_out_age_seconds"
    assert sample(found, age, sink="crm") == 120
    assert sample(found, opt_out, sink="crm") == 30
    assert sample(found, opt_out, sink="gone") == 0


def test_a_clock_that_was_set_back_makes_no_age_negative():
    found = families(exposition(readings(waits={"crm": BacklogAge(ago(-3600))})).decode())
    assert sample(found, "relay_sink_oldest_pending_age_seconds", sink="crm") == 0


def test_facts_that_nobody_gives_have_no_metric():
    found = families(exposition(readings(facts={})).decode())
    assert not set(found) & set(FACTS)


def test_a_page_does_not_say_since_when_it_counts(text):
    """prometheus-client would add a series for each counter and histogram."""
    assert "_created" not in text


def test_before_the_first_sink_the_metrics_of_sinks_are_described_all_the_same():
    text = exposition(readings(deliveries={})).decode()
    assert "# TYPE relay_delivery_attempts_total counter\n" in text
    assert "# TYPE relay_delivery_seconds histogram\n" in text


# the whole relay


async def test_what_happened_is_what_is_counted(tmp_path):
    sink = {"plugin": "webhook", "concurrency": 1}
    async with Receiver() as receiver:
        receiver.then(status(503), status(400))
        options = {"options": {"url": receiver.url}}
        async with relaying(tmp_path, sink | options) as relay:
            first = await relay.send(1)
            await relay.reached(dead=1)
            await relay.send(2)
            await relay.reached(delivered=1, dead=1)
            repeat = {"mobile": "2125550001", "smsid": "m1", "key": "JOIN", "msg": "hello"}
            async with httpx.AsyncClient(trust_env=False, verify=False) as http:
                again = await http.get(relay._url, params=repeat)
                assert again.json()["id"] == first
                other = await http.get(relay._url, params=repeat | {"msg": "x"})
                assert other.json()["id"] != first
                await relay.reached(delivered=2, dead=1)
                assert (await http.get(relay._url, params={"x": "1"})).status_code == 422
                admin = relay._running.inner[0].address
                answer = await http.get(f"http://127.0.0.1:{admin[1]}/metrics")
    found = families(answer.text)
    callbacks = {"source": "sumotext", "kind": "message"}
    assert sample(found, "relay_callbacks_total", outcome="accepted", **callbacks) == 3
    assert sample(found, "relay_callbacks_total", outcome="repeated", **callbacks) == 1
    callbacks["kind"] = ""
    assert sample(found, "relay_callbacks_total", outcome="quarantined", **callbacks) == 1
    assert sample(found, "relay_acknowledgement_seconds_count", source="sumotext") == 4
    attempts = "relay_delivery_attempts_total"
    assert sample(found, attempts, sink="crm", outcome="retry") == 1
    assert sample(found, attempts, sink="crm", outcome="rejected") == 1
    assert sample(found, attempts, sink="crm", outcome="delivered") == 2
    assert sample(found, "relay_deliveries_total", sink="crm", outcome="delivered") == 2
    assert sample(found, "relay_deliveries_total", sink="crm", outcome="dead") == 1
    assert sample(found, "relay_delivery_seconds_count", sink="crm") == 2
    assert sample(found, "relay_delivery_attempt_seconds_count", sink="crm") == 4
    assert sample(found, "relay_sink_dead_deliveries", sink="crm") == 1
    assert sample(found, "relay_quarantined_callbacks") == 1
    assert sample(found, "relay_store_commit_size_count") >= 3
    assert sample(found, "relay_store_commit_seconds_sum") > 0
    assert sample(found, "relay_reused_message_ids_total", source="sumotext") == 1
    assert sample(found, "relay_store_writable") == 1
    assert 'relay_build_info{version="' in answer.text
    assert "5550001" not in answer.text


def test_a_quota_of_which_no_use_is_known_yet_has_no_ratio():
    state = SinkStatus("running", quota=QuotaUse(None, 10, 0.9))
    text = exposition(readings(states={"crm": state})).decode()
    assert "relay_sink_quota_used_ratio{" not in text
