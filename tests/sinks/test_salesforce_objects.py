"""Contact first, else Lead: a person is looked for in both, and a new one is made as the last."""

import asyncio
import dataclasses

import pytest
import yaml
from salesforcesink import (
    SIGN_IN,
    connected,
    contacts_module,
    data_calls,
    delivered,
    deliveries,
    delivery,
    key,
    mobile,
    options,
)
from stubs.salesforce import SalesforceStub

import relay

BOTH = {
    "objects": ["Contact", "Lead"],
    "defaults": {"LastName": "Unknown", "Company": "n/a"},
}
PHONE = {**BOTH, "match": ["key", "phone"]}
OPT_OUT = "SMS_Opt_Out__c"
CONSENT = {**BOTH, "consent": {"field": OPT_OUT}}
NUMBER = "(212) 555-0001"
DESCRIBE = ["GET sobjects/Contact/describe", "GET sobjects/Lead/describe"]
QUERY, SEARCH = "GET query", "GET search"
UPDATE, UPSERT = "PATCH composite/sobjects", "PATCH composite/sobjects/Lead/SMS_Key__c"


def lead(**values):
    return {"LastName": "Roe", "Company": "Acme", **values}


def contact(**values):
    return {"LastName": "Doe", **values}


def converted(stub, *, gone=False, of_contact=None, **of_lead):
    """A lead that has become a contact; gives the contact's id."""
    made = stub.seed("Contact", contact(**(of_contact or {})))
    stub.convert(stub.seed("Lead", lead(**of_lead)), made)
    if gone:
        stub.org.delete("Contact", made)
    return made


def word(number=1, last="opt_out"):
    return dataclasses.replace(delivery(number), record=None, last_word=last)


def counts(stub):
    return len(stub.records("Contact")), len(stub.records("Lead"))


async def test_a_new_person_is_made_as_the_last_named():
    async with connected(**BOTH) as (stub, sink):
        assert all(delivered(await sink.send_batch(deliveries(1, 2))))
        assert data_calls(stub)[:5] == [*DESCRIBE, QUERY, QUERY, UPSERT]
        await sink.send_batch(deliveries(1, 2))
        assert data_calls(stub)[6:] == [UPDATE], "who is known is not looked up again"
    assert counts(stub) == (0, 2)
    assert [each["SMS_Key__c"] for each in stub.records("Lead")] == [key(1), key(2)]


async def test_the_order_of_the_objects_decides():
    async with connected(**BOTH | {"objects": ["Lead", "Contact"]}) as (stub, sink):
        stub.seed("Contact", contact(SMS_Key__c=key(1)))
        stub.seed("Lead", lead(SMS_Key__c=key(1)))
        await sink.send_batch(deliveries(1, 2))
    assert [each["LastName"] for each in stub.records("Lead")] == ["Last1"]
    assert [each["LastName"] for each in stub.records("Contact")] == ["Doe", "Last2"]


@pytest.mark.parametrize("kind", ["Contact", "Lead"])
@pytest.mark.parametrize("had", ["key", "number"])
async def test_a_person_is_found_in_either(kind, had):
    async with connected(**PHONE) as (stub, sink):
        values = lead() if kind == "Lead" else contact()
        values |= {"SMS_Key__c": key(1)} if had == "key" else {"Phone": NUMBER}
        old = stub.seed(kind, values)
        for _ in range(2):
            (outcome,) = await sink.send_batch([delivery(1)])
            assert outcome == relay.Delivered(old)
        (found,) = stub.records(kind)
    assert sum(counts(stub)) == 1
    assert (found["SMS_Key__c"], found["LastName"]) == (key(1), "Last1")


async def test_a_key_counts_for_more_than_a_number_and_a_contact_for_more_than_a_lead():
    async with connected(**PHONE) as (stub, sink):
        stub.seed("Contact", contact(Phone=NUMBER))
        stub.seed("Lead", lead(SMS_Key__c=key(1)))
        stub.seed("Contact", contact(Phone=mobile(2)))
        stub.seed("Lead", lead(Phone=mobile(2)))
        await sink.send_batch(deliveries(1, 2))
        before = len(data_calls(stub))
        await sink.send_batch(deliveries(1, 2))
        assert data_calls(stub)[before:] == [UPDATE, UPDATE], "one call for each object"
    assert [each["LastName"] for each in stub.records("Contact")] == ["Doe", "Last2"]
    assert [each["LastName"] for each in stub.records("Lead")] == ["Last1", "Roe"]


