"""The salesforce sink against the stub: what stands in the org afterwards, in how many calls."""

import asyncio

import pytest
from salesforcesink import (
    ACTIVITY,
    connected,
    data_calls,
    delivered,
    deliveries,
    delivery,
    key,
    mobile,
)
from stubs.salesforce import SalesforceStub

import relay

UPSERT = "PATCH composite/sobjects/Contact/SMS_Key__c"


async def test_a_batch_is_one_call_and_one_contact_each():
    async with connected() as (stub, sink):
        outcomes = await sink.send_batch(deliveries(*range(200)))
        contacts = stub.records("Contact")
    assert data_calls(stub) == [UPSERT]
    assert [outcome.reference for outcome in outcomes] == [contact["Id"] for contact in contacts]
    assert [contact["SMS_Key__c"] for contact in contacts] == [key(n) for n in range(200)]
    assert contacts[7]["LastName"] == "Last7"
    assert contacts[7]["MobilePhone"] == mobile(7)


async def test_the_same_again_changes_the_same_contact():
    async with connected(activity=ACTIVITY) as (stub, sink):
        await sink.send_batch(deliveries(1, 2))
        await sink.send_batch(deliveries(2, 1, record={"FirstName": "New"}))
    assert [contact["FirstName"] for contact in stub.records("Contact")] == ["New", "New"]
    assert len(stub.records("SMS_Event__c")) == 2


async def test_an_activity_points_to_its_contact():
    async with connected(activity=ACTIVITY) as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1)])
        (contact,) = stub.records("Contact")
        (activity,) = stub.records("SMS_Event__c")
    assert outcome == relay.Delivered(contact["Id"])
    assert activity["Contact__c"] == contact["Id"]
    assert activity["Event_Id__c"] == delivery(1).id
    assert activity["Message__c"] == "text 1"


async def test_a_bad_record_does_not_harm_the_others():
    batch = deliveries(*range(200))
    batch[77] = delivery(77, {"Email": "no address"})
    async with connected(activity=ACTIVITY, on_invalid="dead") as (stub, sink):
        outcomes = await sink.send_batch(batch)
    assert delivered(outcomes) == [number != 77 for number in range(200)]
    assert len(stub.records("Contact")) == len(stub.records("SMS_Event__c")) == 199
    assert isinstance(outcomes[77], relay.Reject)
    assert "INVALID_EMAIL_ADDRESS" in outcomes[77].reason
    assert "no address" not in outcomes[77].reason


async def test_a_retry_after_a_dropped_connection_leaves_one_record():
    async with connected(activity=ACTIVITY) as (stub, sink):
        stub.fault("drop_after_commit", on="/SMS_Key__c")
        assert [type(each) for each in await sink.send_batch([delivery(1)])] == [relay.Retry]
        stub.fault("drop_after_commit", on="/Event_Id__c")
        assert [type(each) for each in await sink.send_batch([delivery(1)])] == [relay.Retry]
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
    assert stub.fired["drop_after_commit"] == 2
    assert len(stub.records("Contact")) == len(stub.records("SMS_Event__c")) == 1


async def test_an_activity_is_not_written_without_its_contact():
    batch = [delivery(1), delivery(2, {"Email": "no address"})]
    async with connected(activity=ACTIVITY, on_invalid="dead") as (stub, sink):
        stub.seed("Contact", {"LastName": "Old", "SMS_Key__c": key(2)})
        outcomes = await sink.send_batch(batch)
    assert delivered(outcomes) == [True, False]
    assert [each["Event_Id__c"] for each in stub.records("SMS_Event__c")] == [batch[0].id]


async def test_the_outcome_of_a_failed_activity_is_the_deliverys():
    async with connected(activity=ACTIVITY) as (stub, sink):
        stub.fault_row("UNABLE_TO_LOCK_ROW", kind="SMS_Event__c")
        (first,) = await sink.send_batch([delivery(1)])
        (second,) = await sink.send_batch([delivery(1)])
    assert type(first) is relay.Retry
    assert first.after is None  # one record's trouble does not hold the sink
    assert type(second) is relay.Delivered
    assert len(stub.records("Contact")) == len(stub.records("SMS_Event__c")) == 1


