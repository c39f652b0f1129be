"""The hubspot sink against a strict account: what stands in it then, and for how many calls."""

import json
import re
import sys

import pytest
from hubspotsink import MAP, HubSpot, delivery, key, kinds, mobile, module, opened
from stubs.hubspot import HubSpotStub
from stubs.hubspot_schema import Field
from stubs.receiver import Receiver, status
from stubs.vendor import serving

import relay
from relay.delivery.plugin_calls import run_with_timeout

PARTS = ("ActivityOptions", "CustomEvent", "CustomObject", "Communication", "OAuth", "QuotaShare")


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


def paths(stub):
    """What was called, and how it was answered."""
    return [(call.path.split("/contacts")[-1], call.status) for call in stub.calls]


def contacts(stub, *names):
    """The contacts by their key; of each these properties."""
    return {
        each.get("sms_key"): tuple(each.get(name) for name in names) if names else each
        for each in stub.records("contacts")
    }


async def test_each_event_makes_or_changes_one_contact_and_says_which(stub):
    async with opened(stub.url) as sink:
        made = await sink.send_batch([delivery(1), delivery(2)])
        again = await sink.send_batch([delivery(2, {"firstname": "Bea"}), delivery(3)])
    assert contacts(stub, "firstname", "mobilephone") == {
        key(1): ("Ann 1", mobile(1)),
        key(2): ("Bea", mobile(2)),
        key(3): ("Ann 3", mobile(3)),
    }
    assert [each.reference for each in [*made, *again]] == ["501", "502", "502", "503"]
    assert paths(stub) == [("/batch/upsert", 200)] * 2


async def test_a_thousand_events_cost_ten_calls(stub):
    async with opened(stub.url) as sink:
        for start in range(0, 1000, 100):
            batch = [delivery(number) for number in range(start, start + 100)]
            assert set(kinds(await sink.send_batch(batch))) == {"Delivered"}
    assert len(stub.calls) == 10
    assert len(stub.records("contacts")) == 1000


async def test_what_is_sent_is_text_with_the_key_and_the_trace_of_each(stub):
    values = {"sms_opt_out": True, "sms_count": 3, "hobbies": ["golf", "chess"], "city": None}
    sent = delivery(1, values)
    async with opened(stub.url) as sink:
        (outcome,) = await sink.send_batch([sent])
    assert isinstance(outcome, relay.Delivered)
    (call,) = stub.calls
    (one,) = call.json()["inputs"]
    assert (one["id"], one["idProperty"], one["objectWriteTraceId"]) == (
        key(1),
        "sms_key",
        sent.id,
    )
    assert one["properties"]["sms_key"] == key(1)
    assert one["properties"]["city"] == ""
    kept = contacts(stub)[key(1)]
    assert (kept["sms_opt_out"], kept["sms_count"], kept["hobbies"]) == ("true", "3", "golf;chess")


@pytest.mark.parametrize("version", ["v3", "2026-09"])
async def test_both_versions_of_the_api_are_spoken(stub, version):
    async with opened(stub.url, api_version=version) as sink:
        assert kinds(await sink.send_batch([delivery(1)])) == ["Delivered"]
    assert version in stub.calls[0].path


async def test_results_without_traces_are_known_by_the_key(stub):
    stub.echo_traces = False
    async with opened(stub.url) as sink:
        outcomes = await sink.send_batch([delivery(number) for number in range(1, 21)])
    by_key = {each["sms_key"]: each["id"] for each in stub.records("contacts")}
    assert [each.reference for each in outcomes] == [by_key[key(n)] for n in range(1, 21)]


async def test_the_one_result_is_of_the_one_record_whatever_it_is_called():
    result = {"id": "501", "properties": {"sms_key": "(212) 555-0001"}, "new": True}
    async with Receiver() as receiver:
        receiver.then(status(200, body=json.dumps({"results": [result]}).encode()))
        receiver.then(status(200, body=b'{"results": [{"properties": {}}, null, 7]}'))
        async with opened(receiver.url.removesuffix("/hook")) as sink:
            assert await sink.send_batch([delivery(1)]) == [relay.Delivered("501")]
            assert kinds(await sink.send_batch([delivery(1)])) == ["Retry"]


async def test_a_test_event_is_not_sent_unless_asked_for(stub):
    async with opened(stub.url) as sink:
        assert kinds(await sink.send_batch([delivery(1, test=True)])) == ["Delivered"]
    assert not stub.calls
    async with opened(stub.url, test_events="send") as sink:
        await sink.send_batch([delivery(1, test=True)])
    assert len(stub.records("contacts")) == 1


async def test_what_is_stale_does_not_overwrite(stub):
    async with opened(stub.url) as sink:
        (outcome,) = await sink.send_batch([delivery(1, stale=True)])
    assert "stale" in outcome.reference
    assert not stub.calls


async def test_with_a_record_for_each_event_none_is_stale(stub):
    async with opened(stub.url, key="{{ id }}") as sink:
        await sink.send_batch([delivery(1), delivery(1, stale=True)])
    assert len(stub.records("contacts")) == 2