async def test_of_two_contacts_with_the_number_none_is_taken(caplog):
    async with connected(**PHONE) as (stub, sink):
        for _ in range(2):
            stub.seed("Contact", contact(Phone=NUMBER))
        await sink.send_batch([delivery(1)])
    assert [each.get("SMS_Key__c") for each in stub.records("Contact")] == [None, None]
    assert [each["SMS_Key__c"] for each in stub.records("Lead")] == [key(1)]
    assert "2 people of Contact have its number" in caplog.text


# converted leads


@pytest.mark.parametrize("had", [{"SMS_Key__c": key(1)}, {"MobilePhone": NUMBER}])
async def test_a_converted_lead_leads_to_its_contact(had):
    async with connected(**PHONE) as (stub, sink):
        became = converted(stub, **had)
        (outcome,) = await sink.send_batch([delivery(1)])
        assert data_calls(stub)[-1] == UPDATE
        (found,) = stub.records("Contact")
        (old,) = stub.records("Lead")
    assert outcome == relay.Delivered(became)
    assert (found["LastName"], found["SMS_Key__c"]) == ("Last1", key(1))
    assert old["LastName"] == "Roe"


async def test_the_contact_of_a_converted_lead_keeps_the_key_of_another_number():
    async with connected(**PHONE) as (stub, sink):
        converted(stub, SMS_Key__c=key(1), of_contact={"SMS_Key__c": key(2)})
        for _ in range(2):
            assert all(delivered(await sink.send_batch(deliveries(1, 2))))
        (found,) = stub.records("Contact")
    assert (found["SMS_Key__c"], found["LastName"]) == (key(2), "Last2")
    assert counts(stub) == (1, 1)


async def test_a_converted_lead_whose_contact_has_gone_has_a_new_contact():
    """The lead has the key for ever, so that no other lead can have it."""
    async with connected(**BOTH) as (stub, sink):
        converted(stub, gone=True, SMS_Key__c=key(1))
        assert all(delivered(await sink.send_batch([delivery(1)])))
    assert [each["SMS_Key__c"] for each in stub.records("Contact")] == [key(1)]
    assert counts(stub) == (1, 1)


@pytest.mark.parametrize("last_word", [None, "opt_out"])
async def test_a_converted_lead_that_names_no_contact_has_a_new_one(last_word):
    consent = {"field": "SMS_Opt_Out__c"} if last_word else None
    async with connected(**BOTH, consent=consent) as (stub, sink):
        stub.convert(stub.seed("Lead", lead(SMS_Key__c=key(1))), None)
        sent = dataclasses.replace(delivery(1), last_word=last_word)
        assert all(delivered(await sink.send_batch([sent])))
    assert [each["SMS_Key__c"] for each in stub.records("Contact")] == [key(1)]
    assert counts(stub) == (1, 1)


async def test_a_lead_that_is_converted_later_is_found_again():
    async with connected(**BOTH) as (stub, sink):
        await sink.send_batch([delivery(1)])
        (old,) = stub.records("Lead")
        became = stub.seed("Contact", contact())
        stub.convert(old["Id"], became)
        (outcome,) = await sink.send_batch([delivery(1, {"Title": "Mayor"})])
        assert isinstance(outcome, relay.Retry)
        assert "looked for again" in outcome.reason
        (outcome,) = await sink.send_batch([delivery(1, {"Title": "Mayor"}, attempt=2)])
        (found,) = stub.records("Contact")
    assert outcome == relay.Delivered(became)
    assert found["Title"] == "Mayor"


async def test_with_leads_alone_a_converted_lead_is_dead_as_before():
    async with connected(**BOTH | {"objects": ["Lead"]}) as (stub, sink):
        converted(stub, SMS_Key__c=key(1))
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, relay.Reject)
    assert "objects" in outcome.reason


async def test_a_contact_that_is_deleted_later_makes_place_for_a_lead():
    async with connected(**BOTH) as (stub, sink):
        old = stub.seed("Contact", contact(SMS_Key__c=key(1)))
        await sink.send_batch([delivery(1)])
        stub.org.delete("Contact", old)
        (outcome,) = await sink.send_batch([delivery(1)])
        assert isinstance(outcome, relay.Retry)
        assert delivered(await sink.send_batch([delivery(1, attempt=2)])) == [True]
    assert counts(stub) == (0, 1)