async def test_a_stale_delivery_writes_its_activity_and_leaves_the_contact():
    async with connected(activity=ACTIVITY) as (stub, sink):
        await sink.send_batch([delivery(1, {"FirstName": "New"})])
        old = delivery(1, {"FirstName": "Old"}, event_id="019aa000-0000-7000-8000-000000000001")
        stale = relay.Delivery(old.id, old.event, old.record, stale=True)
        (outcome,) = await sink.send_batch([stale])
    assert stub.records("Contact")[0]["FirstName"] == "New"
    assert outcome.reference == stub.records("SMS_Event__c")[1]["Id"]


async def test_a_stale_delivery_without_activity_has_nothing_to_write():
    async with connected() as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1, stale=True)])
    assert "stale" in outcome.reference
    assert stub.calls == []


async def test_with_a_record_for_each_event_nothing_is_stale():
    columns = ("Type__c", "Mobile__c")
    votes = {"object": "SMS_Event__c", "external_id": "Event_Id__c", "key": "{{ id }}"}
    async with connected(columns=columns, **votes) as (stub, sink):
        vote = delivery(1, stale=True)
        vote = relay.Delivery(vote.id, vote.event, {"Type__c": "vote"}, stale=True)
        assert delivered(await sink.send_batch([vote])) == [True]
    assert [each["Event_Id__c"] for each in stub.records("SMS_Event__c")] == [vote.id]


async def test_test_events_are_skipped_unless_asked_for():
    async with connected() as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1, test=True)])
        assert "test event" in outcome.reference
        assert stub.calls == []
    async with connected(test_events="send") as (stub, sink):
        await sink.send_batch([delivery(1, test=True)])
        assert len(stub.records("Contact")) == 1


async def test_two_deliveries_of_one_key_go_one_after_the_other():
    keyword = {"key": "{{ data.keyword }}"}
    batch = [
        delivery(1, {"FirstName": "One"}, keyword="abc"),
        delivery(2, {"FirstName": "Two"}, keyword="ABC"),
        delivery(3, {"FirstName": "Three"}, keyword="other"),
    ]
    async with connected(**keyword) as (stub, sink):
        assert delivered(await sink.send_batch(batch)) == [True] * 3
    assert data_calls(stub) == [UPSERT, UPSERT]
    assert [each["FirstName"] for each in stub.records("Contact")] == ["Two", "Three"]


async def test_a_template_that_fails_ends_its_delivery_alone():
    batch = [delivery(1, keyword=None), delivery(2, keyword="a")]
    async with connected(key="{{ data.keyword.strip() }}") as (_, sink):
        outcomes = await sink.send_batch(batch)
    assert delivered(outcomes) == [False, True]
    assert type(outcomes[0]) is relay.Reject


async def test_an_empty_key_is_no_key():
    async with connected(key="{{ data.keyword }}") as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1, keyword=None)])
    assert type(outcome) is relay.Reject
    assert stub.calls == []


async def test_the_key_is_the_options_to_say_and_lists_are_picklists():
    record = {"SMS_Key__c": "other", "Id": "003", "Description": ["a", "b"]}
    async with connected() as (stub, sink):
        await sink.send_batch([delivery(1, record)])
        (contact,) = stub.records("Contact")
    assert contact["SMS_Key__c"] == key(1)
    assert contact["Description"] == "a;b"


async def test_null_clears_and_what_is_not_there_stays():
    async with connected() as (stub, sink):
        await sink.send_batch([delivery(1, {"Title": "Dr"})])
        await sink.send_batch([delivery(1, {"Title": None, "FirstName": ...})])
        (contact,) = stub.records("Contact")
    assert "Title" not in contact
    assert contact["FirstName"] == "First1"


async def test_a_request_has_one_mebibyte_at_the_most():
    batch = deliveries(*range(60), record={"Description": "x" * 30_000})
    async with connected() as (stub, sink):
        assert all(delivered(await sink.send_batch(batch)))
        bodies = [call.body for call in stub.calls if call.method == "PATCH"]
    assert len(bodies) == 2
    assert all(len(body) <= 1024 * 1024 for body in bodies)
    assert len(stub.records("Contact")) == 60


async def test_a_record_that_is_too_large_alone_is_dead():
    batch = [delivery(1, {"Description": "x" * 1024 * 1024}), delivery(2)]
    async with connected() as (_, sink):
        outcomes = await sink.send_batch(batch)
    assert type(outcomes[0]) is relay.Reject
    assert type(outcomes[1]) is relay.Delivered


