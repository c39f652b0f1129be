"""Consent in Salesforce: the last word of a number, alone, in every record that has the number."""

import dataclasses

import httpx
import orjson
import pytest
from salesforcesink import (
    COLUMNS,
    LOG,
    Salesforce,
    connected,
    data_calls,
    delivery,
    key,
    mobile,
    options,
)

import relay

FIELD = "SMS_Opt_Out__c"
CONSENT = {"field": FIELD}
NUMBER = "(212) 555-0001"
LEADS = {"object": "Lead", "defaults": {"LastName": "Unknown", "Company": "n/a"}}


def word(number=1, last="opt_out", **more):
    """A delivery of nothing but a word of consent."""
    return dataclasses.replace(delivery(number, **more), record=None, last_word=last)


def with_word(number=1, last="opt_out", record=None, **more):
    return dataclasses.replace(delivery(number, record, **more), last_word=last)


def opted_out(stub, kind="Contact"):
    return [each[FIELD] for each in stub.records(kind)]


def reason(outcome):
    assert isinstance(outcome, relay.Reject), outcome
    return outcome.reason


async def test_every_record_with_the_number_is_written_and_nothing_else_of_it():
    async with connected(consent=CONSENT) as (stub, sink):
        seeded = [
            {"LastName": "Doe", "MobilePhone": NUMBER},
            {"LastName": "Roe", "Phone": "+1 212 555 0001"},
            {"LastName": "Poe", "SMS_Key__c": key(1)},
        ]
        for values in seeded:
            stub.seed("Contact", values)
        stub.seed("Contact", {"LastName": "Other", "Phone": "2125550002"})
        (outcome,) = await sink.send_batch([word(1)])
        contacts = stub.records("Contact")
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == [True, True, True, False]
    for values, contact in zip(seeded, contacts[:3], strict=True):
        assert {name: contact.get(name) for name in ("MobilePhone", "Phone", "SMS_Key__c")} == {
            name: values.get(name) for name in ("MobilePhone", "Phone", "SMS_Key__c")
        }
    assert data_calls(stub) == ["GET query", "GET search", "PATCH composite/sobjects"]


async def test_two_numbers_with_one_key_in_a_batch_change_its_record_only_by_the_word():
    async with connected(consent=CONSENT, key="{{ data.message }}") as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": "m-1", "MobilePhone": "2125559999"})
        outcomes = await sink.send_batch([word(at, message="m-1") for at in (1, 2)])
        (contact,) = stub.records("Contact")
    assert all(isinstance(each, relay.Delivered) for each in outcomes)
    assert (contact[FIELD], contact["MobilePhone"]) == (True, "2125559999")


@pytest.mark.parametrize("length", [256, 20_000, 300_000])
@pytest.mark.parametrize("objects", [["Contact"], ["Contact", "Lead"]])
async def test_a_key_longer_than_any_field_keeps_no_word_away_and_no_other_delivery(
    length, objects
):
    given = {"key": "{{ data.message }}", "objects": objects, "consent": CONSENT}
    given |= {"only_if_empty": ["LeadSource"], "defaults": {"Company": "n/a"}}
    record = {"LeadSource": "SMS"}
    async with connected(**given) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": NUMBER})
        batch = [
            with_word(1, record=record, message="x" * length),
            delivery(2, record, message="m-2"),
        ]
        long, other = await sink.send_batch(batch)
    assert opted_out(stub)[0] is True
    assert (isinstance(long, relay.Reject), long.consent) == (True, True)
    assert isinstance(other, relay.Delivered)


async def test_no_record_is_made_without_a_key():
    async with connected(consent=CONSENT, key="{{ data.message }}") as (stub, sink):
        (outcome,) = await sink.send_batch([word(1, message=" ")])
    assert "key is empty" in reason(outcome)
    assert data_calls(stub) == ["GET search"]


