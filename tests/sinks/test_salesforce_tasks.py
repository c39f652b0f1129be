"""Activities that are tasks: each event once, completed, on the timeline of its person."""

import dataclasses
from dataclasses import replace

import pytest
from salesforcesink import connected, data_calls, delivered, deliveries, delivery, key, options
from stubs.salesforce import SalesforceStub

import relay

TASK = {"object": "Task"}
KEY = "SMS_Event_Id__c"
NUMBER = "(212) 555-0001"
LEAD = {"object": "Lead", "defaults": {"Company": "n/a"}}
BOTH = {"objects": ["Contact", "Lead"], "defaults": {"Company": "n/a"}}
CONSENT = {"field": "SMS_Opt_Out__c"}
UPSERT = f"PATCH composite/sobjects/Task/{KEY}"
OLD = "019aa000-0000-7000-8000-000000000001"


def stale(number=1, **more):
    return dataclasses.replace(delivery(number, event_id=OLD, **more), stale=True)


def word(number=1, **more):
    return dataclasses.replace(delivery(number, **more), last_word="opt_out")


def only(stub, name="Task"):
    (row,) = stub.records(name)
    return row


async def test_an_event_is_a_completed_task_of_its_person():
    async with connected(activity=TASK) as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1)])
    task, contact = only(stub), only(stub, "Contact")
    assert outcome == relay.Delivered(contact["Id"])
    assert task["WhoId"] == contact["Id"]
    assert task[KEY] == delivery(1).id
    assert (task["Status"], task["IsClosed"]) == ("Completed", True)
    assert task["ActivityDate"] == "2026-11-23"
    assert task["Subject"] == "SMS message: JOIN"
    assert task["Description"] == "text 1"


async def test_a_task_shows_the_form_the_vote_and_the_word_of_consent():
    form = {"Name": "Mary Jane", "Likes": ["golf", "chess"]}
    batch = [
        delivery(1, message=None, fields=form),
        delivery(2, message=None, reply="A", label="Tampa", keyword=None),
        delivery(3, message="STOP", keyword=None, consent="opt_out"),
    ]
    async with connected(activity=TASK) as (stub, sink):
        assert all(delivered(await sink.send_batch(batch)))
    shown = [(each["Subject"], each["Description"]) for each in stub.records("Task")]
    assert shown == [
        ("SMS message: JOIN", "Name: Mary Jane\nLikes: golf, chess"),
        ("SMS message", "A\nTampa"),
        ("SMS message (opt-out)", "STOP"),
    ]


async def test_the_map_has_its_way_and_leaves_the_rest_as_it_is():
    activity = TASK | {"map": {"subject": "Text", "Priority": "Low", "TaskSubtype": "Call"}}
    async with connected(activity=activity) as (stub, sink):
        await sink.send_batch([delivery(1)])
    task = only(stub)
    assert (task["Subject"], task["Priority"], task["TaskSubtype"]) == ("Text", "Low", "Call")
    assert (task["Status"], task["Description"]) == ("Completed", "text 1")


async def test_what_only_a_new_task_takes_is_left_out_when_it_goes_again():
    activity = TASK | {"map": {"TaskSubtype": "Call"}}
    async with connected(activity=activity) as (stub, sink):
        stub.fault("drop_after_commit", on=f"/{KEY}")
        assert delivered(await sink.send_batch([delivery(1)])) == [False]
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
        assert stub.fired["drop_after_commit"] == 1
    assert only(stub)["TaskSubtype"] == "Call"


async def test_a_lead_has_its_tasks_too():
    async with connected(activity=TASK, **LEAD) as (stub, sink):
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
    assert only(stub)["WhoId"] == only(stub, "Lead")["Id"]


@pytest.mark.parametrize("kind", ["Contact", "Lead"])
async def test_a_person_in_either_object_has_the_tasks(kind):
    async with connected(activity=TASK, **BOTH) as (stub, sink):
        company = {"Company": "A"} if kind == "Lead" else {}
        person = stub.seed(kind, {"LastName": "Doe", "SMS_Key__c": key(1)} | company)
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
        assert delivered(await sink.send_batch([stale(1)])) == [True]
    assert [each["WhoId"] for each in stub.records("Task")] == [person] * 2