# fields


async def test_a_field_of_only_one_object_is_left_out_of_the_other():
    values = {"Birthdate": "1990-01-02", "PostalCode": "10024", "MailingPostalCode": "10024"}
    async with connected(**BOTH, only_if_empty=["Birthdate", "Status", "LeadSource"]) as (
        stub,
        sink,
    ):
        stub.seed("Contact", contact(SMS_Key__c=key(1), Birthdate="1980-01-01"))
        batch = deliveries(1, 2, record={**values, "LeadSource": "SMS", "Company": "Inc"})
        assert all(delivered(await sink.send_batch(batch)))
        (one,), (other,) = stub.records("Contact"), stub.records("Lead")
    assert (one["Birthdate"], one["MailingPostalCode"]) == ("1980-01-01", "10024")
    assert (one["LeadSource"], other["LeadSource"]) == ("SMS", "SMS")
    assert (other["PostalCode"], other["Company"]) == ("10024", "Inc")


async def test_a_field_that_no_object_has_pauses():
    async with connected(**BOTH) as (_, sink):
        (outcome,) = await sink.send_batch([delivery(1, {"Unheard__c": "x"})])
    assert isinstance(outcome, relay.Pause)
    assert "Unheard__c" in outcome.reason


async def test_a_phone_field_of_only_one_object_is_looked_at_there():
    async with connected(**PHONE, phone_fields=["MobilePhone", "HomePhone"]) as (stub, sink):
        stub.seed("Contact", contact(HomePhone=NUMBER))
        stub.seed("Lead", lead(MobilePhone=mobile(2)))
        await sink.send_batch(deliveries(1, 2))
        (one,), (other,) = stub.records("Contact"), stub.records("Lead")
    assert (one["SMS_Key__c"], other["SMS_Key__c"]) == (key(1), key(2))
    assert "MobilePhone" not in one, "a person who is there keeps the numbers"


async def test_descriptions_are_read_again_after_a_check():
    async with connected(**BOTH) as (stub, sink):
        await sink.send_batch([delivery(1)])
        stub.fields["Lead"]["Birthdate"] = stub.fields["Contact"]["Birthdate"]
        assert await sink.check() == []
        await sink.send_batch([delivery(1, {"Birthdate": "1990-01-02"})])
        (found,) = stub.records("Lead")
    assert found["Birthdate"] == "1990-01-02"


async def test_a_check_takes_no_description_from_a_batch_on_its_way():
    class Session:
        calls = 0

        async def records(self, path, _name):
            self.calls += 1
            return [{"name": "Birthdate" if "Contact" in path else "Company"}, {"name": "Title"}]

    session = Session()
    known = contacts_module.Fields(session, ("Contact", "Lead"))
    await known.learn()
    known.renew()
    assert known.of("Lead", ["Birthdate", "Title", "company"]) == ["Title", "company"]
    await asyncio.gather(known.learn(), known.learn())
    assert session.calls == 4
    assert known.of("Contact", ["Birthdate", "Company", "Unheard"]) == ["Birthdate", "Unheard"]


async def test_while_the_descriptions_cannot_be_read_nothing_is_written():
    async with connected(**BOTH) as (stub, sink):
        stub.fault("503", on="/describe")
        with pytest.raises(relay.Retry):
            await sink.send_batch([delivery(1)])
        assert stub.fired["503"] == 1
        assert counts(stub) == (0, 0)
        assert delivered(await sink.send_batch([delivery(1)])) == [True]


# faults


@pytest.mark.parametrize("on", ["/query", "/search"])
async def test_nobody_is_made_while_somebody_may_be_there(on):
    async with connected(**PHONE) as (stub, sink):
        stub.seed("Contact", contact(Phone=NUMBER))
        stub.fault("503", on=on)
        with pytest.raises(relay.Retry):
            await sink.send_batch([delivery(1)])
        assert stub.fired["503"] == 1
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
    assert counts(stub) == (1, 0)