async def test_a_record_that_was_not_asked_for_gets_no_word():
    written = []

    def handle(request):
        if "/oauth2/" in request.url.path:
            return httpx.Response(200, json={"access_token": "t"})
        if request.method == "GET":
            strange = {"Id": "003000000000009", "SMS_Key__c": "other"}
            name = "searchRecords" if request.url.path.endswith("search") else "records"
            return httpx.Response(200, json={name: [strange, {"Id": "003000000000008"}]})
        written.extend(orjson.loads(request.content)["records"])
        return httpx.Response(200, json=[{"id": "003000000000001", "success": True}])

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    sink = Salesforce("crm", options("https://acme.example", consent=CONSENT), http, LOG, COLUMNS)
    (outcome,) = await sink.send_batch([word(1)])
    assert outcome == relay.Delivered("003000000000001")
    assert [each["SMS_Key__c"] for each in written] == [key(1)]


async def test_a_start_is_written_the_same_way():
    async with connected(consent=CONSENT) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": NUMBER, FIELD: True})
        await sink.send_batch([word(1, "opt_in")])
    assert opted_out(stub) == [False]


async def test_a_record_is_made_only_where_there_is_none():
    async with connected(consent=CONSENT, defaults={"LastName": "Unknown"}) as (stub, sink):
        await sink.send_batch([word(1), word(2)])
        await sink.send_batch([word(1, "opt_in")])
        contacts = stub.records("Contact")
    assert [(each["MobilePhone"], each["LastName"], each[FIELD]) for each in contacts] == [
        (mobile(1), "Unknown", False),
        (mobile(2), "Unknown", True),
    ]


async def test_no_record_is_made_where_the_options_say_so():
    async with connected(consent={**CONSENT, "create": False}) as (stub, sink):
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert stub.records("Contact") == []


async def test_the_contact_of_a_converted_lead_is_written_too():
    async with connected(consent=CONSENT, **LEADS) as (stub, sink):
        contact = stub.seed("Contact", {"LastName": "Doe"})
        lead = stub.seed("Lead", {"LastName": "Doe", "Company": "A", "MobilePhone": NUMBER})
        stub.seed("Lead", {"LastName": "Doe", "Company": "B", "Phone": NUMBER})
        stub.convert(lead, contact)
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == [True]
    assert opted_out(stub, "Lead") == [False, True]


@pytest.mark.parametrize("objects", [["contact"], ["LEAD"], ["contact", "lead"]])
async def test_the_case_of_an_objects_name_keeps_no_word_away(objects):
    async with connected(consent=CONSENT, objects=objects) as (stub, sink):
        contact = stub.seed("Contact", {"LastName": "Doe", "MobilePhone": NUMBER})
        if objects != ["contact"]:
            lead = {"LastName": "Doe", "Company": "A", "MobilePhone": NUMBER}
            stub.convert(stub.seed("Lead", lead), contact)
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == [True]


async def test_a_lead_that_is_converted_meanwhile_is_looked_for_again():
    async with connected(consent=CONSENT, **LEADS) as (stub, sink):
        stub.seed("Lead", {"LastName": "Doe", "Company": "A", "MobilePhone": NUMBER})
        stub.fault_row("CANNOT_UPDATE_CONVERTED_LEAD", kind="Lead")
        (outcome,) = await sink.send_batch([word(1)])
        assert stub.fired["CANNOT_UPDATE_CONVERTED_LEAD"] == 1
        assert isinstance(outcome, relay.Retry)
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub, "Lead") == [True]


@pytest.mark.parametrize("duplicates", ["fail", "allow_save", "use_match"])
@pytest.mark.parametrize("edits", [False, True])
async def test_a_duplicate_rule_keeps_no_word_away(duplicates, edits):
    async with connected(consent=CONSENT, duplicates=duplicates) as (stub, sink):
        for name in ("Doe", "Roe"):
            stub.seed("Contact", {"LastName": name, "MobilePhone": NUMBER})
        stub.duplicate_rule("Contact", "MobilePhone", edits=edits)
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == [True, True]