async def test_without_a_map_the_sink_does_not_open():
    with pytest.raises(relay.Pause, match="map"):
        async with connected(columns=None):
            pass


@pytest.mark.parametrize(
    ("fault", "outcome", "after"),
    [
        ("500", relay.Retry, None),
        ("502", relay.Retry, None),
        ("503", relay.Retry, None),
        ("504", relay.Retry, None),
        ("maintenance", relay.Retry, None),
        ("concurrent", relay.Retry, 10.0),
        ("daily", relay.Pause, 900.0),
        ("disabled", relay.Pause, None),
        ("empty", relay.Retry, None),
        ("not_json", relay.Retry, None),
        ("drop", relay.Retry, None),
        ("garbage", relay.Retry, None),
        ("redirect", relay.Pause, None),
    ],
)
async def test_what_befalls_a_request_befalls_each_of_its_deliveries(fault, outcome, after):
    async with connected() as (stub, sink):
        stub.fault(fault)
        outcomes = await sink.send_batch(deliveries(1, 2))
        assert [(type(each), each.after) for each in outcomes] == [(outcome, after)] * 2
        assert all(delivered(await sink.send_batch(deliveries(1, 2))))
    assert len(stub.records("Contact")) == 2


async def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_told():
    async with connected(timeout=2) as (stub, sink):
        stub.fault("hang")
        outcomes = await sink.send_batch(deliveries(1, 2))
        assert [type(each) for each in outcomes] == [relay.Retry] * 2
        assert all(delivered(await sink.send_batch(deliveries(1, 2))))


async def test_a_second_request_that_fails_leaves_the_first_ones_outcomes():
    batch = deliveries(*range(60), record={"Description": "x" * 30_000})
    async with connected() as (stub, sink):
        await sink.check()
        stub.fault("502", on="/composite/")
        outcomes = await sink.send_batch(batch)
    kinds = [type(each) for each in outcomes]
    assert set(kinds) == {relay.Retry, relay.Delivered}
    assert kinds.count(relay.Delivered) == len(stub.records("Contact"))


# One bad record that fails the whole request


async def test_a_request_that_one_record_spoils_is_halved_until_it_is_found():
    batch = deliveries(*range(200))
    batch[150] = delivery(150, {"Birthdate": "yesterday"})
    async with connected() as (stub, sink):
        stub.mistyped_request = True
        outcomes = await sink.send_batch(batch)
    assert delivered(outcomes) == [number != 150 for number in range(200)]
    assert type(outcomes[150]) is relay.Reject
    assert len(data_calls(stub)) <= 2 * 8 + 1
    assert len(stub.records("Contact")) == 199


async def test_where_all_are_refused_one_by_one_the_sink_pauses():
    batch = deliveries(*range(200), record={"Birthdate": "yesterday"})
    async with connected() as (stub, sink):
        stub.mistyped_request = True
        outcomes = await sink.send_batch(batch)
    kinds = [type(each) for each in outcomes]
    assert kinds.count(relay.Pause) > 180
    assert len(data_calls(stub)) < 30


@pytest.mark.parametrize("code", ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "PROCESSING_HALTED"])
async def test_innocent_records_go_once_more(code):
    async with connected() as (stub, sink):
        stub.fault_row(code, count=3)
        assert all(delivered(await sink.send_batch(deliveries(*range(20)))))
    assert len(stub.records("Contact")) == 20


async def test_triggers_that_do_too_much_get_fewer_records_from_then_on(caplog):
    async with connected() as (stub, sink):
        limit = "SmsTrigger: System.LimitException: Too many SOQL queries: 101"
        stub.fault_row("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", count=200, message=limit)
        assert all(delivered(await sink.send_batch(deliveries(*range(200)))))
        assert len(data_calls(stub)) == 3
        assert all(delivered(await sink.send_batch(deliveries(*range(200)))))
        assert len(data_calls(stub)) == 5
    assert "100 at most go together" in caplog.text


# Mending


async def test_a_default_is_written_only_where_salesforce_misses_it():
    batch = [
        delivery(1, {"LastName": ...}),
        delivery(2),
        delivery(3, {"LastName": ...}),
    ]
    async with connected(defaults={"LastName": "Unknown"}) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(3)})
        assert all(delivered(await sink.send_batch(batch)))
        assert data_calls(stub) == [UPSERT, UPSERT]
    names = {each["SMS_Key__c"]: each["LastName"] for each in stub.records("Contact")}
    assert names == {key(1): "Unknown", key(2): "Last2", key(3): "Doe"}