async def test_a_lost_answer_leaves_one_record_for_each():
    async with connected(**PHONE) as (stub, sink):
        stub.seed("Contact", contact(Phone=NUMBER))
        stub.fault("drop_after_commit", on="/composite/", count=2)
        outcomes = await sink.send_batch(deliveries(1, 2))
        assert stub.fired["drop_after_commit"] == 2
        assert delivered(outcomes) == [False, False]
        assert all(delivered(await sink.send_batch(deliveries(1, 2, attempt=2))))
    assert counts(stub) == (1, 1)


@pytest.mark.parametrize("kind", ["Contact", "Lead"])
async def test_the_record_that_a_duplicate_rule_finds_is_used(kind):
    """A rule for leads may look at contacts, too."""
    async with connected(**BOTH, duplicates="use_match") as (stub, sink):
        stub.duplicate_rule("Lead", "Email", compares=kind)
        values = lead() if kind == "Lead" else contact()
        old = stub.seed(kind, values | {"Email": "a@b.example"})
        record = {"Email": "a@b.example", "Company": "Inc"}
        (outcome,) = await sink.send_batch([delivery(1, record)])
        (found,) = stub.records(kind)
    assert outcome == relay.Delivered(old)
    assert (found["SMS_Key__c"], found["LastName"]) == (key(1), "Last1")
    assert sum(counts(stub)) == 1


# consent


async def test_a_word_is_written_to_every_record_of_both_objects():
    async with connected(**CONSENT) as (stub, sink):
        stub.seed("Contact", contact(MobilePhone=NUMBER))
        stub.seed("Contact", contact(SMS_Key__c=key(1)))
        stub.seed("Lead", lead(Phone="+1 212 555 0001"))
        stub.seed("Lead", lead(SMS_Key__c=key(1)))
        became = converted(stub, MobilePhone=NUMBER)
        stub.seed("Contact", contact(MobilePhone=mobile(2)))
        stub.seed("Lead", lead(MobilePhone=mobile(2)))
        (outcome,) = await sink.send_batch([word(1)])
        contacts = {each["Id"]: each[OPT_OUT] for each in stub.records("Contact")}
        leads = [each[OPT_OUT] for each in stub.records("Lead")]
    assert isinstance(outcome, relay.Delivered)
    assert contacts[became]
    assert list(contacts.values()) == [True, True, True, False]
    assert leads == [True, True, False, False], "the third cannot be written, the last has another"


async def test_a_word_of_nobody_makes_a_lead():
    async with connected(**CONSENT) as (stub, sink):
        assert delivered(await sink.send_batch([word(1)])) == [True]
        (found,) = stub.records("Lead")
    assert counts(stub) == (0, 1)
    assert (found["SMS_Key__c"], found["MobilePhone"], found[OPT_OUT]) == (key(1), mobile(1), True)


async def test_a_word_of_a_converted_lead_whose_contact_has_gone_makes_a_contact():
    async with connected(**CONSENT) as (stub, sink):
        converted(stub, gone=True, SMS_Key__c=key(1))
        assert delivered(await sink.send_batch([word(1)])) == [True]
        (found,) = stub.records("Contact")
    assert (found["SMS_Key__c"], found[OPT_OUT]) == (key(1), True)


@pytest.mark.parametrize("kind", ["Contact", "Lead"])
async def test_a_word_and_its_event_land_on_one_record(kind):
    async with connected(**CONSENT, match=["key", "phone"]) as (stub, sink):
        if kind == "Contact":
            stub.seed("Contact", contact(Phone=NUMBER))
        with_word = dataclasses.replace(delivery(1, {"Title": "Mayor"}), last_word="opt_out")
        assert delivered(await sink.send_batch([with_word])) == [True]
        (found,) = stub.records(kind)
    assert sum(counts(stub)) == 1
    assert (found[OPT_OUT], found["Title"]) == (True, "Mayor")


async def test_a_hundred_words_cost_few_calls():
    async with connected(**CONSENT) as (stub, sink):
        for number in range(50):
            stub.seed("Contact", contact(MobilePhone=mobile(number)))
            stub.seed("Lead", lead(MobilePhone=mobile(number + 50)))
        await sink.send_batch([word(number) for number in range(100)])
        calls = data_calls(stub)[len(DESCRIBE) :]
    assert [each[OPT_OUT] for each in stub.records("Contact") + stub.records("Lead")] == [
        True
    ] * 100
    assert calls == [QUERY, QUERY, SEARCH, UPDATE, UPDATE]