async def test_two_events_with_one_key_go_one_after_the_other(stub):
    first, second = delivery(1, {"city": "A"}), delivery(2, {"city": "B"})
    async with opened(stub.url, key="{{ data.keyword }}") as sink:
        outcomes = await sink.send_batch([first, second])
    assert kinds(outcomes) == ["Delivered"] * 2
    assert contacts(stub, "city") == {"JOIN": ("B",)}
    assert paths(stub) == [("/batch/upsert", 200)] * 2


@pytest.mark.parametrize("template", ["{{ data.nothing }}", "{{ data.fields.a.b.c }}"])
async def test_an_event_without_a_key_is_dead_and_says_so(stub, template):
    async with opened(stub.url, key=template) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, relay.Reject)
    assert outcome.reason.startswith("key: ")


async def test_without_a_map_it_pauses(stub):
    async with opened(stub.url, columns=None) as sink:
        with pytest.raises(relay.Pause, match="map is missing"):
            await sink.send_batch([delivery(1)])


def test_the_plugins_text_names_every_option():
    told = sys.modules[HubSpot.__module__].__doc__
    models = [HubSpot.Options, *(getattr(module("options"), name) for name in PARTS)]
    for model in models:
        for name in model.model_fields:
            assert re.search(rf"\b{name}:", told), name


# What goes wrong


@pytest.mark.parametrize("fault", ["drop_after_commit", "502_after_commit"])
async def test_what_was_written_before_the_connection_broke_is_not_written_twice(stub, fault):
    batch = [delivery(number) for number in range(1, 6)]
    stub.fault(fault)
    async with opened(stub.url) as sink:
        assert set(kinds(await sink.send_batch(batch))) == {"Retry"}
        assert len(stub.records("contacts")) == 5
        assert set(kinds(await sink.send_batch(batch))) == {"Delivered"}
    assert len(stub.records("contacts")) == 5
    assert stub.fired[fault] == 1


async def test_one_bad_record_among_a_hundred_harms_no_other(stub):
    batch = [delivery(number) for number in range(100)]
    batch[41] = delivery(41, {"email": "no address"})
    async with opened(stub.url, on_invalid="dead") as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes).count("Delivered") == 99
    assert isinstance(outcomes[41], relay.Reject)
    assert "INVALID_EMAIL email" in outcomes[41].reason
    assert "no address" not in outcomes[41].reason
    assert len(stub.records("contacts")) == 99
    assert paths(stub) == [("/batch/upsert", 207)]


@pytest.mark.parametrize("codes", [True, False])
async def test_a_batch_refused_as_a_whole_is_searched_where_the_answer_points(stub, codes):
    stub.multi_status, stub.error_codes = False, codes
    batch = [delivery(number) for number in range(100)]
    batch[41] = delivery(41, {"email": "no address"})
    async with opened(stub.url, on_invalid="dead") as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes).count("Delivered") == 99
    assert isinstance(outcomes[41], relay.Reject)
    assert len(stub.records("contacts")) == 99
    assert len(stub.calls) == 3


async def test_a_batch_refused_without_a_hint_is_halved_until_the_bad_record_is_alone(stub):
    stub.multi_status = False
    batch = [delivery(number) for number in range(100)]
    stub.fault_row("INVALID_DATE", id=key(41), count=50)
    async with opened(stub.url, on_invalid="dead") as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes).count("Delivered") == 99
    assert isinstance(outcomes[41], relay.Reject)
    assert len(stub.records("contacts")) == 99
    assert len(stub.calls) <= 16


async def test_where_each_record_is_refused_it_pauses_after_a_few_calls(stub):
    stub.multi_status = False
    stub.fault_answer(400, "VALIDATION_ERROR", "something new", count=1000)
    batch = [delivery(number) for number in range(100)]
    async with opened(stub.url, on_invalid="dead") as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes) == ["Reject"] * 5 + ["Pause"] * 95
    assert "each record is refused" in outcomes[-1].reason
    assert len(stub.calls) <= 20


@pytest.mark.parametrize("on_invalid", ["drop", "dead"])
@pytest.mark.parametrize("multi_status", [True, False])
async def test_what_people_type_pauses_nothing_however_many_do(stub, multi_status, on_invalid):
    stub.multi_status = multi_status
    stub.fields["contacts"]["lastname"] = Field(required=True)
    columns = (*MAP, "lastname")
    typed = [{"email": "no address"}, {"firstname": "https://x.example"}, {"lastname": ""}]
    typed = [{"lastname": "Doe"} | typed[n % 3] for n in range(18)]
    batch = [delivery(n, each) for n, each in enumerate(typed)]
    async with opened(stub.url, columns=columns, on_invalid=on_invalid) as sink:
        outcomes = await sink.send_batch(batch)
    refused = [each for each in outcomes if isinstance(each, relay.Reject)]
    assert len(refused) == (6 if on_invalid == "drop" else 18)
    assert kinds(outcomes).count("Pause") == kinds(outcomes).count("Retry") == 0
    assert {each.status for each in refused} == {None}, "five in a row pause where it has one"