@pytest.mark.parametrize("objects", [["Contact", "Lead"], ["Lead"]])
async def test_the_tasks_of_a_converted_lead_are_its_contacts(objects):
    async with connected(activity=TASK, **BOTH | {"objects": objects}) as (stub, sink):
        contact = stub.seed("Contact", {"LastName": "Doe"})
        lead = stub.seed("Lead", {"LastName": "Doe", "Company": "A", "SMS_Key__c": key(1)})
        stub.convert(lead, contact)
        assert delivered(await sink.send_batch([stale(1)])) == [True]
    assert only(stub)["WhoId"] == contact


@pytest.mark.parametrize("fault", ["drop_after_commit", "503_after_commit"])
async def test_a_lost_answer_doubles_no_task(fault):
    async with connected(activity=TASK) as (stub, sink):
        stub.fault(fault, on=f"/{KEY}")
        assert delivered(await sink.send_batch(deliveries(1, 2))) == [False, False]
        assert delivered(await sink.send_batch(deliveries(1, 2))) == [True, True]
        assert stub.fired[fault] == 1
    assert [each[KEY] for each in stub.records("Task")] == [each.id for each in deliveries(1, 2)]


async def test_a_person_found_by_phone_has_the_task():
    async with connected(activity=TASK, match=["key", "phone"]) as (stub, sink):
        person = stub.seed("Contact", {"LastName": "Doe", "Phone": NUMBER})
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
    assert only(stub)["WhoId"] == person == only(stub, "Contact")["Id"]


async def test_a_person_whom_a_duplicate_rule_finds_has_the_task():
    async with connected(activity=TASK, duplicates="use_match") as (stub, sink):
        person = stub.seed("Contact", {"LastName": "Last1"})
        stub.duplicate_rule("Contact", "LastName")
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
    assert only(stub)["WhoId"] == person


async def test_a_stale_event_writes_its_task_and_nothing_else():
    async with connected(activity=TASK) as (stub, sink):
        await sink.send_batch([delivery(1, {"FirstName": "New"})])
        assert delivered(await sink.send_batch([stale(record={"FirstName": "Old"})])) == [True]
        assert delivered(await sink.send_batch([stale(record={"FirstName": "Old"})])) == [True]
        calls = data_calls(stub)
    contact = only(stub, "Contact")
    assert contact["FirstName"] == "New"
    assert [each["WhoId"] for each in stub.records("Task")] == [contact["Id"]] * 2
    assert [each[KEY] for each in stub.records("Task")] == [delivery(1).id, OLD]
    assert calls[2:4] == ["GET query", UPSERT]


async def test_stale_events_beside_others_take_one_call_more():
    async with connected(activity=TASK) as (stub, sink):
        for number in range(5):
            stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(number)})
        batch = [
            dataclasses.replace(each, stale=n < 5) for n, each in enumerate(deliveries(*range(20)))
        ]
        assert all(delivered(await sink.send_batch(batch)))
        assert len(data_calls(stub)) == 3
    people = {each["Id"]: each["SMS_Key__c"] for each in stub.records("Contact")}
    assert sorted(people[each["WhoId"]] for each in stub.records("Task")) == [
        key(number) for number in range(20)
    ]


async def test_a_stale_event_of_nobody_waits_and_the_others_do_not():
    batch = [stale(1), delivery(2)]
    async with connected(activity=TASK) as (stub, sink):
        first, second = await sink.send_batch(batch)
        assert isinstance(first, relay.Retry)
        assert "no record has the key" in first.reason
        assert isinstance(second, relay.Delivered)
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        assert delivered(await sink.send_batch(batch)) == [True, True]
    assert len(stub.records("Task")) == 2


async def test_where_people_cannot_be_looked_up_the_others_have_their_tasks():
    batch = [stale(1), delivery(2)]
    async with connected(activity=TASK) as (stub, sink):
        stub.fault("503", on="/query")
        outcomes = await sink.send_batch(batch)
        assert stub.fired["503"] == 1
    assert [type(each) for each in outcomes] == [relay.Retry, relay.Delivered]
    assert "SERVER_UNAVAILABLE" in outcomes[0].reason


async def test_a_person_who_has_gone_is_learnt_again():
    """Merged away between the two calls."""
    async with connected(activity=TASK) as (stub, sink):
        stub.fault_row("ENTITY_IS_DELETED", kind="Task", fields=["WhoId"])
        (first,) = await sink.send_batch([delivery(1)])
        assert isinstance(first, relay.Retry)
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
    assert only(stub)["WhoId"] == only(stub, "Contact")["Id"]