@pytest.mark.parametrize(
    "record",
    [{"Email": "no address"}, {"LastName": "x" * 200}, {"SMS_Status__c": "Nowhere"}],
    ids=["a bad e-mail", "too long", "no value of the picklist"],
)
async def test_what_else_is_refused_keeps_no_word_away(record):
    async with connected(consent=CONSENT, on_invalid="dead") as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        (outcome,) = await sink.send_batch([with_word(1, record=record)])
    assert isinstance(outcome, relay.Reject)
    assert outcome.consent, "the word was accepted"
    assert opted_out(stub) == [True]


async def test_the_map_never_writes_the_field_beside_others():
    """A `map` of the time before may name it, and say something older."""
    async with connected(consent=CONSENT) as (stub, sink):
        await sink.send_batch([with_word(1, record={FIELD.lower(): False, "Title": "Mayor"})])
        (contact,) = stub.records("Contact")
    assert (contact[FIELD], contact["Title"]) == (True, "Mayor")


async def test_a_stale_event_writes_its_word():
    async with connected(consent=CONSENT) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        await sink.send_batch([with_word(1, stale=True)])
    assert opted_out(stub) == [True]


async def test_what_cannot_be_written_to_one_record_is_written_to_the_others_and_said():
    async with connected(consent=CONSENT) as (stub, sink):
        first = stub.seed("Contact", {"LastName": "Doe", "MobilePhone": NUMBER})
        stub.seed("Contact", {"LastName": "Roe", "MobilePhone": NUMBER})
        stub.fault_row("FIELD_CUSTOM_VALIDATION_EXCEPTION", key=first)
        (outcome,) = await sink.send_batch([word(1)])
        assert stub.fired["FIELD_CUSTOM_VALIDATION_EXCEPTION"] == 1
    assert "1 of 2 records with the number were not written" in reason(outcome)
    assert not outcome.consent
    assert opted_out(stub) == [False, True]


@pytest.mark.parametrize("people", [0, 1])
async def test_a_value_that_the_org_does_not_know_pauses(people):
    """Options alone can be the cause: no word is lost, and no record says less than it should."""
    consent = {"field": "SMS_Status__c", "opted_out": "Gone"}
    async with connected(consent=consent, defaults={"LastName": "Unknown"}) as (stub, sink):
        for _ in range(people):
            stub.seed("Contact", {"LastName": "Doe", "MobilePhone": NUMBER})
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Pause)
    assert "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST" in outcome.reason
    assert "options.consent" in outcome.reason
    assert len(stub.records("Contact")) == people


async def test_the_record_that_the_event_itself_makes_is_written_too():
    """Two have the number, so that none of them is taken for the event's person."""
    async with connected(consent=CONSENT, match=["key", "phone"]) as (stub, sink):
        for name in ("Doe", "Roe"):
            stub.seed("Contact", {"LastName": name, "MobilePhone": NUMBER})
        (outcome,) = await sink.send_batch([with_word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == [True, True, True]


async def test_a_failure_of_the_whole_request_says_of_each_whether_its_word_was_written():
    async with connected(consent=CONSENT) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        stub.fault("503", on="/SMS_Key__c")
        outcomes = await sink.send_batch([with_word(1), delivery(2)])
    assert [type(each) for each in outcomes] == [relay.Retry, relay.Retry]
    assert [each.consent for each in outcomes] == [True, False]


async def test_without_a_map_only_words_are_written():
    async with connected(consent=CONSENT, columns=None) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        outcomes = await sink.send_batch([with_word(1), delivery(2)])
    assert all(isinstance(each, relay.Delivered) for each in outcomes)
    assert opted_out(stub) == [True]


async def test_several_fields_have_values_of_their_own():
    consent = {"field": FIELD, "fields": {"SMS_Status__c": {"opted_out": "Stopped"}}}
    async with connected(consent=consent) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1), "SMS_Status__c": "Active"})
        await sink.send_batch([word(1)])
        (contact,) = stub.records("Contact")
    assert (contact[FIELD], contact["SMS_Status__c"]) == (True, "Stopped")