async def test_a_lead_that_refuses_keeps_no_word_from_the_contact():
    async with connected(**CONSENT) as (stub, sink):
        stub.seed("Contact", contact(MobilePhone=NUMBER))
        stub.seed("Lead", lead(MobilePhone=NUMBER))
        stub.fault_row("FIELD_CUSTOM_VALIDATION_EXCEPTION", kind="Lead")
        (outcome,) = await sink.send_batch([word(1)])
        assert stub.fired["FIELD_CUSTOM_VALIDATION_EXCEPTION"] == 1
        (found,) = stub.records("Contact")
    assert isinstance(outcome, relay.Reject)
    assert "1 of 2 records" in outcome.reason
    assert found[OPT_OUT]


# campaigns


async def test_both_become_members_and_a_converted_one_stays_one():
    stub = SalesforceStub()
    campaign = {"id": stub.seed("Campaign", {"Name": "Autumn"}), "status": "{{ data.message }}"}
    stub.seed("Contact", contact(SMS_Key__c=key(1)))
    for status in ("Sent", "Responded"):  # the second sink remembers nothing
        async with connected(stub, **BOTH, campaign=campaign) as (_, sink):
            batch = [delivery(1, message=status), delivery(2, message=status)]
            assert all(delivered(await sink.send_batch(batch)))
    (person,), (old,) = stub.records("Contact"), stub.records("Lead")
    assert [
        (each.get("ContactId"), each.get("LeadId"), each["Status"])
        for each in stub.records("CampaignMember")
    ] == [(person["Id"], None, "Responded"), (None, old["Id"], "Responded")]
    became = stub.seed("Contact", contact())
    stub.convert(old["Id"], became)
    async with connected(stub, **BOTH, campaign=campaign) as (_, sink):
        assert all(delivered(await sink.send_batch([delivery(2, message="Sent")])))
    _, member = stub.records("CampaignMember")
    assert (member["ContactId"], member["Status"]) == (became, "Sent")


# activities

EVENTS = {
    "object": "SMS_Event__c",
    "external_id": "Event_Id__c",
    "contact": {"Contact": "Contact__r", "Lead": "Lead__r"},
    "map": {"Message__c": "{{ data.message }}"},
}


@pytest.mark.parametrize("activity", [EVENTS, {"object": "Task"}], ids=["custom", "Task"])
async def test_an_activity_points_to_the_record_that_its_event_was_written_to(activity):
    async with connected(**BOTH, activity=activity) as (stub, sink):
        assert await sink.check() == []
        stub.seed("Contact", contact(SMS_Key__c=key(1)))
        became = converted(stub, SMS_Key__c=key(3), of_contact={"SMS_Key__c": key(4)})
        for stale in (False, True):
            batch = deliveries(1, 2, 3, stale=stale)
            assert all(delivered(await sink.send_batch(batch)))
        whose = [stub.records("Contact")[0]["Id"], stub.records("Lead")[-1]["Id"], became]
        made = stub.records(activity["object"])
    if activity is EVENTS:
        found = [(each.get("Contact__c"), each.get("Lead__c")) for each in made]
        assert found == [(whose[0], None), (None, whose[1]), (whose[2], None)]
    else:
        assert [each["WhoId"] for each in made] == whose


async def test_check_says_which_lookup_of_an_activity_is_missing():
    activity = EVENTS | {"contact": {"Contact": "Contact__r", "Lead": "Person__r"}}
    async with connected(**BOTH, activity=activity) as (_, sink):
        (problem,) = await sink.check()
    assert problem.startswith("activity.contact: SMS_Event__c has no relationship Person__r")
    assert "Lookup Relationship to Lead" in problem


# the example