async def test_without_a_default_what_is_missing_is_named():
    async with connected() as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1, {"LastName": ...})])
    assert type(outcome) is relay.Reject
    assert "LastName" in outcome.reason
    assert "defaults" in outcome.reason
    assert data_calls(stub) == [UPSERT]


BAD = {
    "Email": "no address",
    "SMS_Status__c": "Odd",
    "FirstName": "x" * 41,
    "Birthdate": "yesterday",
}


@pytest.mark.parametrize("name", BAD)
async def test_an_invalid_value_can_be_the_end_of_its_delivery(name):
    async with connected(on_invalid="dead") as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1, {name: BAD[name]})])
    assert type(outcome) is relay.Reject
    assert name in outcome.reason
    assert BAD[name] not in outcome.reason
    assert stub.records("Contact") == []


@pytest.mark.parametrize("name", BAD)
async def test_an_invalid_value_is_left_out(name, caplog):
    batch = [delivery(1, {name: BAD[name]}), delivery(2)]
    async with connected() as (stub, sink):
        assert all(delivered(await sink.send_batch(batch)))
        contacts = {each["SMS_Key__c"]: each for each in stub.records("Contact")}
        assert name not in contacts[key(1)]
        assert data_calls(stub) == [UPSERT, UPSERT]
    assert name in caplog.text
    assert BAD[name] not in caplog.text


async def test_what_is_too_long_can_be_cut():
    batch = [delivery(1, {"FirstName": "x" * 39 + "😀"}), delivery(2, {"FirstName": "y" * 50})]
    async with connected(on_invalid="truncate") as (stub, sink):
        stub.fields["Contact"]["FirstName"] = stub.fields["Contact"]["Title"].__class__(length=39)
        assert all(delivered(await sink.send_batch(batch)))
    assert [each["FirstName"] for each in stub.records("Contact")] == ["x" * 39, "y" * 39]


async def test_an_invalid_value_makes_way_for_the_default():
    options = {"on_invalid": "drop", "defaults": {"LastName": "Unknown"}}
    async with connected(**options) as (stub, sink):
        assert delivered(await sink.send_batch([delivery(1, {"LastName": "x" * 100})])) == [True]
    assert stub.records("Contact")[0]["LastName"] == "Unknown"


async def test_a_default_takes_the_place_of_nobodys_own_value():
    """Whether the event's value is invalid, or a duplicate rule finds the person."""
    options = {"defaults": {"LastName": "Unknown"}, "duplicates": "use_match"}
    async with connected(**options) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        stub.seed("Contact", {"LastName": "Roe", "MobilePhone": mobile(2)})
        stub.duplicate_rule("Contact", "MobilePhone")
        sent = [delivery(1, {"LastName": "x" * 100}), delivery(2, {"LastName": ...})]
        assert delivered(await sink.send_batch(sent)) == [True, True]
    assert [each["Name"] for each in stub.records("Contact")] == ["First1 Doe", "First2 Roe"]


async def test_each_way_of_mending_is_tried_once():
    options = {"on_invalid": "drop", "defaults": {"LastName": "Unknown"}}
    bad = delivery(1, {"LastName": ..., "Email": "no address", "FirstName": "x" * 41})
    async with connected(**options) as (stub, sink):
        assert delivered(await sink.send_batch([bad])) == [True]
        stub.fault_row("INVALID_EMAIL_ADDRESS", count=2, fields=["Email"])
        good = delivery(2, {"Email": "a@b.example"})
        (outcome,) = await sink.send_batch([good])
    assert type(outcome) is relay.Reject


async def test_a_duplicate_is_dead_by_default():
    async with connected() as (stub, sink):
        stub.seed("Contact", {"LastName": "Last1"})
        stub.duplicate_rule("Contact", "LastName")
        outcomes = await sink.send_batch(deliveries(1, 2))
    assert delivered(outcomes) == [False, True]
    assert "duplicates" in outcomes[0].reason