@pytest.mark.parametrize("on_invalid", ["drop", "truncate"])
async def test_a_task_is_never_written_without_its_person(on_invalid):
    activity = TASK | {"on_invalid": on_invalid}
    async with connected(activity=activity) as (stub, sink):
        stub.fault_row("FIELD_INTEGRITY_EXCEPTION", kind="Task", fields=["WhoId"])
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, relay.Reject)
    assert stub.records("Task") == []


async def test_what_is_too_long_for_a_task_is_cut():
    long = delivery(1, keyword="k" * 300)
    async with connected(activity=TASK) as (stub, sink):
        (outcome,) = await sink.send_batch([long])
    assert len(only(stub)["Subject"]) == 255
    assert "Subject cut" in outcome.note


async def test_a_task_is_not_written_without_its_contact():
    batch = [delivery(1), delivery(2, {"Email": "no address"})]
    async with connected(activity=TASK, on_invalid="dead") as (stub, sink):
        stub.seed("Contact", {"LastName": "Old", "SMS_Key__c": key(2)})
        assert delivered(await sink.send_batch(batch)) == [True, False]
    assert only(stub)[KEY] == batch[0].id


async def test_where_only_consent_is_written_the_task_goes_to_that_record():
    async with connected(activity=TASK, consent=CONSENT, columns=None) as (stub, sink):
        person = stub.seed("Contact", {"LastName": "Doe", "MobilePhone": NUMBER})
        for _ in range(2):
            assert delivered(await sink.send_batch([word(1), delivery(2)])) == [True, True]
    assert only(stub)["WhoId"] == person == only(stub, "Contact")["Id"]


async def test_a_record_that_consent_has_made_has_the_task():
    more = {"consent": CONSENT, "defaults": {"LastName": "Unknown"}}
    async with connected(activity=TASK, columns=None, **more) as (stub, sink):
        assert delivered(await sink.send_batch([word(1)])) == [True]
    assert only(stub)["WhoId"] == only(stub, "Contact")["Id"]


async def test_where_nobody_has_the_number_there_is_no_timeline():
    more = {"consent": CONSENT | {"create": False}}
    async with connected(activity=TASK, columns=None, **more) as (stub, sink):
        assert delivered(await sink.send_batch([word(1)])) == [True]
    assert stub.records("Task") == []


async def test_a_stale_word_goes_to_the_timeline_of_the_record_that_has_it():
    async with connected(activity=TASK, consent=CONSENT) as (stub, sink):
        person = stub.seed("Contact", {"LastName": "Doe", "Phone": NUMBER})
        late = dataclasses.replace(stale(1), last_word="opt_out")
        assert delivered(await sink.send_batch([late])) == [True]
    assert only(stub)["WhoId"] == person


async def test_the_word_of_a_converted_lead_is_on_the_timeline_of_its_contact():
    async with connected(activity=TASK, consent=CONSENT, columns=None, **LEAD) as (stub, sink):
        contact = stub.seed("Contact", {"LastName": "Doe"})
        lead = stub.seed("Lead", {"LastName": "Doe", "Company": "A", "MobilePhone": NUMBER})
        stub.convert(lead, contact)
        assert delivered(await sink.send_batch([word(1)])) == [True]
    assert only(stub)["WhoId"] == contact


async def test_an_event_that_the_map_fails_for_has_its_task_once_it_is_sent_again():
    failed = replace(delivery(1), record=None, last_word="opt_out", map_error="map: …")
    async with connected(activity=TASK, consent=CONSENT) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        await sink.send_batch([failed])
        assert stub.records("Task") == []
        assert delivered(await sink.send_batch([word(1)])) == [True]
        assert delivered(await sink.send_batch([word(1)])) == [True]
    assert only(stub)["WhoId"] == only(stub, "Contact")["Id"]


async def test_a_thousand_events_with_their_tasks_take_eleven_calls():
    """As many as with activities of a custom object; signing in is one of them."""
    async with connected(activity=TASK) as (stub, sink):
        for start in range(0, 1000, 200):
            batch = deliveries(*range(start, start + 200))
            assert all(delivered(await sink.send_batch(batch)))
        assert data_calls(stub)[:2] == ["PATCH composite/sobjects/Contact/SMS_Key__c", UPSERT]
    assert len(stub.records("Contact")) == len(stub.records("Task")) == 1000
    assert len(stub.calls) == 11