async def test_the_example_makes_leads_and_keeps_contacts(root):
    text = (root / "config/examples/salesforce-leads.yaml").read_text(encoding="utf-8")
    crm = yaml.safe_load(text)["sinks"]["crm"]
    values = {n: v for n, v in crm["options"].items() if n not in {"login_url", *SIGN_IN}}
    async with connected(columns=tuple(crm["map"]), **values) as (stub, sink):
        assert await sink.check() == []
        stub.seed("Contact", contact(Phone=NUMBER, LeadSource="Web"))
        record = {"PostalCode": "1", "MailingPostalCode": "1", "LeadSource": "SMS", "LastName": ...}
        assert all(delivered(await sink.send_batch(deliveries(1, 2, record=record))))
        assert all(delivered(await sink.send_batch([word(1), word(2)])))
        (old,), (new,) = stub.records("Contact"), stub.records("Lead")
        tasks = [each["WhoId"] for each in stub.records("Task")]
    assert (old["LastName"], old["LeadSource"], old["MailingPostalCode"]) == ("Doe", "Web", "1")
    assert (new["LastName"], new["Company"], new["PostalCode"]) == ("Unknown", "Unknown", "1")
    assert (new["LeadSource"], tasks) == ("SMS", [old["Id"], new["Id"]])
    assert (old[OPT_OUT], new[OPT_OUT]) == (True, True)


# check, setup, options


async def test_check_names_the_object_of_each_problem():
    stub = SalesforceStub()
    for name in ("SMS_Key__c", OPT_OUT):
        del stub.fields["Lead"][name]
    values = {**PHONE, "phone_fields": ["Fax", "HomePhone"], "consent": {"field": OPT_OUT}}
    columns = ("FirstName", "Birthdate", "Company", "Unheard__c")
    async with connected(stub, columns=columns, **values) as (_, sink):
        found = [problem.partition(";")[0].partition(" (is")[0] for problem in await sink.check()]
    assert found == [
        "map.Unheard__c: Contact has no field Unheard__c",
        "phone_fields: Contact has no field Fax",
        "external_id: Lead has no field SMS_Key__c",
        "map.Unheard__c: Lead has no field Unheard__c",
        f"consent.{OPT_OUT}: Lead has no field {OPT_OUT}",
        "phone_fields: Lead has no field Fax",
    ]


async def test_check_says_where_an_object_has_no_phone_field():
    async with connected(**PHONE, phone_fields=["HomePhone"]) as (_, sink):
        (problem,) = await sink.check()
    assert problem.startswith("phone_fields: Lead has none of them")


async def test_where_all_is_well_check_says_nothing():
    async with connected(**PHONE, columns=("Birthdate", "PostalCode", "Title")) as (stub, sink):
        assert await sink.check() == []
    assert data_calls(stub) == DESCRIBE


async def test_the_backfill_goes_over_both():
    async with connected(**BOTH) as (stub, sink):
        stub.seed("Contact", contact(MobilePhone=NUMBER))
        stub.seed("Lead", lead(MobilePhone=mobile(2)))
        converted(stub, MobilePhone=mobile(3))
        told = await sink.setup(backfill=True)
    assert told == ["Contact: 1 people have got their key", "Lead: 1 people have got their key"]
    assert stub.records("Contact")[0]["SMS_Key__c"] == key(1)
    assert [each.get("SMS_Key__c") for each in stub.records("Lead")] == [key(2), None]


async def test_the_backfill_leaves_out_an_object_without_a_phone_field():
    async with connected(**BOTH, phone_fields=["HomePhone"]) as (stub, sink):
        stub.seed("Contact", contact(HomePhone=NUMBER))
        told = await sink.setup(backfill=True)
    assert told == [
        "Contact: 1 people have got their key",
        "Lead: no keys are filled in: it has none of phone_fields",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"object": "Lead", "objects": ["Contact", "Lead"]}, "either object or objects"),
        ({"objects": []}, "should name one object, or Contact and Lead"),
        ({"objects": ["Contact", "Contact"]}, "Contact and Lead"),
        ({"objects": ["Contact", "Account"]}, "Contact and Lead"),
        (
            {"objects": [*BOTH["objects"]], "activity": EVENTS | {"contact": "A__r"}},
            "to each object",
        ),
        ({"activity": EVENTS}, "the relationship alone"),
        ({"objects": ["Account"], "campaign": {"id": "701000000000001"}}, "campaign"),
    ],
)
def test_options_that_do_not_fit_are_mistakes(values, expected):
    with pytest.raises(ValueError, match=expected):
        options(**values)


async def test_one_in_the_list_is_the_same_as_that_object():
    calls = []
    for values in ({"object": "Lead"}, {"objects": ["Lead"]}):
        async with connected(**values, defaults={"Company": "n/a"}) as (stub, sink):
            assert delivered(await sink.send_batch([delivery(1)])) == [True]
        calls.append(data_calls(stub))
    assert calls[0] == calls[1] == [UPSERT, UPSERT]