async def test_a_search_for_bad_records_ends_before_the_sinks_time_does(stub):
    stub.multi_status, stub.latency = False, 0.1
    for number in range(0, 100, 7):
        stub.fault_row("UNHEARD_OF", id=key(number), count=100)
    batch = [delivery(number) for number in range(100)]
    async with opened(stub.url, timeout=2) as sink:
        outcomes = await run_with_timeout(2, sink.send_batch(batch))
    left = [each for each in outcomes if isinstance(each, relay.Retry)]
    assert {each.reason for each in left} == {"a refused batch was not searched to its end in time"}
    assert {kinds([each])[0] for each in outcomes} >= {"Retry"}


@pytest.mark.parametrize("code", ["SILENT", "SILENT_AFTER_COMMIT"])
async def test_a_record_in_neither_list_is_tried_again_and_never_taken_for_written(stub, code):
    batch = [delivery(1), delivery(2)]
    stub.fault_row(code, id=key(2))
    async with opened(stub.url) as sink:
        first = await sink.send_batch(batch)
        second = await sink.send_batch(batch)
    assert kinds(first) == ["Delivered", "Retry"]
    assert first[1].reason == "answered 2xx without a word about this record"
    assert kinds(second) == ["Delivered"] * 2
    assert len(stub.records("contacts")) == 2


async def test_an_empty_success_is_none(stub):
    stub.fault("empty")
    async with opened(stub.url) as sink:
        assert kinds(await sink.send_batch([delivery(1), delivery(2)])) == ["Retry"] * 2


async def test_an_error_that_names_nobody_is_searched_for(stub):
    stub.fault_row("NAMELESS", id=key(2))
    async with opened(stub.url) as sink:
        outcomes = await sink.send_batch([delivery(1), delivery(2), delivery(3)])
    assert kinds(outcomes) == ["Delivered", "Retry", "Delivered"]


async def test_one_error_for_several_records_is_of_each(stub):
    stub.merge_errors = True
    bad = {"email": "no address"}
    batch = [delivery(1), delivery(2, bad), delivery(3, bad)]
    async with opened(stub.url, on_invalid="dead") as sink:
        assert kinds(await sink.send_batch(batch)) == ["Delivered", "Reject", "Reject"]


@pytest.mark.parametrize("fault", ["401", "malformed_token", "expired", "scopes", "403"])
async def test_a_refused_key_pauses_with_what_to_do(stub, fault):
    stub.fault(fault)
    async with opened(stub.url) as sink:
        outcomes = await sink.send_batch([delivery(1), delivery(2)])
    assert kinds(outcomes) == ["Pause"] * 2
    assert "key" in outcomes[0].reason
    assert "pat-" not in outcomes[0].reason
    assert len(stub.calls) == 1


@pytest.mark.parametrize("fault", ["throttle", "throttle_old"])
async def test_throttled_the_whole_sink_waits(stub, fault):
    stub.retry_after = 7
    stub.fault(fault)
    async with opened(stub.url) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, relay.Retry)
    assert (outcome.after, outcome.status) == (7, 429)


async def test_the_days_end_pauses_and_says_what_to_do(stub):
    stub.api_used = stub.api_most
    async with opened(stub.url) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
        assert sink.quota.tight
    assert isinstance(outcome, relay.Pause)
    assert outcome.after == 900
    assert "midnight" in outcome.reason


@pytest.mark.parametrize(
    ("fault", "kind", "after"),
    [
        ("423", relay.Retry, 2),
        ("477", relay.Pause, 3600),
        ("500", relay.Retry, None),
        ("html", relay.Retry, None),
        ("garbage", relay.Retry, None),
        ("522", relay.Retry, 60),
        ("405", relay.Pause, None),
        ("414", relay.Reject, None),
        ("415", relay.Pause, None),
        ("path_not_found", relay.Pause, None),
        ("no_such_type", relay.Pause, None),
        ("non_unique", relay.Pause, None),
        ("409", relay.Retry, None),
    ],
)
async def test_what_an_answer_means_for_a_single_record(stub, fault, kind, after):
    stub.fault(fault)
    async with opened(stub.url) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, kind)
    assert outcome.after == after


@pytest.mark.parametrize("code", ["LOCKED", "RATE_LIMITS", "INTERNAL_ERROR"])
async def test_a_record_that_may_be_taken_later_is_tried_again(stub, code):
    stub.fault_row(code, id=key(2))
    async with opened(stub.url) as sink:
        assert kinds(await sink.send_batch([delivery(1), delivery(2)])) == ["Delivered", "Retry"]


async def test_no_answer_in_time_is_tried_again(stub):
    stub.fault("hang")
    async with opened(stub.url, timeout=0.2) as sink:
        assert kinds(await sink.send_batch([delivery(1)])) == ["Retry"]