async def test_a_custom_object_on_task_is_asked_for_as_before():
    """Who names another relationship has the person by the key."""
    activity = TASK | {"external_id": KEY, "contact": "Who", "map": {"Subject": "x"}}
    async with connected(activity=activity) as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1)])
        bodies = [call.body for call in stub.calls if call.path.endswith(KEY)]
    assert b'"Who":{"SMS_Key__c":' in bodies[0]
    assert isinstance(outcome, relay.Pause), "Who leads to several objects"


# What check says


async def problems(change=lambda _: None, **values):
    stub = SalesforceStub()
    change(stub)
    async with connected(stub, **{"activity": TASK} | values) as (_, sink):
        return await sink.check()


def changed(stub, name, **changes):
    stub.fields["Task"][name] = replace(stub.fields["Task"][name], **changes)


async def test_where_tasks_have_what_they_need_check_says_nothing():
    assert await problems() == []
    assert await problems(activity=TASK | {"map": {"TaskSubtype": "Call"}}) == []
    assert await problems(**LEAD) == []
    assert await problems(**BOTH) == []


async def test_a_field_that_tasks_lack_is_made_on_activity():
    (found,) = await problems(lambda stub: stub.fields["Task"].pop(KEY))
    assert "Task has no field SMS_Event_Id__c" in found
    assert "Object Manager > Activity > Fields & Relationships > New > Text" in found
    assert 'tick "Unique" and "External ID"' in found


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        (KEY, {"external_id": False}, "no external id"),
        (KEY, {"unique": False}, "not unique"),
        (KEY, {"writable": False}, "cannot be written"),
        (KEY, {"length": 18}, "takes 18 characters"),
        ("WhoId", {"writable": False}, "Edit Tasks"),
        ("Subject", {"writable": False}, "Task.Subject cannot be written"),
    ],
)
async def test_check_says_what_a_field_of_a_task_lacks(name, changes, expected):
    (found,) = await problems(lambda stub: changed(stub, name, **changes))
    assert expected in found
    assert "Activity" in found or name != KEY or changes == {"writable": False}


async def test_a_status_that_the_org_does_not_have_is_a_mistake():
    """Salesforce would take it, and leave the task open."""

    def german(stub):
        changed(stub, "Status", options=("Offen", "Erledigt"))

    (found,) = await problems(german)
    assert isinstance(found, relay.Mistake)
    assert '"Completed" is no value of the picklist' in found
    assert "Offen, Erledigt" in found
    assert await problems(german, activity=TASK | {"map": {"Status": "Erledigt"}}) == []


async def test_a_user_who_may_make_no_tasks_is_told_of_the_permission():
    found = await problems(lambda stub: stub.denied.update({"Task": {"createable"}}))
    assert any("may not create Task" in each and "Edit Tasks" in each for each in found)


async def test_a_field_that_is_not_a_tasks_is_named():
    (found,) = await problems(activity=TASK | {"map": {"Subjekt": "x"}})
    assert "is it Subject?" in found


# Mistakes in the options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"object": "SMS_Vote__c", "activity": TASK}, "Contact or Lead"),
        ({"objects": ["SMS_Vote__c"], "activity": TASK}, "Contact or Lead"),
        ({"activity": {"object": "A__c", "external_id": "B__c"}}, "contact, map"),
        (BOTH | {"activity": TASK | {"contact": "A__r", "external_id": "B__c"}}, "one object"),
        ({"activity": TASK | {"map": {"Subject": "{{ data."}}}, "Subject"),
        ({"activity": TASK | {"map": "Subject"}}, "map"),
        ({"activity": TASK | {"who": "x"}}, "who"),
        ({"activity": {}}, "object"),
        ({"activity": {"object": 1}}, "object"),
    ],
)
def test_mistakes_are_told_at_the_start(values, message):
    with pytest.raises(ValueError, match=message):
        options("https://acme.my.salesforce.com", **values)


def test_the_name_of_the_object_may_be_spelt_in_any_way():
    made = options(activity={"object": "task"}).activity
    assert made.object == "Task"
    assert made.map.columns == ("Subject", "Status", "ActivityDate", "Description")
    assert (made.external_id, made.on_invalid) == (KEY, "truncate")