async def test_a_duplicate_can_be_saved_without_another_call():
    async with connected(duplicates="allow_save") as (stub, sink):
        stub.seed("Contact", {"LastName": "Last1"})
        stub.duplicate_rule("Contact", "LastName")
        assert all(delivered(await sink.send_batch(deliveries(1, 2))))
        assert data_calls(stub) == [UPSERT]
    assert len(stub.records("Contact")) == 3


@pytest.mark.parametrize("told", [True, False])
async def test_the_record_that_a_duplicate_rule_finds_can_be_used(told):
    async with connected(duplicates="use_match", activity=ACTIVITY) as (stub, sink):
        old = stub.seed("Contact", {"LastName": "Last1"})
        stub.duplicate_rule("Contact", "LastName")
        stub.rows_name_duplicates = told
        outcomes = await sink.send_batch(deliveries(1, 2))
        assert outcomes[0] == relay.Delivered(old)
        assert delivered(outcomes) == [True, True]
        await sink.send_batch(deliveries(1, 2))
    assert len(stub.records("Contact")) == 2
    assert stub.records("Contact")[0]["SMS_Key__c"] == key(1)
    assert len(stub.records("SMS_Event__c")) == 2


async def test_of_two_duplicates_none_is_used():
    async with connected(duplicates="use_match") as (stub, sink):
        for _ in range(2):
            stub.seed("Contact", {"LastName": "Last1"})
        stub.duplicate_rule("Contact", "LastName")
        (outcome,) = await sink.send_batch([delivery(1)])
    assert type(outcome) is relay.Reject
    assert len(stub.records("Contact")) == 2


async def test_a_lost_race_for_a_key_is_won_by_the_retry():
    async with connected() as (stub, sink):
        stub.fault_row("DUPLICATE_VALUE")
        (outcome,) = await sink.send_batch([delivery(1)])
        assert type(outcome) is relay.Retry
        assert delivered(await sink.send_batch([delivery(1)])) == [True]


async def test_two_batches_that_insert_one_key_at_once_leave_one_record():
    one, other = delivery(1, keyword="same"), delivery(2, keyword="same")
    async with connected(key="{{ data.keyword }}") as (stub, sink):
        stub.latency = 0.05
        outcomes = await asyncio.gather(*(sink.send_batch([each]) for each in (one, other)))
        lost = [number for number, each in enumerate(outcomes) if not all(delivered(each))]
        again = [(one, other)[number] for number in lost]
        assert stub.fired["race"] == len(again) == 1
        assert delivered(await sink.send_batch(again)) == [True]
    assert len(stub.records("Contact")) == 1


async def test_batches_that_fill_one_campaign_do_not_refuse_each_other():
    stub = SalesforceStub()
    campaign = {"id": stub.seed("Campaign", {"Name": "Autumn"})}
    async with connected(stub, campaign=campaign) as (_, sink):
        stub.latency = 0.05
        batches = [deliveries(*range(n, n + 10)) for n in (0, 10, 20, 30)]
        outcomes = await asyncio.gather(*map(sink.send_batch, batches))
    assert all(all(delivered(each)) for each in outcomes)
    assert len(stub.records("CampaignMember")) == 40


async def test_a_key_that_is_there_twice_is_for_somebody_to_mend():
    async with connected() as (stub, sink):
        for _ in range(2):
            stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)}, unchecked=True)
        outcomes = await sink.send_batch(deliveries(1, 2))
    assert delivered(outcomes) == [False, True]
    assert "merge them" in outcomes[0].reason


async def test_assignment_rules_run_only_if_asked_for():
    lead = {"object": "Lead", "columns": ("LastName", "Company")}
    for rules, assigned in ((False, 0), (True, 1)):
        async with connected(assignment_rules=rules, **lead) as (stub, sink):
            assert all(delivered(await sink.send_batch([delivery(1, {"Company": "A"})])))
        assert len(stub.assigned) == assigned


# blank values


async def test_a_null_clears_a_field_but_none_that_is_only_filled_where_it_is_empty():
    """The read before the write says that it is filled: a null must not get past that either."""
    async with connected(only_if_empty=["leadsource"]) as (stub, sink):
        await sink.send_batch([delivery(1, {"Title": "Mayor", "LeadSource": "SMS"})])
        await sink.send_batch([delivery(1, {"Title": None, "LeadSource": None})])
        (contact,) = stub.records("Contact")
    assert (contact.get("Title"), contact["LeadSource"]) == (None, "SMS")