async def test_a_test_event_writes_nothing():
    async with connected(consent=CONSENT) as (stub, sink):
        await sink.send_batch([word(1, test=True)])
    assert data_calls(stub) == []


async def test_a_lost_answer_of_the_search_is_tried_again_with_nothing_written():
    async with connected(consent=CONSENT) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        stub.fault("503", on="/search")
        (outcome,) = await sink.send_batch([with_word(1)])
        assert isinstance(outcome, relay.Retry)
        assert not outcome.consent
        (outcome,) = await sink.send_batch([with_word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == [True]


async def test_records_without_words_cost_no_call_more():
    async with connected(consent=CONSENT) as (stub, sink):
        await sink.send_batch([delivery(n) for n in range(200)])
    assert data_calls(stub) == ["PATCH composite/sobjects/Contact/SMS_Key__c"]


async def test_a_hundred_words_cost_few_calls():
    async with connected(consent=CONSENT) as (stub, sink):
        for number in range(100):
            stub.seed("Contact", {"LastName": "Doe", "MobilePhone": mobile(number)})
        await sink.send_batch([word(number) for number in range(100)])
    assert opted_out(stub) == [True] * 100
    assert len(data_calls(stub)) <= 4


def test_it_should_name_a_field():
    with pytest.raises(ValueError, match="should name a field"):
        options(consent={"opted_out": True})


@pytest.mark.parametrize("fault", ["503", "drop", "disabled"])
async def test_a_word_waits_with_its_person_where_no_record_can_be_made_for_it_alone(fault):
    """Without `defaults` only the event's own record has all that is required."""
    async with connected(consent=CONSENT) as (stub, sink):
        stub.fault(fault, on="/SMS_Key__c")
        (outcome,) = await sink.send_batch([with_word(1)])
        assert stub.fired[fault] == 1
        assert isinstance(outcome, relay.Retry | relay.Pause)
        assert not outcome.consent
        (outcome,) = await sink.send_batch([with_word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == [True]


def of_vendor(number, contact, *, stale=False, last="opt_out"):
    """A delivery of another vendor's event, with an e-mail address in its data."""
    made = with_word(number, last, stale=stale)
    event = dataclasses.replace(
        made.event,
        type="com.vendor.form.submitted",
        data={"email": f"ann{number}@example.com"},
        contact=contact,
        consent="opt_out",
    )
    return dataclasses.replace(made, event=event)


async def test_a_contact_that_is_no_number_has_no_word_and_keeps_none_from_others():
    batch = [of_vendor(2, "ann2@example.com"), of_vendor(1, mobile(1))]
    async with connected(consent=CONSENT, key="{{ data.email }}") as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": NUMBER})
        email, number = await sink.send_batch(batch)
    assert reason(email) == (
        "consent: the contact is no phone number, as in +12125551212, to find records by"
    )
    assert isinstance(number, relay.Delivered)
    assert True in opted_out(stub)


async def test_a_key_made_of_the_contact_is_of_all_its_events():
    """Under whatever name the data has it: then what is stale is not written."""
    stale = of_vendor(2, "ann2@example.com", stale=True, last=None)
    async with connected(key="{{ data.email }}") as (stub, sink):
        (outcome,) = await sink.send_batch([stale])
        assert "stale" in outcome.reference
        assert stub.records("Contact") == []
        other = dataclasses.replace(stale.event, contact="another@example.com")
        (outcome,) = await sink.send_batch([dataclasses.replace(stale, event=other)])
        assert len(stub.records("Contact")) == 1
